"""The generated face back into the frame: pasted as published, or melted into it so that no seam shows."""

from collections.abc import Callable
from functools import lru_cache, partial

import cv2
import numpy as np

from crops import Box, cut, fit, put_back
from errors import InputError
from lipsync.sharpening import Enhance, sharpen

Mask = Callable[..., np.ndarray]
"""(height, width, at_frame_edge) -> weights (height, width) in [0, 1]; see `feather_mask`."""
Compositor = Callable[..., None]
"""(frame, face, box[, reference]) -> None; see `paste`."""

# The feather mask, in fractions of the box. Only the lower half of a face is synthesised; the upper half is the
# network's copy at its own low resolution, so the original stays above and the two melt between eyes and lips.
FADE_IN_TOP, FULL_FROM = 0.38, 0.60  # rows: weight 0 above the first, 1 below the second (nose tip)
SIDE_FADE = 0.16  # of the width, at the left and right edge
JAW_FROM, JAW_MARGIN = 0.70, 0.22  # rows from which the sides draw in, and how far (of the width) at the lower edge
BOTTOM_FADE = 0.12  # of the height, at the lower edge: chin and neck
# Where a reference's lower half is dark: from which share of its usual brightness on, and entirely from which; and how
# many grey levels a generator may make such places lighter.
DARK_FROM, DARK_FULLY, LIGHTER = 0.75, 0.55, 15.0
TINT = 0.5  # of the changes of colour that a generator makes about its reference: both more and less are less true
# What of a reference says which colours its picture has: shares of its height and width, without hair and clothes; of
# the middle brightness, from which on a pixel counts; the share at either end that does not; and how far beyond them
# colours may go, over brightness.
FACE_ROWS, FACE_COLUMNS, LIT, FEW, BEYOND = (1 / 8, 7 / 8), (1 / 6, 5 / 6), 0.5, 0.005, 0.02
DARK = 16.0  # grey levels: below it, colours are noise
FROM_CHROMA = np.array(((0, -0.714, 1.402), (1.772, -0.344, 0)), np.float32)  # Cr, Cb -> BGR (BT.601)
COLOUR_GRID = 24  # cells a side on which colour differences are compared: light and tint, no shapes
COLOUR_DIFFERENCE = 20.0  # grey levels off the usual difference, from which on one is more of shape than of colour
COLOUR_REACH = 3.0  # cells: how far a difference at the rim is carried into the middle
# The mouth mask: an ellipse about the lips, in fractions of the box.
MOUTH_MIDDLE, MOUTH_TOP, MOUTH_BOTTOM = 0.78, 0.54, 1.02  # rows: where weights are largest, and 0 from above and below
MOUTH_REACH = 0.36  # of the width, to either side
MOUTH_FADE = 0.5  # of the way from the rim to the middle, over which weights rise to 1
CACHED_MASKS = 64  # box sizes; they change by a pixel or two from frame to frame


def paste(
    frame: np.ndarray, face: np.ndarray, box: Box, reference: np.ndarray | None = None, enhance: Enhance | None = None
) -> None:
    """Put `face` over `box` of `frame`, in place: resized bilinearly, hard edges. The published behaviour.

    Args:
        frame: (H, W, 3) uint8 BGR.
        face: (h, w, 3) uint8 BGR, of any size.
        box: x1, y1, x2, y2 in pixels, x2 and y2 exclusive; what reaches over the frame's edges is left out.
        reference: what gives the face its fine detail, see `with_detail`; None for no such detail.
        enhance: what is done to the face at the box's size, such as `sharpening.sharpen`.
    """
    x1, y1, x2, y2 = box
    if reference is not None:
        face = with_detail(tempered(face, reference), reference)
    window = cv2.resize(face, (x2 - x1, y2 - y1))
    put_back(frame, enhance(window, _enlargement(face, box)) if enhance else window, box)


def feather(
    frame: np.ndarray, face: np.ndarray, box: Box, reference: np.ndarray | None = None, enhance: Enhance | None = None
) -> None:
    """Melt `face` into `box` of `frame`, in place: full weight on mouth and jaw, none at the edges and the eyes.

    Arguments as for `paste`. Pixels where the weight is 0 keep their values exactly. The face first takes on the
    frame's colours (`match_colours`), so that no tint of the generator shows.
    """
    _melt(frame, face, box, reference, enhance, feather_mask)


def mouth(
    frame: np.ndarray, face: np.ndarray, box: Box, reference: np.ndarray | None = None, enhance: Enhance | None = None
) -> None:
    """Melt lips and chin of `face` alone into `box` of `frame`, in place, as `feather` does: jaw and cheeks stay."""
    _melt(frame, face, box, reference, enhance, mouth_mask)


def _melt(
    frame: np.ndarray, face: np.ndarray, box: Box, reference: np.ndarray | None, enhance: Enhance | None, mask: Mask
) -> None:
    window = cut(frame, box)
    original = cv2.resize(window, face.shape[1::-1], interpolation=cv2.INTER_AREA)
    if reference is not None:
        face = tempered(face, reference)
    face = match_colours(face, original, mask)
    if reference is not None:
        face = with_detail(face, reference)
    enlargement = _enlargement(face, box)
    weights, rows = _weights(mask, *window.shape[:2], _at_frame_edge(frame, box))
    interpolation = cv2.INTER_CUBIC if enlargement > 1 else cv2.INTER_AREA
    face = cv2.resize(face, window.shape[1::-1], interpolation=interpolation)[rows]
    if enhance:
        face = enhance(face, enlargement)
    x1, y1, x2, _ = box
    melted = cv2.blendLinear(face, np.ascontiguousarray(window[rows]), weights, 1 - weights)
    put_back(frame, melted, (x1, y1 + rows.start, x2, y1 + rows.stop))


def _enlargement(face: np.ndarray, box: Box) -> float:
    """How many times larger a face is in its box than as it was generated, by the side."""
    return float(np.sqrt((box[2] - box[0]) * (box[3] - box[1]) / (face.shape[0] * face.shape[1])))


def tempered(face: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """A generated face without what generators overdo about their reference: `with_darkness_of`, `with_tint_of`."""
    shown = fit(reference, face.shape[:2])
    return with_tint_of(with_darkness_of(face, shown), shown)


def with_darkness_of(face: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """A generated face whose mouth stays dark where its reference's is, all but for a little.

    A generator that hears a mouth closing where its reference is wide open paints something pale over the inside, which
    is neither lip nor teeth. As far as it does, the reference's inside is taken.

    Arguments as for `with_detail`; returns (h, w, 3) uint8 BGR.
    """
    half = face.shape[0] // 2
    shown = fit(reference, face.shape[:2])[half:].astype(np.float32)
    made = face[half:].astype(np.float32)
    brightness, more = cv2.cvtColor(shown, cv2.COLOR_BGR2GRAY), cv2.cvtColor(made - shown, cv2.COLOR_BGR2GRAY)
    dark = (DARK_FROM - brightness / (np.median(brightness) + 1)) / (DARK_FROM - DARK_FULLY)
    side = max(1, round(face.shape[1] / 32))
    share = cv2.blur(np.clip(dark, 0, 1), (side, side)) * (1 - LIGHTER / np.maximum(more, LIGHTER))
    return np.concatenate((face[:half], np.rint(made + share[..., None] * (shown - made)).astype(np.uint8)))


def with_tint_of(face: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """A generated face whose colours are between its own and its reference's, as bright as it was.

    Generators make lips paler than they are; what is painted anew needs some colour of its own, but none that the
    picture does not have: teeth in a painting are not bluer than the rest of it, and in grey all is grey.

    Arguments as for `with_detail`; returns (h, w, 3) uint8 BGR.
    """
    shown = fit(reference, face.shape[:2])
    change = cv2.subtract(face, shown, dtype=cv2.CV_32F)
    brightness = cv2.cvtColor(change, cv2.COLOR_BGR2GRAY)
    too_much = (1 - TINT) * (change - brightness[..., None])
    return cv2.subtract(face, too_much + _foreign(face - too_much, shown), dtype=cv2.CV_8U)


def _foreign(face: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """What of the colours of a face (h, w, 3) float32 BGR is beyond those that another (h, w, 3) uint8 has anywhere in
    its middle, or there if it is lit: without it the face is as bright."""
    rows, columns = (
        slice(*(round(share * side) for share in part))
        for part, side in zip((FACE_ROWS, FACE_COLUMNS), shown.shape[:2], strict=True)
    )
    brightness, own = _colours(shown.astype(np.float32))
    lit = brightness >= LIT * np.median(brightness[rows, columns])
    colours = own[rows, columns][lit[rows, columns]]
    few = int(FEW * len(colours))
    ordered = np.partition(colours, (few, len(colours) - 1 - few), axis=0)
    least, most = (
        np.where(lit[..., None], further(own, bound), bound)
        for further, bound in ((np.minimum, ordered[few] - BEYOND), (np.maximum, ordered[-1 - few] + BEYOND))
    )
    brightness, colours = _colours(face)
    return (brightness + DARK)[..., None] * ((colours - np.clip(colours, least, most)) @ FROM_CHROMA)


def _colours(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The brightness (h, w) of a picture (h, w, 3) float32 BGR, and its Cr and Cb over that (h, w, 2)."""
    brightness = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    chroma = (picture[..., 2::-2] - brightness[..., None]) / FROM_CHROMA[(0, 1), (2, 0)]
    return brightness, chroma / (brightness + DARK)[..., None]


def with_detail(face: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """A generated face with the detail of its reference, which has more pixels: the reference with all that the
    generator has changed about it. Where that is little, the face is as sharp as the video.

    Args:
        face: (h, w, 3) uint8 BGR, as generated.
        reference: (H, W, 3) uint8 BGR, of which the generator saw `crops.fit(reference, (h, w))`.

    Returns (H, W, 3) uint8 BGR.
    """
    change = cv2.subtract(face, fit(reference, face.shape[:2]), dtype=cv2.CV_16S)
    change = cv2.resize(change, reference.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return cv2.add(reference, change, dtype=cv2.CV_8U)


def match_colours(face: np.ndarray, original: np.ndarray, mask: Mask | None = None) -> np.ndarray:
    """Take smooth colour differences to the original out of a generated face.

    The difference is known where the original stays visible (outside of `mask`: upper face and rim) and carried from
    there over the mouth by a normalised blur, as a membrane would: light and tint are corrected, shapes are not. Where
    the difference is far from the usual one, cheek lies on hair or the like, and it counts little.

    Args:
        face, original: (h, w, 3) uint8 BGR of one size.
        mask: what the face is melted in with; `feather_mask` by default.

    Returns:
        (h, w, 3) uint8 BGR.
    """
    known = 1 - (mask or feather_mask)(*face.shape[:2])
    difference = original.astype(np.float32) - face
    usual = np.median(difference[::4, ::4][known[::4, ::4] > 0.5], axis=0)
    unusual = np.abs(difference - usual).max(2) / COLOUR_DIFFERENCE
    known = known / (1 + unusual * unusual)
    weight, difference = (_blurred_on_grid(values) for values in (known, difference * known[..., None]))
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


@lru_cache(maxsize=CACHED_MASKS)
def mouth_mask(height: int, width: int, at_frame_edge: tuple[bool, bool, bool] = (False,) * 3) -> np.ndarray:
    """Weights over a box that are 1 at lips and chin and fall to 0 before jaw and cheeks; as `feather_mask`."""
    rows = (np.arange(height, dtype=np.float32) + 0.5) / height
    columns = (np.arange(width, dtype=np.float32) + 0.5) / width
    above = np.where(rows < MOUTH_MIDDLE, MOUTH_MIDDLE - MOUTH_TOP, MOUTH_BOTTOM - MOUTH_MIDDLE)
    away = np.hypot(((rows - MOUTH_MIDDLE) / above)[:, None], (columns - 0.5) / MOUTH_REACH)
    mask = _smoothstep((1 - away) / MOUTH_FADE).astype(np.float32)
    mask.setflags(write=False)
    return mask


@lru_cache(maxsize=CACHED_MASKS)
def _weights(mask: Mask, height: int, width: int, at_frame_edge: tuple[bool, bool, bool]) -> tuple[np.ndarray, slice]:
    """The rows of a mask in which any weight is above 0, and which those are; one row where none is."""
    weights = mask(height, width, at_frame_edge)
    having = np.flatnonzero(weights.any(axis=1))
    rows = slice(int(having[0]), int(having[-1]) + 1) if len(having) else slice(0, 1)
    return weights[rows], rows


def _at_frame_edge(frame: np.ndarray, box: Box) -> tuple[bool, bool, bool]:
    """Whether a box reaches the frame's left, lower and right edge."""
    return box[0] <= 0, box[3] >= frame.shape[0], box[2] >= frame.shape[1]


def _smoothstep(t: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, between them without a kink at either end."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


BLENDS = {"feather": feather, "mouth": mouth, "paste": paste}


def compositor(blend: str, enhance: str = "none", fitting: bool = False) -> Compositor:
    """What puts a face into a frame, in place, of the names that the command line has.

    `fitting`: whether faces come with a reference that fits the speech. Raises InputError for detail without one.
    """
    put = partial(BLENDS[blend], enhance=sharpen if enhance == "sharpen" else None)
    if enhance == "detail" and not fitting:
        raise InputError("--enhance detail is the detail of references that fit the speech: add --reference fitting")
    if fitting and enhance in ("auto", "detail"):
        return put
    return lambda frame, face, box, *_: put(frame, face, box)
