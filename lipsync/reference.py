"""References whose mouth is as far open and as wide as the speech sounds.

The published procedure makes every frame its own reference, whatever its mouth does (paper section 4). A generator
copies much of its reference's mouth, the more the less it was trained. Here what it copies fits what is said: of the
mouths that the video has shown so far in about the frame's pose, the one that comes nearest to how open and wide the
speech sounds, opened and rounded by warping for what is missing.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
import torch

import crops
from models.checkpoint import load_face_mesh, load_heard_shape, load_mouth_cover
from models.face_mesh import LIP_POINTS, FaceMesh
from models.speech_shape import windows_along, windows_so_far
from mouths.insides import Opened
from mouths.lips import with_whole_teeth
from mouths.poses import pose_distances, pose_of
from mouths.shapes import (
    OPEN_COST,
    OPENINGS_IN_TALKS,
    WIDTHS,
    gap_of,
    inside_misfits,
    misfits,
    opening_at,
    opening_of,
    widening_at,
)
from mouths.warping import shaped_on, with_gap

KEPT = 64  # mouths that a video has shown, at most
NOVEL = 3.0  # how far from all that are kept, in pose and opening, a mouth is that is kept, too: see `ShownMouths.add`
CUT = 20.0  # pose distance of frames from which on they are of different shots; of neighbours, 99 % are under 10
FAR = 16.0  # pose distance from which on another frame's mouth looks out of place
LOYALTY = 4.0  # pose distance by which another mouth must be better to take the place of the one used last ...
ALIKE = 6.0  # ... and how far, in pose and opening, one may be from that to have a part of this
COVERED = 4.0  # pose distance that each step of the logit counts, that a hand or the like is before a mouth
MOST_ROWS = 512  # of a mouth's picture: larger faces are shrunk to it


class Shape(NamedTuple):
    """How a mouth shall be."""

    opening: float  # in eye distances
    width: float  # over the video's mean

    @classmethod
    def at(cls, ranks: np.ndarray) -> "Shape":
        """Of the shares (2,) of all mouths that talk which are more closed, and narrower."""
        return cls(opening_at(ranks[0], OPENINGS_IN_TALKS), widening_at(ranks[1]))


class Seen:
    """A face at first glance.

    Attributes:
        crop: (h, w, 3) uint8 BGR, as it was given.
        face: (H, W, 3), of the generator's size.
        pose: see `pose_of`.
    """

    def __init__(self, crop: np.ndarray, img_size: tuple[int, int], mesh: FaceMesh):
        self.crop, self.face, self._mesh = crop, crops.fit(crop, img_size), mesh
        self.pose = pose_of(self.face)

    @cached_property
    def points(self) -> np.ndarray:
        """See `FaceMesh.points_of`; looked for when they are asked for, which is not always."""
        return self._mesh.points_of(self.crop)[0]

    @property
    def opening(self) -> float:
        """In eye distances."""
        return opening_of(self.points[list(LIP_POINTS)], self.face.shape[:2])


class Kept(NamedTuple):
    """A mouth to speak with."""

    pose: np.ndarray  # see `pose_of`
    opening: float  # in eye distances
    crop: np.ndarray  # (h, w, 3) uint8 BGR
    lips: np.ndarray  # (11, 2) of the crop, see `models.face_mesh.LIP_POINTS`
    visible: float  # logit of that nothing is before it

    @property
    def width(self) -> float:
        """Of the mouth, over that of the crop."""
        return max(1e-3, abs(float(self.lips[1, 0] - self.lips[0, 0])))


class Gallery:
    """Mouths to speak with; what is asked of all at once is stacked.

    Attributes:
        kept: the n mouths.
        openings, widths, visible: theirs (n,), see `Kept`; widths over their mean.
        apart: (n, n) how far they are from one another, see `away`; from themselves infinitely far.
    """

    def __init__(self, kept: Sequence[Kept] = (), apart: np.ndarray | None = None) -> None:
        self.kept, self.apart = tuple(kept), np.zeros((0, 0)) if apart is None else apart
        self._poses = np.array([each.pose for each in kept])
        numbers = [(each.opening, each.width, each.visible) for each in kept]
        self.openings, widths, self.visible = np.array(numbers).reshape(-1, 3).T
        self.mean_width = float(widths.mean()) if kept else 1.0
        self.widths = widths / self.mean_width

    def distances(self, pose: np.ndarray) -> np.ndarray:
        """How far they are from a pose (n,)."""
        return pose_distances(pose, self._poses) if self.kept else np.zeros(0)

    def away(self, seen: Seen | Kept) -> np.ndarray:
        """How far they are from one (n,), in pose and opening."""
        return self.distances(seen.pose) + OPEN_COST * np.abs(self.openings - seen.opening)

    def with_one(self, kept: Kept, away: np.ndarray) -> "Gallery":
        """And one more, which is so far `away` from the others."""
        apart = np.pad(self.apart, (0, 1), constant_values=np.inf)
        apart[-1, :-1] = apart[:-1, -1] = away
        return Gallery((*self.kept, kept), apart)

    def without_one(self) -> "Gallery":
        """Of the two that are most alike the one goes that is more likely covered."""
        alike = np.unravel_index(self.apart.argmin(), self.apart.shape)
        number = int(min(alike, key=lambda number: self.kept[number].visible))
        left = np.arange(len(self.kept)) != number
        return Gallery(self.kept[:number] + self.kept[number + 1 :], self.apart[left][:, left])


class ShownMouths:
    """The mouths that the shot that a video is in has shown; so few that memory does not grow.

    Args:
        img_size: (height, width) of the generator's faces, which may be squeezed.
    """

    def __init__(self, img_size: tuple[int, int]) -> None:
        self.img_size = img_size
        self._mesh, self._cover = load_face_mesh(), load_mouth_cover()
        self._gallery = Gallery()
        self._used: Kept | None = None
        self._inside: Kept | None = None
        self._last: Seen | None = None

    def add(self, crop: np.ndarray) -> None:
        """Take the next face of the video, of any size: (h, w, 3) uint8 BGR, as `crops.cut` gives it.

        It is kept if it is unlike all that are. Where that makes too many, of the two that are most alike the one
        goes that is more likely covered.
        """
        before, seen = self._last, self._glance(crop)
        if before is not None and pose_distances(seen.pose, before.pose[None])[0] > CUT:
            self._gallery, self._used, self._inside = Gallery(), None, None
        self._last = seen
        away = self._gallery.away(seen)
        if len(away) and away.min() < NOVEL:
            return
        self._gallery = self._gallery.with_one(self._looked_at(seen), away)
        if len(self._gallery.kept) > KEPT:
            self._gallery = self._gallery.without_one()

    def of(self, crop: np.ndarray, shape: Shape) -> np.ndarray:
        """A face that has been added, with a mouth of some shape: (h, w, 3) uint8 BGR, shrunk where it has more than
        `MOST_ROWS` rows.

        The mouth is the kept one that fits best, its own where none is near in pose, warped for what is missing.
        """
        seen = self._last if self._last is not None and self._last.crop is crop else self._glance(crop)
        distances = self._gallery.distances(seen.pose)
        kept, opened = self._fitting(distances, shape), self._opened(distances, shape)
        wide = kept.width / self._gallery.mean_width if kept is not None else 1.0
        kept = kept or self._looked_at(seen)
        face = bounded(crop)
        gap = gap_of(shape.opening, self.img_size[1]) * face.shape[0] / self.img_size[0]
        widening = float(np.clip(shape.width / wide, WIDTHS[0], WIDTHS[-1]))
        if np.array_equal(kept.crop, face):
            return with_gap(face, kept.lips, gap, widening, opened)
        other = kept.crop if kept.crop.shape == face.shape else cv2.resize(kept.crop, face.shape[1::-1])
        return shaped_on(other, kept.lips, face, gap, widening, opened)

    def _fitting(self, distances: np.ndarray, shape: Shape) -> Kept | None:
        """The kept mouth that fits best, if any is near in pose; the one that was used last or one like it, unless
        another is much better, since a mouth that changes shows. `distances` (n,) are theirs in pose."""
        gallery = self._gallery
        if not gallery.kept or distances.min() > FAR:
            return None
        costs = misfits(distances, gallery.openings, gallery.widths, *shape)
        costs += COVERED * np.maximum(0, -gallery.visible) - self._loyalty(self._used)
        costs[distances > FAR] = np.inf
        self._used = gallery.kept[int(costs.argmin())]
        return self._used

    def _opened(self, distances: np.ndarray, shape: Shape) -> Opened | None:
        """The kept mouth whose inside fits best, in the same way, of those that nothing is before."""
        gallery = self._gallery
        if not (gallery.visible > 0).any():
            return None
        costs = inside_misfits(distances, gallery.openings, shape.opening) - self._loyalty(self._inside)
        costs[gallery.visible <= 0] = np.inf
        self._inside = gallery.kept[int(costs.argmin())]
        return Opened(self._inside.crop, self._inside.lips)

    def _loyalty(self, used: Kept | None) -> np.ndarray | float:
        """By how much the kept mouths are better for being the one that was used last, or like it."""
        return 0.0 if used is None else LOYALTY * np.clip(1 - self._gallery.away(used) / ALIKE, 0, 1)

    def _glance(self, crop: np.ndarray) -> Seen:
        return Seen(crop, self.img_size, self._mesh)

    def _looked_at(self, seen: Seen) -> Kept:
        lips, crop = self._mesh.lips_of(seen.crop, seen.points), bounded(seen.crop)
        return Kept(seen.pose, seen.opening, crop, with_whole_teeth(crop, lips), self._cover.visible(seen.face))


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

    def __call__(self, speech: np.ndarray, places: np.ndarray, live: bool = False) -> Iterator[Shape]:
        """What is heard at ascending frames (n,) of a speech spectrogram (80, T), one after the other.

        What comes before and after counts, too: `AHEAD` frames and no more when `live`, so that it does not matter
        what else is known already.
        """
        for window, where in (windows_so_far if live else windows_along)(speech, places):
            with torch.inference_mode():
                ranks = self._network.rank(window, where)[0].numpy()
            yield from map(Shape.at, ranks)
