"""Mouths of pictures of faces: opened, closed, rounded, and put on another picture of the face in its pose."""

from typing import NamedTuple

import cv2
import numpy as np

from mouths.insides import NARROW_GAP, Inside, Opened, inside_of
from mouths.lips import Lips
from mouths.poses import alignment, points_moved_by, with_mouth_of

UPPER_SHARE = 0.15  # of an opening, by which the upper lip rises
FALL = 0.4  # share of the way to the lower lip that it falls as a mouth closes: over the teeth, which stay
CORNER = 0.12  # of half a mouth's width, by which a mouth closes beyond its inner corners: they are dark, too
JAW, JAW_WIDTH = 0.9, 1.7  # how far the jaw follows the lower lip; its width over that of the inner lips
CHEEK = 1.2  # halves of the mouth's width beyond its corner, over which a change of its width fades
NOSE, LIP = 10, 9  # pixels of a face 96 high: up to the nose, which stays; from the inner edge of the lip to the jaw
SLIT = 1.7  # the same: less is not as dark below teeth
SOFTNESS, MOST_SOFT = 0.8, 2.0  # of edges that are drawn, over the picture's; rows of a face 96 high, at most
LINE = 0.3  # how much darker it is where lips meet, as a share
SHADE = 0.4  # of teeth between lips that have almost closed, over their light before


def with_gap(
    face: np.ndarray, lips: np.ndarray, gap: float, widening: float = 1.0, opened: Opened | None = None
) -> np.ndarray:
    """The face with another gap between its inner lips: the picture is warped. Where a mouth opens, it shows the inside
    of one that is open, or what mouths usually do.

    Where a mouth opens its upper teeth stay with the upper lip, where it closes with the nose; the jaw moves with the
    lower lip. Meant as what a generator is shown.

    Args:
        face: (H, W, 3) uint8 BGR.
        lips: `models.face_mesh.LIP_POINTS` (11, 2), x over the width and y over the height.
        gap: in pixels, at the middle of the mouth; 0 closes it.
        widening: factor on the mouth's width, from 0.8 to 1.2.
        opened: whose inside is shown as far as the mouth is opened by warping and that one is farther open.
    """
    height, width = face.shape[:2]
    unit = height / 96
    gap, widening = float(gap), float(widening)
    mouth = Lips.of(lips, height, width)
    change = gap - mouth.gap
    closed = min(1.0, max(0.0, -change / max(unit, mouth.gap)))  # share of the gap
    mouth = mouth._replace(half=(1 + CORNER * closed) * mouth.half)
    highest = float(lips[:3, 1].min()) * height - (NOSE + 2) * unit  # all above stays
    first = int(np.clip(highest - UPPER_SHARE * max(gap, 0.0), 0, height - 1))
    y, x = np.mgrid[first:height, :width].astype(np.float32)
    if widening != 1:
        x = _widened(x, y, lips * (width, height), gap, widening)
    across = (x - mouth.middle) / mouth.half
    bow = np.maximum(1 - np.square(across), 0)  # 0 from the inner corners on
    upper = mouth.row(mouth.upper, x)
    lower = np.maximum(mouth.row(mouth.lower, x), upper)
    if change > 0:
        rise, round_bow = UPPER_SHARE * change, np.sqrt(bow)  # mouths get rounder as they open
        lifted, drop = rise * round_bow, change - rise
        new_upper = upper - lifted
        new_lower = np.maximum(lower + drop * round_bow, new_upper)
    else:  # along the upper lip's edge a smile would turn down: both lips move, everywhere by the same share
        lifted, drop = -FALL * closed * (lower - upper), (1 - FALL) * change
        new_upper = upper - lifted
        new_lower = new_upper + (1 - closed) * (lower - upper)

    fading = np.clip(1 - (new_upper - y) / (NOSE * unit), 0, 1)
    jaw = JAW * drop * np.exp(-np.square(across / JAW_WIDTH))
    below = np.clip((y - new_lower) / (LIP * unit), 0, 1)  # from the lip's edge to where the jaw moves as a whole
    chin = np.clip((height + 6 * unit - y) / np.maximum(unit, height - 3 * unit - new_lower), 0, 1)
    # What was inside hangs on an upper lip that rises and is hid by one that falls. Between closed lips none is seen,
    # and not what lies at their very edges either, which is both.
    hidden = np.clip(lower - upper, 0, unit) * np.clip(1 - (new_lower - new_upper) / unit, 0, 1)
    lip_above = np.minimum(y + lifted * fading, upper - hidden)
    hanging = y + np.maximum(lifted, 0)
    beneath = np.maximum(y - ((1 - below) * (new_lower - lower) + below * jaw) * chin, lower + hidden)
    above = np.where(y <= new_upper + hidden, lip_above, hanging)
    moved = cv2.remap(
        face, x, np.where(y < new_lower, above, beneath), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    soft = _softness(face, lips)
    between = (bow > 0) & (y > new_upper - soft) & (y < new_lower + soft)
    rows, columns = (np.flatnonzero(between.any(axis)) for axis in (1, 0))
    if len(rows):
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        maps = (x, y, lip_above, hanging, beneath, new_upper, new_upper + hidden, new_upper + lower - upper, new_lower)
        window = _Window(*(np.ascontiguousarray(values[part], np.float32) for values in maps))
        down, room = window.y - window.upper, window.lower - window.upper
        inside = inside_of(face, mouth, gap, opened, window.x, down, room)
        moved[part] = _between_lips(face, inside, window, closed, unit, soft)
    return np.concatenate((face[:first], moved))


class _Window(NamedTuple):
    """Maps (h, w) of a window about an opened mouth.

    Attributes:
        x, y: the places.
        lip, hanging, beneath: which rows of the face are seen: of the upper lip; of what hangs below it; from the lower
            lip on.
        upper, edge, top, lower: rows of what is made: the upper lip's edge, where what hangs below it begins and ends,
            and the lower lip's edge.
    """

    x: np.ndarray
    y: np.ndarray
    lip: np.ndarray
    hanging: np.ndarray
    beneath: np.ndarray
    upper: np.ndarray
    edge: np.ndarray
    top: np.ndarray
    lower: np.ndarray


def _between_lips(
    face: np.ndarray, inside: Inside, window: _Window, closed: float, unit: float, soft: float
) -> np.ndarray:
    """A window (h, w, 3) about an opened mouth, its edges as soft as those of the picture, which take `soft` rows: what
    has opened has the colours `inside`. `closed` is the share of its gap by which the mouth closes."""

    def seen(rows: np.ndarray) -> np.ndarray:
        return cv2.remap(face, window.x, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)

    def below(edge: np.ndarray, rows: float = soft) -> np.ndarray:
        return np.clip((window.y - edge) / rows + 0.5, 0, 1)

    shown = seen(window.lip)
    shown += below(window.edge)[:, :, None] * (seen(window.hanging) - shown)
    room, below_lip = window.lower - window.upper, below(window.upper)
    light = 1 - (1 - SHADE) * closed * (1 - np.clip(room / (NARROW_GAP * unit), 0, 1))  # what is left between the lips
    shown *= (1 - (1 - light) * below_lip)[:, :, None]
    new = np.clip((window.lower - window.top) / (SLIT * unit), 0, 1) * below(window.top)
    opened = np.maximum(new, inside.instead * below_lip) * np.clip(room / unit, 0, 1)
    shown += opened[:, :, None] * (inside.colours - shown)
    shown += below(window.lower)[:, :, None] * (seen(window.beneath) - shown)
    across = below(window.lower, max(soft, unit))  # the line where lips meet
    met = closed * np.clip(window.top - window.upper, 0, unit) / unit * np.clip(1 - room / unit, 0, 1)
    line = LINE * met * 4 * across * (1 - across)
    return (shown * (1 - line)[:, :, None] + 0.5).clip(0, 255)


def _softness(face: np.ndarray, lips: np.ndarray) -> float:
    """Over how many rows an edge of a mouth's picture goes, 1 where it is sharp: less than its steepest edges do."""
    height, width = face.shape[:2]
    unit = height / 96
    left, right = sorted(float(x) * width for x in lips[:2, 0])
    top, bottom = float(lips[:, 1].min()) * height - 2 * unit, float(lips[:, 1].max()) * height + 2 * unit
    quarter = (right - left) / 4
    columns = face[max(0, round(top)) : round(bottom), max(0, round(left + quarter)) : round(right - quarter)]
    if columns.shape[0] < 2 or not columns.shape[1]:
        return 1.0
    light = columns[:, :, 1].astype(np.float32)
    rows = np.ptp(light, 0) / np.maximum(1e-3, np.abs(np.diff(light, axis=0)).max(0))
    return float(np.clip(SOFTNESS * np.median(rows), 1, MOST_SOFT * unit))


def _widened(x: np.ndarray, y: np.ndarray, lips: np.ndarray, gap: float, widening: float) -> np.ndarray:
    """Where the pixels x, y of a face with a wider mouth lie across the face as it was, in pixels."""
    left, right = sorted(map(float, lips[:2, 0]))
    unit = x.shape[1] / 96
    middle, half = (left + right) / 2, max(unit, (right - left) / 2)
    beyond = np.abs(x - middle) / half  # 1 at the corners
    fading = 0.5 + 0.5 * np.cos(np.pi * np.clip((beyond - widening) / CHEEK, 0, 1))
    moved = np.where(beyond <= widening, beyond * (1 - 1 / widening), (widening - 1) * fading)
    top, bottom = float(lips[:4, 1].min()), float(lips[:4, 1].max()) + gap
    rows = y[:, :1]
    far = np.maximum(top - rows, (rows - bottom) / 2) / (NOSE * unit)  # the chin moves farther down than the nose up
    moved *= 0.5 + 0.5 * np.cos(np.pi * np.clip(far, 0, 1))
    return x - np.sign(x - middle) * half * moved


def shaped_on(
    face: np.ndarray, lips: np.ndarray, pose: np.ndarray, gap: float, widening: float, opened: Opened | None = None
) -> np.ndarray:
    """The face in the pose of `pose`, with another gap between its lips (11, 2), and wider; arguments as for
    `with_gap`."""
    matrix = alignment(face, pose)
    moved = points_moved_by(matrix, lips, *pose.shape[:2])
    return with_gap(with_mouth_of(face, pose, matrix), moved, gap, widening, opened)
