"""How open and how wide mouths are: of real ones, in eye distances and pixels, and which of several fits best."""

from typing import Any

import numpy as np

# Openings of real talking faces, in distances of the outer eye corners: the quantiles 0, 0.1, ... 1, without outliers.
OPENINGS = (0, 0.002, 0.004, 0.006, 0.013, 0.022, 0.031, 0.042, 0.058, 0.083, 0.13)
# The same of who talks freely: most of the others read the news, with little movement.
OPENINGS_IN_TALKS = (0, 0.003, 0.005, 0.010, 0.020, 0.032, 0.047, 0.066, 0.087, 0.114, 0.13)
# Widths of real talking mouths over their clip's mean: the quantiles 0, 0.1, ... 1, without outliers.
WIDTHS = (0.85, 0.930, 0.963, 0.981, 0.994, 1.005, 1.016, 1.027, 1.041, 1.063, 1.13)
ROUNDING = 0.7  # of real changes of width: half of what is heard of them is wrong
EYE_DISTANCE = 0.61  # over a face box's width
# What a mouth that is not as wanted costs, in pose distances: by an eye distance of its opening; by its width's mean.
OPEN_COST, WIDTH_COST = 100.0, 25.0
# The same where only its inside is taken: a pose distance, and an eye distance by which it opens less than is wanted.
INSIDE_POSE, INSIDE_COST = 0.5, 200.0


def opening_at(rank: float, among: tuple[float, ...] = OPENINGS) -> float:
    """The opening that a share `rank` of talking mouths do not reach, in eye distances; `among`: their quantiles."""
    return float(np.interp(rank, np.linspace(0, 1, len(among)), among))


def widening_at(rank: float) -> float:
    """The width that a share `rank` of talking mouths do not reach, over their mean, moderated."""
    return 1 + ROUNDING * (float(np.interp(rank, np.linspace(0, 1, len(WIDTHS)), WIDTHS)) - 1)


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
