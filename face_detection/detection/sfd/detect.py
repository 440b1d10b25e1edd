"""From the network's maps to detections: a pure function of its 12 outputs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from face_detection.detection.sfd.bbox import anchors, decode, nms

MIN_CANDIDATE_SCORE = 0.05
MAX_IOU = 0.3
MIN_SCORE = 0.5


def decode_detections(maps: Sequence[ArrayLike], min_score: float = MIN_SCORE) -> list[np.ndarray]:
    """Detections of a batch of B images from the network's raw maps.

    `maps`: 12 arrays or tensors, for each level the confidences (B, 2, h, w) before softmax, background first, and
    the box offsets (B, 4, h, w). Positions that score above 0.05 are candidates; those that overlap a better one by
    an IoU of more than 0.3 are dropped, then those that do not score above `min_score`.

    Returns B float32 arrays (n, 5): x1, y1, x2, y2 in pixels of the image, which they may leave, and the score; best
    first, (0, 5) where there is no face.
    """
    maps = [_to_numpy(level_map) for level_map in maps]
    levels = [
        _candidates(confidences, offsets, stride=2 ** (level + 2))
        for level, (confidences, offsets) in enumerate(zip(maps[::2], maps[1::2], strict=True))
    ]
    images = np.concatenate([image for image, _ in levels])
    candidates = np.concatenate([detections for _, detections in levels])
    survivors = [nms(candidates[images == image], MAX_IOU) for image in range(len(maps[0]))]
    return [faces[faces[:, 4] > min_score] for faces in survivors]


def _candidates(confidences: np.ndarray, offsets: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """One level's candidates: the image in the batch that each is in, (n,), and x1, y1, x2, y2, score (n, 5)."""
    scores = expit(confidences[:, 1] - confidences[:, 0])  # softmax over two channels
    images, rows, columns = np.nonzero(scores > MIN_CANDIDATE_SCORE)
    boxes = decode(offsets[images, :, rows, columns], anchors(rows, columns, stride))
    detections = np.concatenate([boxes, scores[images, rows, columns, None]], axis=1)
    return images, detections.astype(np.float32)


def _to_numpy(level_map: ArrayLike) -> np.ndarray:
    if hasattr(level_map, "detach"):
        level_map = level_map.detach().float().cpu()
    return np.asarray(level_map, dtype=np.float32)
