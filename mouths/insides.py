"""What is seen inside of mouths that are opened: teeth, tongue, and the dark between them."""

from typing import NamedTuple

import cv2
import numpy as np

from mouths.lips import Lips

# What is usually seen inside of open mouths: teeth, the dark behind, the tongue; and skin in the same light. BGR.
TEETH, DARK, TONGUE, SKIN = np.array(((86, 92, 128), (25, 24, 70), (43, 41, 104), (84, 97, 149)), np.float32)
TEETH_HEIGHT, TONGUE_HEIGHT = 0.24, 0.22  # in halves of the mouth's width
TEETH_EDGE = 0.22  # the same: over which they fade
# Where the gap is narrow, so that the eye and landmark models see it: light over that elsewhere, share of the teeth.
NARROW_LIGHT, NARROW_TEETH = 0.6, 0.3
WIDE_GAP, NARROW_GAP = 7, 4  # pixels of a face 96 high
FULL_COLOUR = 0.2  # from how much less blue than red in skin, over its red, a picture counts as coloured
# What another mouth of the video shows inside is seen, not at all up to the first number and alone from the second on:
# by the share of an opening that is new; by how much farther that mouth is open, in pixels of a face 96 high; and by
# the share of what is wanted that it is open.
NEW, FARTHER, ENOUGH = (0.3, 0.7), (1.0, 2.5), (0.4, 0.7)
SHOWS = (1.5, 3.0)  # pixels of a face 96 high that a mouth is open: how much is to be seen in it, in the same way
MOST_LIGHT = 1.5  # factor on the light of it, at most


class Opened(NamedTuple):
    """Another picture of a face, whose mouth is open.

    Attributes:
        face: (h, w, 3) uint8 BGR, of any size.
        lips: its `models.face_mesh.LIP_POINTS` (11, 2), x over the width and y over the height.
    """

    face: np.ndarray
    lips: np.ndarray


class Inside(NamedTuple):
    """What is seen between lips that open.

    Attributes:
        colours: (h, w, 3) float32 BGR.
        instead: which share of what the mouth shows itself it takes the place of.
    """

    colours: np.ndarray
    instead: float


def inside_of(
    face: np.ndarray,
    mouth: Lips,
    gap: float,
    opened: Opened | None,
    x: np.ndarray,
    down: np.ndarray,
    room: np.ndarray,
) -> Inside:
    """What is seen inside a mouth of a face (H, W, 3) that gets a gap: the usual, and instead of that what an open one
    shows, the more, the more is missing of its own. All maps (h, w); `x` are columns of the face, `down` how far below
    the upper lip, and `room` how far the lower lip is from that."""
    unit = face.shape[0] / 96
    own, wanted = mouth.gap / unit, gap / unit
    usual, instead = _usual(face, mouth, wanted, x, down, room), _new(own, wanted) * (1 - _ramp(own, SHOWS))
    its = None if opened is None else Lips.of(opened.lips, *opened.face.shape[:2])
    share = 0.0 if its is None else _share_borrowed(own, 96 / opened.face.shape[0] * its.gap, wanted)
    if not share:
        return Inside(usual, instead)
    shown, there = _shown_by(opened, its, face, mouth, x, down, room)
    return Inside(usual + share * there[:, :, None] * (shown - usual), max(share, instead))


def _usual(face: np.ndarray, mouth: Lips, gap: float, x: np.ndarray, down: np.ndarray, room: np.ndarray) -> np.ndarray:
    """What mouths usually show inside, in the light of a face (H, W, 3): upper teeth, the tongue, and the dark between
    them, (h, w, 3) float32 BGR. Arguments as for `inside_of`, but `gap` in pixels of a face 96 high."""
    across = (x - mouth.middle) / mouth.half
    bow = np.maximum(1 - across * across, 0)
    lower_edge = TEETH_HEIGHT * (0.6 + 0.4 * bow)
    wide = _ramp(gap, (NARROW_GAP, WIDE_GAP))
    hanging = np.clip((lower_edge - down / mouth.half) / TEETH_EDGE + 0.5, 0, 1)
    teeth = (NARROW_TEETH + (1 - NARROW_TEETH) * wide) * hanging
    tongue = np.clip(1 - (room - down) / (TONGUE_HEIGHT * mouth.half), 0, 1) * bow
    shown = DARK + tongue[:, :, None] * (TONGUE - DARK)
    shown += (np.sqrt(bow) * teeth)[:, :, None] * (TEETH - shown)
    skin = _skin(face)
    shown *= np.sqrt(skin / SKIN * skin.mean() / SKIN.mean())  # half of the colour of skin is its light's
    colourful = float(np.clip((skin[2] - skin[0]) / max(1.0, FULL_COLOUR * skin[2]), 0, 1))  # shown stays float32
    shown = colourful * shown + (1 - colourful) * shown.mean(2, keepdims=True)
    return (NARROW_LIGHT + (1 - NARROW_LIGHT) * wide) * shown


def _skin(face: np.ndarray) -> np.ndarray:
    """The colour of nose and cheeks (3,) BGR."""
    height, width = face.shape[:2]
    return np.array(cv2.mean(face[height * 5 // 12 : height * 7 // 12, width // 3 : width * 2 // 3])[:3])


def _shown_by(
    opened: Opened, its: Lips, face: np.ndarray, mouth: Lips, x: np.ndarray, down: np.ndarray, room: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What an open mouth with `its` lips shows inside, as it is seen in another one: (h, w, 3) float32 BGR, and where
    that is anything (h, w), in [0, 1]. Arguments as for `inside_of`.

    Teeth hang from the upper lip and what lies with the lower one stays with that; between them, where it is open less
    far than the other one shall be, nothing is known.
    """
    (its_height, its_width), (height, width) = opened.face.shape[:2], face.shape[:2]
    columns = its.middle + min(its_width / width, its.half / mouth.half) * (x - mouth.middle)
    edge, scale = its_height / 96, its_height / height  # what is both lip and inside is left out
    upper = its.row(its.upper, columns) + edge
    gap = np.maximum(its.row(its.lower, columns) - edge - upper, 0)
    unknown = np.maximum(scale * room - gap, 0)
    stretch = np.clip(scale * down - gap / 2, 0, unknown)
    there = 1 - np.clip(np.minimum(stretch, unknown - stretch) / edge, 0, 1)
    rows = upper + np.clip(scale * down - stretch, 0, gap)
    maps = (np.ascontiguousarray(values, np.float32) for values in (columns, rows))
    shown = cv2.remap(opened.face, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    light = _skin(face).mean() / max(1.0, _skin(opened.face).mean())
    return shown * np.float32(min(MOST_LIGHT, max(1 / MOST_LIGHT, light))), there


def _share_borrowed(own: float, its: float, wanted: float) -> float:
    """How much of what is between lips is that of an open mouth, in [0, 1], by the gaps of a mouth, of the open one,
    and the one that is wanted, in pixels of faces 96 high."""
    return _new(own, wanted) * _ramp(its - own, FARTHER) * _ramp(its / max(1.0, wanted), ENOUGH)


def _new(own: float, wanted: float) -> float:
    """How much of an opening counts as new, in [0, 1]."""
    return _ramp(1 - own / max(1.0, wanted), NEW)


def _ramp(value: float, ends: tuple[float, float]) -> float:
    """0 up to the first of the ends, 1 from the second on."""
    return min(1.0, max(0.0, (value - ends[0]) / (ends[1] - ends[0])))
