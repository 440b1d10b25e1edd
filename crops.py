"""Face crops: their shape, how they are cut out of frames, and how they come to a network's size.

Networks of the published size, 96 x 96, take the box that the detector found, squeezed into the square, as published.
Networks of any other size take a box of their own aspect: the detector's, widened or heightened about its middle. Where
that reaches over the frame's edge, the outermost pixels are repeated, so that a face has the same place in every crop.
"""

import cv2
import numpy as np

Box = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels, x2 and y2 exclusive; it may reach over the frame's edges."""

PUBLISHED_SIZE = (96, 96)  # (height, width) in pixels
ROUNDING = 1.5  # pixels by which a crop's side may be off its aspect and still has it


def with_aspect(box: Box, img_size: tuple[int, int]) -> Box:
    """The smallest box about the same middle that holds `box` and has the aspect of `img_size` (height, width).

    For the published size it is `box` itself. It may reach over the frame's edges.
    """
    if img_size == PUBLISHED_SIZE:
        return box
    x1, y1, x2, y2 = box
    height, width = y2 - y1, x2 - x1
    higher, wider = -(-width * img_size[0] // img_size[1]), -(-height * img_size[1] // img_size[0])
    if higher > height:
        y1 -= (higher - height) // 2
        return x1, y1, x2, y1 + higher
    x1 -= (wider - width) // 2
    return x1, y1, x1 + wider, y2


def inside(box: Box, frame_size: tuple[int, int]) -> Box:
    """The part of a box that lies in a frame of (height, width)."""
    height, width = frame_size
    x1, y1, x2, y2 = box
    return max(0, x1), max(0, y1), min(width, x2), min(height, y2)


def cut(frame: np.ndarray, box: Box) -> np.ndarray:
    """The pixels of a box that overlaps the frame (H, W, 3): (y2 - y1, x2 - x1, 3).

    A view where the box lies in the frame, else a copy in which the frame's outermost pixels are repeated.
    """
    x1, y1, x2, y2 = box
    left, top, right, bottom = inside(box, frame.shape[:2])
    part = frame[top:bottom, left:right]
    if (left, top, right, bottom) == tuple(box):
        return part
    return cv2.copyMakeBorder(part, top - y1, y2 - bottom, left - x1, x2 - right, cv2.BORDER_REPLICATE)


def put_back(frame: np.ndarray, window: np.ndarray, box: Box) -> None:
    """Write pixels into a box of the frame, in place: the part that lies in it, if any does."""
    x1, y1, _, _ = box
    left, top, right, bottom = inside(box, frame.shape[:2])
    if top < bottom and left < right:
        frame[top:bottom, left:right] = window[top - y1 : bottom - y1, left - x1 : right - x1]


def fit(crop: np.ndarray, img_size: tuple[int, int]) -> np.ndarray:
    """A crop (h, w, 3) uint8 at a network's size (height, width).

    For the published size it is resized bilinearly, whatever its aspect, as published. For others its middle part of
    their aspect is taken, all of it where the aspect fits, and averaged where that is larger.
    """
    height, width = img_size
    if img_size == PUBLISHED_SIZE:
        return cv2.resize(crop, (width, height))
    crop = middle(crop, img_size)
    if crop.shape[:2] == img_size:
        return crop
    smaller = crop.shape[0] > height
    return cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def middle(crop: np.ndarray, img_size: tuple[int, int]) -> np.ndarray:
    """The largest part of the aspect of `img_size` in a crop's middle; the whole crop if its aspect fits."""
    height, width = crop.shape[:2]
    if abs(height * img_size[1] / img_size[0] - width) <= ROUNDING:
        return crop
    high, wide = min(height, width * img_size[0] / img_size[1]), min(width, height * img_size[1] / img_size[0])
    high, wide = max(1, round(high)), max(1, round(wide))
    top, left = (height - high) // 2, (width - wide) // 2
    return crop[top : top + high, left : left + wide]
