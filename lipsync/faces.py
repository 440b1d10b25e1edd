"""Boxes over time: detections of a whole video into one box a frame, as the published system makes them.

Pads, limits, smoothing and truncation are the published ones; tracks and gaps are this toolkit's.
"""

from collections.abc import Sequence

import numpy as np

from face_detection.api import Box
from lipsync.tracking import FollowedFace

SMOOTHING_FRAMES = 5  # published temporal window
GAP_SECONDS = 0.5  # longest absence of a face that is bridged by interpolation


def boxes_over_time(
    followed: FollowedFace,
    frame_size: tuple[int, int],
    pads: tuple[int, int, int, int],
    smooth: bool = True,
    longest_gap: int = 0,
) -> list[Box | None]:
    """One box a frame: gaps bridged, whole pixels, padded, inside the frame, smoothed.

    Args:
        followed: the face's detections.
        frame_size: (height, width) in pixels.
        pads: pixels to grow the box by: top, bottom, left, right; negative shrinks.
        smooth: average over time. Never across a stretch without a face or a cut.
        longest_gap: frames.

    Returns:
        (x1, y1, x2, y2) per frame, x2 and y2 exclusive, or None where the frame has no usable face.
    """
    height, width = frame_size
    top, bottom, left, right = pads
    boxes, tracks = _bridge_gaps(followed, longest_gap)
    present = tracks >= 0
    whole = np.clip(np.nan_to_num(boxes), 0, None).astype(np.int64)
    whole[:, 0] = np.clip(whole[:, 0] - left, 0, width)
    whole[:, 1] = np.clip(whole[:, 1] - top, 0, height)
    whole[:, 2] = np.clip(whole[:, 2] + right, 0, width)
    whole[:, 3] = np.clip(whole[:, 3] + bottom, 0, height)
    present &= (whole[:, 2] > whole[:, 0]) & (whole[:, 3] > whole[:, 1])
    if smooth:
        for first, end in spans(np.where(present, tracks, -1)):
            whole[first:end] = smooth_boxes(whole[first:end])
    return [tuple(int(side) for side in box) if ok else None for box, ok in zip(whole, present, strict=True)]


def smooth_boxes(boxes: np.ndarray, window: int = SMOOTHING_FRAMES) -> np.ndarray:
    """Average each box with those after it, as published: in place over integers.

    box[i] = mean(box[i : i + window]), fractions cut off; the last ones take the final `window` boxes, of which the
    earlier ones are smoothed already. (n, 4) integers in and out.
    """
    boxes = boxes.copy()
    for i in range(len(boxes)):
        first = min(i, len(boxes) - window)  # negative for short videos: counted from the end, as published
        boxes[i] = boxes[first:][:window].mean(axis=0)
    return boxes


def spans(labels: Sequence[int]) -> list[tuple[int, int]]:
    """Stretches [first, end) of equal labels; those of negative labels are left out."""
    edges = [0, *(np.flatnonzero(np.diff(labels)) + 1), len(labels)]
    return [(int(a), int(b)) for a, b in zip(edges, edges[1:], strict=False) if b > a and labels[a] >= 0]


def _bridge_gaps(followed: FollowedFace, longest_gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and tracks with absences of up to `longest_gap` frames between sightings of one track interpolated."""
    boxes, tracks = followed.boxes.astype(np.float64), followed.tracks.copy()
    seen = np.flatnonzero(followed.present)
    for before, after in zip(seen, seen[1:], strict=False):
        gap = after - before - 1
        if 0 < gap <= longest_gap and tracks[before] == tracks[after]:
            along = np.arange(1, gap + 1)[:, None] / (gap + 1)
            boxes[before + 1 : after] = boxes[before] + along * (boxes[after] - boxes[before])
            tracks[before + 1 : after] = tracks[before]
    return boxes, tracks
