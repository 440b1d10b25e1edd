"""References whose mouth is as far open and as wide as the speech sounds.

The published procedure makes every frame its own reference, whatever its mouth does (paper section 4). A generator
copies much of its reference's mouth, the more the less it was trained. Here what it copies fits what is said: the most
closed mouth that the video has shown so far, in the frame's pose, opened and rounded by warping as the speech sounds.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
import torch

import crops
from models.checkpoint import load_heard_shape, load_mouth_shape, load_seen_opening
from models.opening import MouthOpening
from models.speech_shape import windows_along, windows_so_far
from mouths import (
    alignment,
    at_least_open,
    gap_at,
    gap_of,
    points_moved_by,
    pose_distances,
    pose_of,
    widening_at,
    with_gap,
    with_mouth_of,
    with_whole_teeth,
)

KEPT, KEPT_ALIKE = 12, 3  # faces, the most closed of all seen, and of those in one pose: the nearest gives its mouth
ALIKE = 12.0  # pose distance up to which faces are in one pose
CUT = 20.0  # pose distance of frames from which on they are of different shots; of neighbours, 99 % are under 10
FAR = 16.0  # pose distance from which on another frame's mouth looks out of place
# How much farther open than wanted a mouth is shown: generators close mouths, and so it opens as far as real ones do.
OPENED = 1.3
OPEN_COST = 200.0  # pose distance that an eye distance of `Kept.fault` is worth, where a mouth is chosen
LOYALTY = 2.0  # pose distance by which another mouth must be better to take the place of the one used last
COVERED = 0.02  # eye distances of opening that each step of the logit counts, that a hand or the like is before a mouth
MOST_ROWS = 512  # of a mouth's picture: larger faces are shrunk to it


class Mouth(NamedTuple):
    """A face and where its lips are, ready to speak."""

    face: np.ndarray  # (h, w, 3) uint8 BGR, of the size that it has in the video
    lips: np.ndarray  # see `models.opening.LIP_POINTS`
    img_size: tuple[int, int]  # (height, width) of the generator's faces, which may be squeezed

    def shaped(self, opening: float, width: float = 0.5) -> np.ndarray:
        """The face with a mouth that is more open than a share `opening` of all mouths that talk, and wider, against
        their means, than a share `width` of them: of the size of `face`."""
        gap = OPENED * gap_at(opening, self.img_size[1]) * self.face.shape[0] / self.img_size[0]
        return with_gap(self.face, self.lips, gap, widening_at(width))


class Seen:
    """A face at first glance.

    Attributes:
        crop: (h, w, 3) uint8 BGR, as it was given.
        face: (H, W, 3), of the generator's size.
        pose: see `pose_of`.
    """

    def __init__(self, crop: np.ndarray, img_size: tuple[int, int], judge: MouthOpening):
        self.crop, self.face, self._judge = crop, crops.fit(crop, img_size), judge
        self.pose = pose_of(self.face)

    @cached_property
    def opening(self) -> float:
        """In eye distances; looked for when it is asked for, which is not always."""
        return float(self._judge.openings_of(self.face[None])[0])


class Kept(NamedTuple):
    """A mouth to speak with."""

    opening: float  # in eye distances
    pose: np.ndarray  # see `pose_of`
    crop: np.ndarray  # (h, w, 3) uint8 BGR
    lips: np.ndarray  # (11, 2) of the crop
    visible: float  # logit of that nothing is before it

    @property
    def fault(self) -> float:
        """What is smaller is better, in eye distances: mouths that are closed and that nothing covers."""
        return self.opening + COVERED * max(0.0, -self.visible)


class ClosedMouths:
    """The most closed mouths of the shot that a video is in, pose by pose; so few that memory does not grow.

    Args:
        img_size: (height, width) of the generator's faces.
    """

    def __init__(self, img_size: tuple[int, int]) -> None:
        self.img_size = img_size
        self._seen, self._shape = load_seen_opening(), load_mouth_shape()
        self._kept: list[Kept] = []
        self._used: Kept | None = None
        self._last: Seen | None = None

    def add(self, crop: np.ndarray) -> None:
        """Take the next face of the video, of any size: (h, w, 3) uint8 BGR, as `crops.cut` gives it."""
        before, seen = self._last, self._glance(crop)
        if before is not None and pose_distances(seen.pose, before.pose[None])[0] > CUT:
            self._kept.clear()
        self._last = seen
        alike = [kept for kept, distance in self._distances(seen.pose) if distance <= ALIKE]
        among, most = (alike, KEPT_ALIKE) if len(alike) >= KEPT_ALIKE else (self._kept, KEPT)
        if len(among) >= most:
            worst = max(among, key=lambda kept: kept.fault)
            if seen.opening >= worst.fault:
                return
            self._kept = [kept for kept in self._kept if kept is not worst]
        self._kept.append(self._looked_at(seen))

    def of(self, crop: np.ndarray) -> Mouth:
        """A face with the kept mouth that is nearest in pose; with its own where none is near."""
        seen = self._last if self._last is not None and self._last.crop is crop else self._glance(crop)
        kept = self._nearest(seen.pose)
        if kept is None:
            own = self._looked_at(seen)
            return Mouth(own.crop, own.lips, self.img_size)
        crop = bounded(crop)
        if np.array_equal(kept.crop, crop):
            return Mouth(crop, kept.lips, self.img_size)
        height, width = crop.shape[:2]
        other = kept.crop if kept.crop.shape == crop.shape else cv2.resize(kept.crop, (width, height))
        matrix = alignment(other, crop)
        lips = points_moved_by(matrix, kept.lips, height, width)
        return Mouth(with_mouth_of(other, crop, matrix), lips, self.img_size)

    def _nearest(self, pose: np.ndarray) -> Kept | None:
        """The kept mouth that is nearest in pose and most closed, if one is near; the one that was used last, unless
        another is much better, since a mouth that changes shows."""
        near = [(kept, distance) for kept, distance in self._distances(pose) if distance <= FAR]
        if not near:
            return None
        costs = [distance + OPEN_COST * kept.fault - LOYALTY * (kept is self._used) for kept, distance in near]
        self._used = near[int(np.argmin(costs))][0]
        return self._used

    def _distances(self, pose: np.ndarray) -> list[tuple[Kept, float]]:
        """The kept mouths, and how far their poses are from one."""
        return [(kept, float(pose_distances(pose, kept.pose[None])[0])) for kept in self._kept]

    def _glance(self, crop: np.ndarray) -> Seen:
        return Seen(crop, self.img_size, self._seen)

    def _looked_at(self, seen: Seen) -> Kept:
        lips, visible = self._shape.closely(seen.face)
        gap = gap_of(seen.opening, self.img_size[1]) / self.img_size[0]
        lips, crop = at_least_open(lips, gap), bounded(seen.crop)  # the judge of openings knows better
        return Kept(seen.opening, seen.pose, crop, with_whole_teeth(crop, lips), visible)


def bounded(crop: np.ndarray) -> np.ndarray:
    """A copy of a crop (h, w, 3), shrunk where it has more than `MOST_ROWS` rows."""
    height, width = crop.shape[:2]
    if height <= MOST_ROWS:
        return crop.copy()
    return cv2.resize(crop, (max(1, round(width * MOST_ROWS / height)), MOST_ROWS), interpolation=cv2.INTER_AREA)


def wants_fitting(option: str, weights: str) -> bool:
    """Whether references are to fit the speech, by the value of `--reference` and what the weights ask for."""
    return (weights if option == "auto" else option) == "fitting"


class HeardShapes:
    """How open and how wide mouths are at what is heard."""

    def __init__(self) -> None:
        self._network = load_heard_shape()

    def __call__(self, speech: np.ndarray, places: np.ndarray, live: bool = False) -> Iterator[np.ndarray]:
        """What is heard at ascending frames (n,) of a speech spectrogram (80, T), one after the other: the shares (2,)
        in [0, 1] of all speech that sounds more closed, and narrower; see `Mouth.shaped`.

        What comes before and after counts, too: `AHEAD` frames and no more when `live`, so that it does not matter
        what else is known already.
        """
        for window, where in (windows_so_far if live else windows_along)(speech, places):
            with torch.inference_mode():
                ranks = self._network.rank(window, where)[0].numpy()
            yield from ranks
