"""Boxes over time."""

import numpy as np

SMOOTHING_FRAMES = 5  # a box becomes the mean of its own and the next four frames'


def smooth_boxes(boxes: np.ndarray, frames: int = SMOOTHING_FRAMES) -> np.ndarray:
    """Average each box over the frames that follow, as the published system does.

    In place on a copy, so that the last boxes, which share the final window, average ones that are smoothed already;
    fractions are cut since boxes are whole pixels.

    Args:
        boxes: (n, 4) integers.

    Returns:
        (n, 4) integers.
    """
    boxes = np.array(boxes)
    for i in range(len(boxes)):
        # Under `frames` boxes in all, the difference is negative and counts from the end: as published.
        window = boxes[i : i + frames] if i + frames <= len(boxes) else boxes[len(boxes) - frames :]
        boxes[i] = window.mean(axis=0)
    return boxes
