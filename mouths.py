"""Mouths of pictures of faces: opened, closed, rounded, and put on another picture of the face in its pose."""

import cv2
import numpy as np

SEAM = 1 / 24  # of the face's height over which the upper half melts into another's lower half
# Openings of real talking faces, in distances of the outer eye corners: the quantiles 0, 0.1, ... 1.
OPENINGS = (0, 0.011, 0.016, 0.020, 0.023, 0.027, 0.031, 0.036, 0.044, 0.059, 0.105)
# Widths of real talking mouths over their clip's mean: the quantiles 0, 0.1, ... 1, without outliers.
WIDTHS = (0.88, 0.943, 0.969, 0.983, 0.994, 1.003, 1.011, 1.021, 1.033, 1.051, 1.11)
ROUNDING = 0.7  # of real changes of width: half of what is heard of them is wrong
EYE_DISTANCE = 0.61  # over a face box's width
INNER = 0.82  # of the mouth's width, between the inner corners
UPPER_SHARE = 0.15  # of an opening, by which the upper lip rises
JAW, JAW_WIDTH = 0.9, 1.9  # how far the jaw follows the lower lip; its width over the mouth's
CHEEK = 1.2  # halves of the mouth's width beyond its corner, over which a change of its width fades
NOSE, LIP = 10, 9  # pixels of a face 96 high: up to the nose, which stays; from the inner edge of the lip to the jaw
# The dark of open mouths over the skin's blue, green and red: where the gap is wide, a little brighter than the darkest
# of most real ones (0.17, 0.21, 0.44); where it is narrow, so dark that the eye and landmark models see it.
WIDE, NARROW = (0.17, 0.20, 0.42), (0.11, 0.12, 0.26)
WIDE_GAP, NARROW_GAP = 7, 4  # pixels of a face 96 high
FULL_COLOUR = 0.4  # from how much less blue than red in skin, over its red, a picture counts as coloured
TONGUE = 0.3  # how much brighter it is at the lower lip, above the first
ALIGNED_HEIGHT = 48  # pixels of a face that alignment looks at
ALIGNMENT = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 1e-3)


def gap_at(rank: float, width: int) -> float:
    """The gap that a share `rank` of talking mouths do not reach, in pixels of a face `width` wide."""
    return gap_of(float(np.interp(rank, np.linspace(0, 1, len(OPENINGS)), OPENINGS)), width)


def gap_of(opening: float, width: int) -> float:
    """An opening in eye distances, in pixels of a face `width` wide."""
    return opening * EYE_DISTANCE * width


def widening_at(rank: float) -> float:
    """The width that a share `rank` of talking mouths do not reach, over their mean, moderated."""
    return 1 + ROUNDING * (float(np.interp(rank, np.linspace(0, 1, len(WIDTHS)), WIDTHS)) - 1)


def with_gap(face: np.ndarray, lips: np.ndarray, gap: float, widening: float = 1.0) -> np.ndarray:
    """The face with another gap between its inner lips: the picture is warped, and dark where a mouth opens.

    Upper teeth stay with the upper lip; the jaw moves with the lower one. Meant as what a generator is shown.

    Args:
        face: (H, W, 3) uint8 BGR.
        lips: `models.opening.LIP_POINTS` (5, 2), x over the width and y over the height.
        gap: in pixels, at the middle of the mouth; 0 closes it.
        widening: factor on the mouth's width, from 0.8 to 1.2.
    """
    height, width = face.shape[:2]
    unit = height / 96
    scaled = lips * (width, height)
    gap, widening = float(gap), float(widening)  # Python's numbers, so that pictures of float32 stay so
    left, right, upper_lip, lower_lip, _ = ((float(across), float(down)) for across, down in scaled)
    if left[0] > right[0]:
        left, right = right, left
    highest = min(left[1], right[1], upper_lip[1]) - (NOSE + 2) * unit  # all above stays
    first = int(np.clip(highest - UPPER_SHARE * max(gap, 0.0), 0, height - 1))
    y, x = np.mgrid[first:height, :width].astype(np.float32)
    if widening != 1:
        x = _widened(x, y, scaled, gap, widening)
    middle, half = (left[0] + right[0]) / 2, max(unit, INNER * (right[0] - left[0]) / 2)
    slope = (right[1] - left[1]) / max(unit, right[0] - left[0])
    corners = left[1] + slope * (x - left[0])  # the line through them
    bow = np.maximum(1 - np.square((x - middle) / half), 0)
    sag = [point[1] - left[1] - slope * (point[0] - left[0]) for point in (upper_lip, lower_lip)]
    upper = corners + sag[0] * bow
    lower = np.maximum(corners + sag[1] * bow, upper)
    change = gap - (lower_lip[1] - upper_lip[1])
    rise = UPPER_SHARE * max(change, 0.0)
    drop, round_bow = change - rise, np.sqrt(bow)  # mouths get rounder as they open
    new_upper = upper - rise * round_bow
    new_lower = np.maximum(lower + drop * round_bow, new_upper)

    fading = np.clip(1 - (new_upper - y) / (NOSE * unit), 0, 1)
    jaw = JAW * drop * np.exp(-np.square((x - middle) / (JAW_WIDTH * half)))
    below = np.clip((y - new_lower) / (LIP * unit), 0, 1)  # from the lip's edge to where the jaw moves as a whole
    chin = np.clip((height + 6 * unit - y) / np.maximum(unit, height - 3 * unit - new_lower), 0, 1)
    source = np.where(
        y <= new_upper,
        y + rise * round_bow * fading,
        np.where(
            y < new_lower,
            upper + y - new_upper,  # what was inside hangs on the upper lip
            y - ((1 - below) * (new_lower - lower) + below * jaw) * chin,
        ),
    )
    moved = cv2.remap(face, x, source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    _darken(moved, _inside_of(face, gap / unit), y, new_upper + lower - upper, new_lower, new_upper, unit)
    return np.concatenate((face[:first], moved))


def _darken(
    moved: np.ndarray,
    inside: np.ndarray,
    y: np.ndarray,
    top: np.ndarray,
    new_lower: np.ndarray,
    new_upper: np.ndarray,
    unit: float,
) -> None:
    """Paint what has opened, from `top` (whatever was inside hangs above) to the lower lip, in place."""
    opened = np.clip(y - top + 0.5, 0, 1) * np.clip(new_lower - y + 0.5, 0, 1)
    opened *= np.clip((new_lower - new_upper) / unit, 0, 1)
    rows, columns = (np.flatnonzero(opened.any(axis)) for axis in (1, 0))
    if not len(rows):
        return
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    depth = np.clip((y[part] - top[part]) / np.maximum(new_lower[part] - top[part], unit), 0, 1)
    colours = (1 + TONGUE * depth**4)[:, :, None] * inside
    window = moved[part]
    window[:] = (window + opened[part][:, :, None] * (colours - window) + 0.5).clip(0, 255)


def _inside_of(face: np.ndarray, gap: float) -> np.ndarray:
    """The colour of the inside of a mouth in the light of a face: (3,) BGR. `gap`: in pixels of a face 96 high."""
    height, width = face.shape[:2]
    skin = face[height * 5 // 12 : height * 7 // 12, width // 3 : width * 2 // 3].mean((0, 1))  # nose and cheeks
    colourful = np.clip((skin[2] - skin[0]) / max(1.0, FULL_COLOUR * skin[2]), 0, 1)
    wide = np.clip((gap - NARROW_GAP) / (WIDE_GAP - NARROW_GAP), 0, 1)
    dark = wide * np.array(WIDE) + (1 - wide) * np.array(NARROW)
    return skin * (colourful * dark + (1 - colourful) * dark.mean())


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


def with_mouth_of(face: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """The upper half of `pose` with the lower half of `face`, brought to its size and pose; (H, W, 3) uint8 both."""
    height, width = pose.shape[:2]
    if face.shape != pose.shape:
        face = cv2.resize(face, (width, height), interpolation=cv2.INTER_LINEAR)
    both = aligned(face, pose)
    if both is face:
        both = face.copy()
    share = np.clip((np.arange(height) + 0.5 - height / 2) / (SEAM * height) + 0.5, 0, 1)
    first, last = np.searchsorted(share, 0, "right"), np.searchsorted(share, 1)
    both[:first] = pose[:first]
    rows, melting = slice(first, last), share[first:last, None, None]
    both[rows] = (melting * both[rows] + (1 - melting) * pose[rows] + 0.5).astype(np.uint8)
    return both


def aligned(face: np.ndarray, to: np.ndarray) -> np.ndarray:
    """A face (H, W, 3) uint8 moved and turned so that its upper half lies on another's; as it is where that fails.

    Enhanced correlation coefficient (Evangelidis and Psarakis, 2008), which does not mind brightness.
    """
    height, width = to.shape[:2]
    shrink = max(1.0, height / ALIGNED_HEIGHT)
    size = round(width / shrink), round(height / shrink)
    region = np.zeros(size[::-1], np.uint8)
    region[size[1] // 24 : size[1] * 13 // 24, size[0] // 12 : size[0] * 11 // 12] = 255
    small = (cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA) for picture in (to, face))
    grey = [cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in small]
    matrix = np.eye(2, 3, dtype=np.float32)
    try:
        _, matrix = cv2.findTransformECC(*grey, matrix, cv2.MOTION_EUCLIDEAN, ALIGNMENT, region, 5)
    except cv2.error:  # it did not converge
        return face
    matrix[:, 2] = shrink * matrix[:, 2] + (shrink - 1) / 2 * (1 - matrix[:, :2].sum(1))  # pixels have middles
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    face = np.ascontiguousarray(face)
    return cv2.warpAffine(face, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def pose_of(face: np.ndarray) -> np.ndarray:
    """The upper part of a face, coarsely: (24 x 5 / 12, 24, 3) float32 or somewhat more."""
    top, step = face.shape[0] * 5 // 12, max(1, face.shape[0] // 24)
    return face[:top:step, ::step].astype(np.float32)


def pose_distances(pose: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mean absolute difference of a pose, see `pose_of`, from each of several (n, ...): (n,) in grey levels."""
    return np.abs(others - pose).mean((1, 2, 3))
