"""Boxes of S3FD: from offsets to pixels, and the suppression of overlapping ones."""

import numpy as np

from face_detection.detection.core import non_maximum_suppression

VARIANCES = (0.1, 0.2)  # of centres and of sizes, in SSD's box coding
LAST_PIXEL = 1.0  # corners name the first and the last pixel inside


def anchors(rows: np.ndarray, columns: np.ndarray, stride: int) -> np.ndarray:
    """The anchor of each position of a level: (n, 4) centre x, centre y, width, height in pixels."""
    size = np.full(len(rows), 4 * stride)
    return np.stack([stride / 2 + columns * stride, stride / 2 + rows * stride, size, size], axis=1)


def decode(offsets: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """Offsets (n, 4) from anchors (n, 4; centre and size) -> corners (n, 4) x1, y1, x2, y2."""
    centres = priors[:, :2] + offsets[:, :2] * VARIANCES[0] * priors[:, 2:]
    sizes = priors[:, 2:] * np.exp(offsets[:, 2:] * VARIANCES[1])
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)


def nms(detections: np.ndarray, max_iou: float) -> np.ndarray:
    """Drop each of (n, 5) that overlaps a better one by more than `max_iou`; the others, best first."""
    return non_maximum_suppression(detections, max_iou, extent=LAST_PIXEL)
