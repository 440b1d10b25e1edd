"""What every face detector offers, and the suppression of overlapping boxes that they share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import cv2
import numpy as np

from errors import InputError

SMALLEST_SIZE = 32  # pixels


class FaceDetector(ABC):
    """Finds faces in frames."""

    @abstractmethod
    def detect(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Detect in N frames of one size, each (H, W, 3), uint8 BGR.

        Returns N float32 arrays (n, 5): x1, y1, x2, y2 in pixels of the frame, neither rounded nor clipped to
        it, and the score in [0, 1]; best first, (0, 5) where there is no face.
        """


def check_size(size: int) -> None:
    """Raise InputError for a size that `shrink` cannot make use of."""
    if size < 0 or 0 < size < SMALLEST_SIZE:
        raise InputError(
            f"face detection size {size} is out of range: use 0 (full size) or at least {SMALLEST_SIZE} pixels"
        )


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """`image` (H, W, 3) with its longer side at most `size` pixels (0: as it is), aspect kept to the pixel."""
    height, width = image.shape[:2]
    longer = max(height, width)
    if not size or longer <= size:
        return image
    new_width, new_height = (max(1, round(side * size / longer)) for side in (width, height))
    return cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA)


def scale_up(faces: np.ndarray, seen: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Faces (n, 5) found in `seen`, a shrunk picture of `image`, in pixels of `image`; changes and returns `faces`.

    Columns after the score are x and y of landmarks.
    """
    factor = np.divide(image.shape[1::-1], seen.shape[1::-1], dtype=np.float32)
    faces[:, :4] *= np.tile(factor, 2)
    faces[:, 5:] *= np.tile(factor, (faces.shape[1] - 5) // 2)
    return faces


def non_maximum_suppression(detections: np.ndarray, max_iou: float, extent: float = 0.0) -> np.ndarray:
    """Drop every box that overlaps a better one by more than `max_iou`.

    `detections` (n, 5): x1, y1, x2, y2, score. `extent` is added to each width and height: 1 where coordinates
    name the first and the last pixel inside, 0 where they name edges. Returns what is left, best first.
    """
    rest = detections[np.argsort(-detections[:, 4], kind="stable")]
    kept = []
    while len(rest):
        best, rest = rest[0], rest[1:]
        kept.append(best)
        rest = rest[_iou(best, rest, extent) <= max_iou]
    return np.stack(kept) if kept else rest


def _iou(box: np.ndarray, others: np.ndarray, extent: float) -> np.ndarray:
    """Intersection over union of one box with each of `others` (n, 4 or more) -> (n,)."""
    top_left = np.maximum(box[:2], others[:, :2])
    bottom_right = np.minimum(box[2:4], others[:, 2:4])
    intersection = np.prod(np.maximum(bottom_right - top_left + extent, 0), axis=1)
    area = np.prod(box[2:4] - box[:2] + extent)
    areas = np.prod(others[:, 2:4] - others[:, :2] + extent, axis=1)
    return intersection / (area + areas - intersection)
