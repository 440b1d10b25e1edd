"""Mouths of pictures of faces: opened, closed, rounded, and put on another picture of the face in its pose."""

from typing import Any, NamedTuple

import cv2
import numpy as np

from poses import alignment, points_moved_by, with_mouth_of

# Openings of real talking faces, in distances of the outer eye corners: the quantiles 0, 0.1, ... 1, without outliers.
OPENINGS = (0, 0.002, 0.004, 0.006, 0.013, 0.022, 0.031, 0.042, 0.058, 0.083, 0.13)
# The same of who talks freely: most of the others read the news, with little movement.
OPENINGS_IN_TALKS = (0, 0.003, 0.005, 0.010, 0.020, 0.032, 0.047, 0.066, 0.087, 0.114, 0.13)
# Widths of real talking mouths over their clip's mean: the quantiles 0, 0.1, ... 1, without outliers.
WIDTHS = (0.85, 0.930, 0.963, 0.981, 0.994, 1.005, 1.016, 1.027, 1.041, 1.063, 1.13)
ROUNDING = 0.7  # of real changes of width: half of what is heard of them is wrong
EYE_DISTANCE = 0.61  # over a face box's width
UPPER_SHARE = 0.15  # of an opening, by which the upper lip rises
FALL = 0.4  # share of the way to the lower lip that it falls as a mouth closes: over the teeth, which stay
JAW, JAW_WIDTH = 0.9, 1.7  # how far the jaw follows the lower lip; its width over that of the inner lips
CHEEK = 1.2  # halves of the mouth's width beyond its corner, over which a change of its width fades
NOSE, LIP = 10, 9  # pixels of a face 96 high: up to the nose, which stays; from the inner edge of the lip to the jaw
# What is usually seen inside of open mouths: teeth, the dark behind, the tongue; and skin in the same light. BGR.
TEETH, DARK, TONGUE, SKIN = np.array(((86, 92, 128), (25, 24, 70), (43, 41, 104), (84, 97, 149)), np.float32)
TEETH_HEIGHT, TONGUE_HEIGHT = 0.24, 0.22  # in halves of the mouth's width
TEETH_EDGE = 0.22  # the same: over which they fade
NARROW_LIGHT = 0.6  # of it where the gap is narrow, so that the eye and landmark models see it
WIDE_GAP, NARROW_GAP = 7, 4  # pixels of a face 96 high
SLIT = 1.7  # the same: less is not as dark below teeth
SOFTNESS, MOST_SOFT = 0.8, 2.0  # of edges that are drawn, over the picture's; rows of a face 96 high, at most
SHADE = 0.4  # of teeth between lips that have almost closed, over their light before
FULL_COLOUR = 0.2  # from how much less blue than red in skin, over its red, a picture counts as coloured
# What another mouth of the video shows inside is seen, not at all up to the first number and alone from the second on:
# by the share of an opening that is new; by how much farther that mouth is open, in pixels of a face 96 high; and by
# the share of what is wanted that it is open.
NEW, FARTHER, ENOUGH = (0.3, 0.7), (1.0, 2.5), (0.4, 0.7)
SHOWS = (1.5, 3.0)  # pixels of a face 96 high that a mouth is open: how much is to be seen in it, in the same way
MOST_LIGHT = 1.5  # factor on the light of it, at most
LOWER_LIP = [3, 9, 10]  # inner ones of `models.face_mesh.LIP_POINTS`
COLUMNS = 13  # of a mouth in which the edge of the teeth is looked for
LOOKED_THROUGH = 0.8  # of the lower lip's thickness, for the edge of the teeth
MIN_REDNESS = 0.06  # by which lips are redder than teeth, as a share of all light
# What a mouth that is not as wanted costs, in pose distances: by an eye distance of its opening; by its width's mean.
OPEN_COST, WIDTH_COST = 100.0, 25.0
# The same where only its inside is taken: a pose distance, and an eye distance by which it opens less than is wanted.
INSIDE_POSE, INSIDE_COST = 0.5, 200.0


def with_whole_teeth(face: np.ndarray, lips: np.ndarray) -> np.ndarray:
    """Lips (11, 2) of a face (H, W, 3) uint8 BGR whose inner lower edge lies below its teeth, see `LIP_POINTS`.

    Landmark models put it into the teeth of a smile, which would break where the mouth is opened. From where it was
    said to be it is moved down as long as the picture is less red than the lip below. Grey pictures show no such edge.
    """
    height, width = face.shape[:2]
    mouth = Lips.of(lips, height, width)
    thickness = float(lips[4, 1] - lips[3, 1]) * height  # of the lower lip
    across, edges = np.linspace(-0.85, 0.85, COLUMNS), []
    places = mouth.middle + across * mouth.half
    for place in places:
        upper, edge = (mouth.row(sag, float(place)) for sag in (mouth.upper, mouth.lower))
        edge = max(edge, upper)
        x, first, last = round(place), round(upper), round(edge + LOOKED_THROUGH * thickness)
        edges.append(edge)
        if not (0 < x < width and 0 <= first <= round(edge) < last <= height):
            continue
        column = face[first:last, max(0, x - 1) : x + 2].mean(1)
        redness = (column[:, 2] - column[:, 1]) / (column.sum(1) + 1)
        begin = round(edge) - first
        lip, inside = redness[begin:].max(), redness[: begin + 1].min()
        teeth = redness[begin:] < (lip + inside) / 2
        if lip - inside >= MIN_REDNESS and not teeth.all():
            edges[-1] = edge + float(np.argmin(teeth))
    sag = _fitted(across, np.array(edges) - mouth.line(places))
    found = lips.copy()
    for point in LOWER_LIP:
        x = np.clip(lips[point, 0] * width, mouth.middle - mouth.half, mouth.middle + mouth.half)
        found[point, 1] = max(lips[point, 1], mouth.row(sag, float(x)) / height)
    return found


def opening_at(rank: float, among: tuple[float, ...] = OPENINGS) -> float:
    """The opening that a share `rank` of talking mouths do not reach, in eye distances; `among`: their quantiles."""
    return float(np.interp(rank, np.linspace(0, 1, len(among)), among))


def gap_of(opening: Any, width: int) -> Any:
    """An opening in eye distances, or several (n,), in pixels of a face `width` wide."""
    return opening * EYE_DISTANCE * width


def opening_of(lips: np.ndarray, img_size: tuple[int, int]) -> float:
    """The gap between lips (11, 2) in eye distances: what `gap_of` makes a gap of again.

    Args:
        lips: `models.face_mesh.LIP_POINTS`, x over the face's width and y over its height.
        img_size: (height, width) of the faces whose width an eye distance is a share of.
    """
    height, width = img_size
    return max(0.0, float(lips[3, 1] - lips[2, 1])) * height / (EYE_DISTANCE * width)


def widening_at(rank: float) -> float:
    """The width that a share `rank` of talking mouths do not reach, over their mean, moderated."""
    return 1 + ROUNDING * (float(np.interp(rank, np.linspace(0, 1, len(WIDTHS)), WIDTHS)) - 1)


class Lips(NamedTuple):
    """Where the lips of a picture are, in its pixels.

    The inner lips are curves between the inner corners, which a = -1 and a = 1 stand for: below the line through the
    mouth's corners by (1 - a^2) (s0 + s1 a + s2 a^2).
    """

    left: tuple[float, float]  # corner of the mouth
    slope: float  # of the line to the other one
    middle: float  # between the inner corners, across
    half: float  # of the distance between them
    upper: tuple[float, float, float]  # s0, s1, s2
    lower: tuple[float, float, float]
    gap: float  # between them, in the middle

    @classmethod
    def of(cls, points: np.ndarray, height: int, width: int) -> "Lips":
        """From `models.face_mesh.LIP_POINTS` (11, 2), x over the width and y over the height."""
        unit = height / 96
        # Python's numbers, so that pictures of float32 stay so
        found = [(float(across), float(down)) for across, down in points * (width, height)]
        left, right = sorted((found[0], found[1]))
        slope = (right[1] - left[1]) / max(unit, right[0] - left[0])
        inner = sorted((found[5][0], found[6][0]))
        middle, half = (inner[0] + inner[1]) / 2, max(unit, (inner[1] - inner[0]) / 2)

        def curve(*numbers: int) -> tuple[float, float, float]:
            across = np.array([(found[number][0] - middle) / half for number in numbers])
            below = [found[number][1] - left[1] - slope * (found[number][0] - left[0]) for number in numbers]
            return _fitted(across, np.array(below))

        gap = max(0.0, found[3][1] - found[2][1])
        return cls(left, slope, middle, half, curve(7, 2, 8), curve(9, 3, 10), gap)

    def line(self, x: Any) -> Any:
        """The row of the line through the mouth's corners, at some columns."""
        return self.left[1] + self.slope * (x - self.left[0])

    def row(self, sag: tuple[float, float, float], x: Any) -> Any:
        """The row of a curve, at some columns; of the line beyond the inner corners."""
        across = (x - self.middle) / self.half
        return self.line(x) + np.maximum(1 - across * across, 0) * (sag[0] + across * (sag[1] + across * sag[2]))


def _fitted(across: np.ndarray, below: np.ndarray) -> tuple[float, float, float]:
    """The curve of `Lips` through some places (n,), by least squares; of curves that fit alike the plainest."""
    across = np.clip(across, -0.9, 0.9)
    terms = (1 - across**2)[:, None] * across[:, None] ** (0, 1, 2)
    plain = np.diag((1e-6, 1e-3, 1e-3))
    return tuple(map(float, np.linalg.solve(terms.T @ terms + plain, terms.T @ below)))


class Opened(NamedTuple):
    """Another picture of a face, whose mouth is open.

    Attributes:
        face: (h, w, 3) uint8 BGR, of any size.
        lips: its `models.face_mesh.LIP_POINTS` (11, 2), x over the width and y over the height.
    """

    face: np.ndarray
    lips: np.ndarray


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
    highest = float(lips[:3, 1].min()) * height - (NOSE + 2) * unit  # all above stays
    first = int(np.clip(highest - UPPER_SHARE * max(gap, 0.0), 0, height - 1))
    y, x = np.mgrid[first:height, :width].astype(np.float32)
    if widening != 1:
        x = _widened(x, y, lips * (width, height), gap, widening)
    across = (x - mouth.middle) / mouth.half
    bow = np.maximum(1 - np.square(across), 0)  # 0 from the inner corners on
    upper = mouth.row(mouth.upper, x)
    lower = np.maximum(mouth.row(mouth.lower, x), upper)
    change = gap - mouth.gap
    closed = 0.0  # share of the gap
    if change > 0:
        rise, round_bow = UPPER_SHARE * change, np.sqrt(bow)  # mouths get rounder as they open
        lifted, drop = rise * round_bow, change - rise
        new_upper = upper - lifted
        new_lower = np.maximum(lower + drop * round_bow, new_upper)
    else:  # along the upper lip's edge a smile would turn down: both lips move, everywhere by the same share
        closed = min(1.0, -change / max(unit, mouth.gap))
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
    above = np.where(y <= new_upper + hidden, lip_above, y + np.maximum(lifted, 0))  # of the lower lip
    beneath = np.maximum(y - ((1 - below) * (new_lower - lower) + below * jaw) * chin, lower + hidden)
    moved = cv2.remap(
        face, x, np.where(y < new_lower, above, beneath), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    soft = _softness(face, lips)
    between = (bow > 0) & (y > new_upper - soft) & (y < new_lower + soft)
    rows, columns = (np.flatnonzero(between.any(axis)) for axis in (1, 0))
    if len(rows):
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        maps = (x, y, above, beneath, new_upper + lower - upper, new_lower, new_upper)
        x, y, above, beneath, top, new_lower, new_upper = (values[part] for values in maps)
        inside = _inside_of(face, mouth, gap, opened, x, y - new_upper, new_lower - new_upper)
        moved[part] = _between_lips(face, inside, closed, unit, soft, x, y, above, beneath, top, new_lower, new_upper)
    return np.concatenate((face[:first], moved))


class Inside(NamedTuple):
    """What is seen between lips that open.

    Attributes:
        colours: (h, w, 3) BGR.
        instead: which share of what the mouth shows itself it takes the place of.
    """

    colours: np.ndarray
    instead: float


def _between_lips(
    face: np.ndarray,
    inside: Inside,
    closed: float,
    unit: float,
    soft: float,
    x: np.ndarray,
    y: np.ndarray,
    above: np.ndarray,
    beneath: np.ndarray,
    top: np.ndarray,
    new_lower: np.ndarray,
    new_upper: np.ndarray,
) -> np.ndarray:
    """A window (h, w, 3) about an opened mouth, its edges as soft as those of the picture: what has opened, from `top`
    (whatever was inside hangs above) to the lower lip, has the colours `inside`. All maps (h, w); `above` and `beneath`
    the lower lip's edge say which row of the face is seen. `closed` is the share of its gap by which the mouth closes,
    `soft` how many rows edges take."""
    maps = (np.ascontiguousarray(values) for values in (above, beneath))
    x = np.ascontiguousarray(x)
    upper, lower = (
        cv2.remap(face, x, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32) for rows in maps
    )
    room, below_lip = new_lower - new_upper, np.clip((y - new_upper) / soft + 0.5, 0, 1)
    light = 1 - (1 - SHADE) * closed * (1 - np.clip(room / (NARROW_GAP * unit), 0, 1))  # what is left between the lips
    upper *= (1 - (1 - light) * below_lip)[:, :, None]
    new = np.clip((new_lower - top) / (SLIT * unit), 0, 1) * np.clip((y - top) / soft + 0.5, 0, 1)
    opened = np.maximum(new, inside.instead * below_lip) * np.clip(room / unit, 0, 1)
    upper += opened[:, :, None] * (inside.colours.astype(np.float32) - upper)
    return (upper + np.clip((y - new_lower) / soft + 0.5, 0, 1)[:, :, None] * (lower - upper) + 0.5).clip(0, 255)


def _usual(face: np.ndarray, mouth: Lips, gap: float, x: np.ndarray, down: np.ndarray, room: np.ndarray) -> np.ndarray:
    """What mouths usually show inside, in the light of a face (H, W, 3): upper teeth, the tongue, and the dark between
    them, (h, w, 3) float32 BGR. Arguments as for `_inside_of`, but `gap` in pixels of a face 96 high."""
    across = (x - mouth.middle) / mouth.half
    bow = np.maximum(1 - across * across, 0)
    lower_edge = TEETH_HEIGHT * (0.6 + 0.4 * bow)
    wide = _ramp(gap, (NARROW_GAP, WIDE_GAP))
    teeth = (0.3 + 0.7 * wide) * np.clip((lower_edge - down / mouth.half) / TEETH_EDGE + 0.5, 0, 1)
    tongue = np.clip(1 - (room - down) / (TONGUE_HEIGHT * mouth.half), 0, 1) * bow
    shown = DARK + tongue[:, :, None] * (TONGUE - DARK)
    shown += (np.sqrt(bow) * teeth)[:, :, None] * (TEETH - shown)
    skin = _skin(face)
    shown *= np.sqrt(skin / SKIN * skin.mean() / SKIN.mean())  # half of the colour of skin is its light's
    colourful = np.clip((skin[2] - skin[0]) / max(1.0, FULL_COLOUR * skin[2]), 0, 1)
    shown = colourful * shown + (1 - colourful) * shown.mean(2, keepdims=True)
    return (NARROW_LIGHT + (1 - NARROW_LIGHT) * wide) * shown


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
    light = columns.mean(2)
    rows = np.ptp(light, 0) / np.maximum(1e-3, np.abs(np.diff(light, axis=0)).max(0))
    return float(np.clip(SOFTNESS * np.median(rows), 1, MOST_SOFT * unit))


def _skin(face: np.ndarray) -> np.ndarray:
    """The colour of nose and cheeks (3,) BGR."""
    height, width = face.shape[:2]
    return face[height * 5 // 12 : height * 7 // 12, width // 3 : width * 2 // 3].mean((0, 1))


def _inside_of(
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


def _shown_by(
    opened: Opened, its: Lips, face: np.ndarray, mouth: Lips, x: np.ndarray, down: np.ndarray, room: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What an open mouth with `its` lips shows inside, as it is seen in another one: (h, w, 3) float32 BGR, and where
    that is anything (h, w), in [0, 1]. Arguments as for `_inside_of`.

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


def misfits(
    distances: np.ndarray, openings: np.ndarray, widths: np.ndarray, opening: float, width: float
) -> np.ndarray:
    """How badly mouths that a video has shown would say something: (n,), the best one has the least.

    Of the mouths that hardly differ in pose it is the one that needs least warping: unit selection, as Video Rewrite
    (Bregler, Covell and Slaney, 1997) does with whole triphones.

    Args:
        distances: of their poses (n,), see `pose_distances`.
        openings: of the mouths (n,), in eye distances, and `opening`, the one that is wanted.
        widths: of the mouths (n,), over the video's mean, and `width`, the one that is wanted.
    """
    return distances + OPEN_COST * np.abs(openings - opening) + WIDTH_COST * np.abs(widths - width)


def inside_misfits(distances: np.ndarray, openings: np.ndarray, opening: float) -> np.ndarray:
    """How badly the insides of mouths that a video has shown would look in one that is opened: (n,), as `misfits`."""
    return INSIDE_POSE * distances + INSIDE_COST * np.maximum(0, opening - openings)
