"""The generated face back into the frame: pasted as published, or melted into it so that no seam shows."""

from functools import lru_cache

import cv2
import numpy as np

from face_detection.api import Box

# The feather mask, in fractions of the box. Only the lower half of a face is synthesised; the upper half is the
# network's copy at its own low resolution, so the original stays above and the two melt between eyes and lips.
FADE_IN_TOP, FULL_FROM = 0.38, 0.60  # rows: weight 0 above the first, 1 below the second (nose tip)
SIDE_FADE = 0.16  # of the width, at the left and right edge
JAW_FROM, JAW_MARGIN = 0.70, 0.22  # rows from which the sides draw in, and how far (of the width) at the lower edge
BOTTOM_FADE = 0.12  # of the height, at the lower edge: chin and neck
COLOUR_GRID = 24  # cells a side on which colour differences are compared: light and tint, no shapes
COLOUR_REACH = 3.0  # cells: how far a difference at the rim is carried into the middle
CACHED_MASKS = 64  # box sizes; they change by a pixel or two from frame to frame


def paste(frame: np.ndarray, face: np.ndarray, box: Box) -> None:
    """Put `face` over `box` of `frame`, in place: resized bilinearly, hard edges. The published behaviour.

    Args:
        frame: (H, W, 3) uint8 BGR.
        face: (h, w, 3) uint8 BGR, of any size.
        box: x1, y1, x2, y2 in pixels, inside the frame, x2 and y2 exclusive.
    """
    x1, y1, x2, y2 = box
    frame[y1:y2, x1:x2] = cv2.resize(face, (x2 - x1, y2 - y1))


def feather(frame: np.ndarray, face: np.ndarray, box: Box) -> None:
    """Melt `face` into `box` of `frame`, in place: full weight on mouth and jaw, none at the edges and the eyes.

    Arguments as for `paste`. Pixels where the weight is 0 keep their values exactly. The face first takes on the
    frame's colours (`match_colours`), so that no tint of the generator shows.
    """
    x1, y1, x2, y2 = box
    height, width = frame.shape[:2]
    original = cv2.resize(frame[y1:y2, x1:x2], face.shape[1::-1], interpolation=cv2.INTER_AREA)
    face = match_colours(face, original)
    weights = feather_mask(y2 - y1, x2 - x1, (x1 == 0, y2 == height, x2 == width))
    enlarge = (y2 - y1) * (x2 - x1) > face.shape[0] * face.shape[1]
    face = cv2.resize(face, (x2 - x1, y2 - y1), interpolation=cv2.INTER_CUBIC if enlarge else cv2.INTER_AREA)
    top = int(FADE_IN_TOP * (y2 - y1))  # rows above have weight 0
    region = frame[y1 + top : y2, x1:x2]
    region[:] = cv2.blendLinear(face[top:], np.ascontiguousarray(region), weights[top:], 1 - weights[top:])


def match_colours(face: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Take smooth colour differences to the original out of a generated face.

    The difference is known where the original stays visible (upper face and rim) and carried from there over the mouth
    by a normalised blur, as a membrane would: light and tint are corrected, shapes are not.

    Args:
        face, original: (h, w, 3) uint8 BGR of one size.

    Returns:
        (h, w, 3) uint8 BGR.
    """
    known = 1 - feather_mask(*face.shape[:2])
    difference = (original.astype(np.float32) - face) * known[..., None]
    weight, difference = (_blurred_on_grid(values) for values in (known, difference))
    correction = difference / np.maximum(weight, 1e-3)[..., None]
    return np.clip(np.rint(face + cv2.resize(correction, face.shape[1::-1])), 0, 255).astype(np.uint8)


def _blurred_on_grid(values: np.ndarray) -> np.ndarray:
    cells = cv2.resize(values, (COLOUR_GRID, COLOUR_GRID), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(cells, (0, 0), COLOUR_REACH, borderType=cv2.BORDER_REPLICATE)


@lru_cache(maxsize=CACHED_MASKS)
def feather_mask(height: int, width: int, at_frame_edge: tuple[bool, bool, bool] = (False,) * 3) -> np.ndarray:
    """Weights of the generated face over a box: (height, width) float32 in [0, 1], not to be written to.

    `at_frame_edge`: whether the box touches the frame's left, lower and right edge, where there is nothing to melt
    into and no fade is made.
    """
    left_edge, bottom_edge, right_edge = at_frame_edge
    rows = (np.arange(height, dtype=np.float32) + 0.5) / height
    columns = (np.arange(width, dtype=np.float32) + 0.5) / width
    vertical = _smoothstep((rows - FADE_IN_TOP) / (FULL_FROM - FADE_IN_TOP))
    if not bottom_edge:
        vertical = vertical * _smoothstep((1 - rows) / BOTTOM_FADE)
    margin = JAW_MARGIN * np.square(np.clip((rows - JAW_FROM) / (1 - JAW_FROM), 0, 1))[:, None]
    mask = np.repeat(vertical[:, None], width, axis=1)
    if not left_edge:
        mask *= _smoothstep((columns - margin) / SIDE_FADE)
    if not right_edge:
        mask *= _smoothstep((1 - columns - margin) / SIDE_FADE)
    mask = mask.astype(np.float32)
    mask.setflags(write=False)
    return mask


def _smoothstep(t: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, between them without a kink at either end."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


BLENDS = {"feather": feather, "paste": paste}
