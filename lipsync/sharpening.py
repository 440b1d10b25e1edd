"""Contrast-adaptive sharpening of a generated face, which comes from fewer pixels than the frame around it has."""

from collections.abc import Callable

import cv2
import numpy as np

Enhance = Callable[[np.ndarray, float], np.ndarray]
"""(face (h, w, 3) uint8 at the box's size, how many times it was enlarged) -> the same shape, finished."""

STRENGTH = 1.6  # of the detail that is added where contrast is low
REACH = 0.75  # generated pixels: standard deviation of the blur whose difference is the detail
LIMIT = 1.0  # generated pixels: how far around a pixel brightness is looked at that it may not leave


def sharpen(face: np.ndarray, enlargement: float = 1.0) -> np.ndarray:
    """Steepen edges; brightness never leaves the range that is around a pixel, so that nothing rings.

    Little is added where the contrast is high already, as in AMD's FidelityFX CAS (Contrast Adaptive Sharpening,
    2019): the amount is the root of the headroom to black or white over the brightest value around. All colours of a
    pixel change by the same, so that no fringes come up.

    Args:
        face: (h, w, 3) uint8 BGR.
        enlargement: how many times larger than generated it is, by the side; edges are that much wider.

    Returns (h, w, 3) uint8 BGR.
    """
    scale = max(1.0, enlargement)
    grey = cv2.cvtColor(face, cv2.COLOR_BGR2GRAY)
    side = 2 * max(1, round(LIMIT * scale)) + 1
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    low, high = (change(grey, around).astype(np.float32) for change in (cv2.erode, cv2.dilate))
    grey = grey.astype(np.float32)
    detail = grey - cv2.GaussianBlur(grey, (0, 0), REACH * scale, borderType=cv2.BORDER_REPLICATE)
    amount = np.sqrt(np.minimum(low, 255 - high) / np.maximum(high, 1))
    change = np.clip(grey + STRENGTH * amount * detail, low, high) - grey
    return cv2.add(face, cv2.merge([np.rint(change).astype(np.int16)] * 3), dtype=cv2.CV_8U)
