"""Samples whose speech is known to fit the mouth: frames of a face, each with speech that sounds as far open.

What a mouth does follows from what can be heard with a correlation of about 0.5 (`models.opening`). In true pairs of
frame and speech most of a mouth's changes are therefore noise to a generator, and copying its reference pays better
than listening. Here a face in one pose is its own reference, as in inference, once with a closed mouth and once with an
open one, and says with either what sounds closed and what sounds open. Nothing but the speech tells which mouth is
wanted, and copying is wrong as often as right. The speech is drawn from all clips by how far open it sounds.
"""

from typing import NamedTuple

import numpy as np
import torch

import audio
from errors import InputError
from hparams import HParams
from models.checkpoint import load_heard_shape, load_mouth_shape, load_seen_opening
from models.opening import MouthOpening, as_input
from models.speech_shape import heard_along
from mouths import (
    WIDTHS,
    at_least_open,
    gap_of,
    misfits,
    opening_at,
    pose_distances,
    pose_of,
    put_on,
    shaped_on,
    widening_at,
)
from training.clips import Clip

POOL = 20_000  # mel windows that speech is drawn from
MIN_RANGE = 0.025  # eye distances between the 10th and 90th percentile of a clip's openings, for it to teach anything
CANDIDATES = 3  # drawn for a mouth: the one nearest in pose is taken
CLOSED, OPEN, ANY = range(3)
REFERENCES = (CLOSED, CLOSED, OPEN, OPEN, ANY)  # mouths of the references of a sample's five frames
TARGETS = (CLOSED, OPEN, CLOSED, OPEN, ANY)  # mouths of its targets, which the speech says
MISS = 0.0066  # standard deviation, in eye distances, of what a fitting reference's mouth misses its target's by
WIDTH_MISS = 0.02  # the same of its width, over the mean
TREMBLE = 0.02  # standard deviation of what is added to a frame's rank before speech of that rank is looked up


class MouthRanks:
    """How open the mouths of clips are, each clip looked at once.

    Args:
        clips: usable clips, all in memory or on a disk.
        img_size: (height, width) of the faces.
    """

    def __init__(self, clips: list[Clip], img_size: tuple[int, int]):
        self.clips, self.img_size = clips, img_size
        self._seen: MouthOpening = load_seen_opening()
        self._known: dict[int, np.ndarray | None] = {}

    @torch.inference_mode()
    def __call__(self, clip: int) -> np.ndarray | None:
        """(n,) in [0, 1], half by a mouth's place in its clip and half among all; None where mouths hardly move."""
        if clip not in self._known:
            source = self.clips[clip]
            faces = np.stack([source.face(at, self.img_size) for at in range(len(source.numbers))])
            standardised = self._seen.standardised(as_input(faces))
            opening = (self._seen.mean + self._seen.std * standardised).numpy()
            low, high = np.percentile(opening, (10, 90))
            within = np.argsort(np.argsort(opening)) / max(1, len(opening) - 1)
            among_all = torch.special.ndtr(standardised).numpy()
            self._known[clip] = None if high - low < MIN_RANGE else (within + among_all) / 2
        return self._known[clip]


class Shown(NamedTuple):
    """What is known of the n mouths of a clip."""

    poses: np.ndarray  # (n, ...) uint8, see `pose_of`
    openings: np.ndarray  # (n,) in eye distances
    lips: np.ndarray  # (n, 11, 2), see `models.opening.LIP_POINTS`
    widths: np.ndarray  # (n,) over their mean


class FittingReferences:
    """References whose mouth is about as open and wide as the target's, in the target's pose: what inference shows a
    generator whose `reference` is "fitting" (`lipsync.reference`).

    The mouth is that of the clip's frame that fits best, see `mouths.misfits`, opened, closed and widened as the
    target's.

    Args:
        clips: usable clips, all in memory or on a disk.
        fps: frames a second of the clips.
        img_size: (height, width) of the faces.
        distance: frames that lie at least between a target and where its mouth is taken from.
        heard: the speech says how the mouth is, as in inference, instead of the target, as in training: where
            speech and mouth often disagree, a generator learns to trust neither. In training a random part of the
            frames is there to choose from, as if a video had shown no more so far.
    """

    def __init__(self, clips: list[Clip], fps: float, img_size: tuple[int, int], distance: int, heard: bool):
        self.clips, self.fps, self.img_size, self.distance = clips, fps, img_size, distance
        self._shape, self._seen = load_mouth_shape(), load_seen_opening()
        self._hear = load_heard_shape() if heard else None
        self._speech: dict[int, np.ndarray] = {}  # of clips that were heard: a tree's sound is decoded once
        self._shown: dict[int, Shown] = {}

    def __call__(self, clip: int, targets: np.ndarray, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The references of faces (n, H, W, 3) at places (n,) of a clip."""
        shown = self._look_at(clip)
        openings, widths = self._wanted(clip, shown, places)
        openings = openings + rng.normal(0, MISS, len(places))
        widths = widths + rng.normal(0, WIDTH_MISS, len(places))
        there = np.arange(len(shown.openings))
        if self._hear is None:
            there = rng.choice(there, rng.integers(1, len(there) + 1), replace=False)
        return np.stack([
            self._said(clip, shown, self._choose(shown, there, int(place), *shape), target, *shape)
            for place, target, *shape in zip(places, targets, openings, widths, strict=True)
        ])  # fmt: skip

    def _said(
        self, clip: int, shown: Shown, other: int, target: np.ndarray, opening: float, width: float
    ) -> np.ndarray:
        """The mouth of frame `other` in the pose of a face (H, W, 3), of some opening and width."""
        face = self.clips[clip].face(other, self.img_size)
        gap = max(0.0, gap_of(opening, self.img_size[1]))
        widening = float(np.clip(width / shown.widths[other], WIDTHS[0], WIDTHS[-1]))
        return shaped_on(face, shown.lips[other], target, gap, widening)

    def _choose(self, shown: Shown, there: np.ndarray, place: int, opening: float, width: float) -> int:
        """The frame whose mouth fits best, of those that are `there` and far enough away; of all where none is."""
        count = len(shown.openings)
        far = np.flatnonzero(np.abs(np.arange(count) - place) >= min(self.distance, count // 2))
        among = far[np.isin(far, there)]
        usable = among if len(among) else far
        distances = pose_distances(shown.poses[place].astype(np.float32), shown.poses[usable])
        return int(usable[misfits(distances, shown.openings[usable], shown.widths[usable], opening, width).argmin()])

    def _look_at(self, clip: int) -> Shown:
        if clip not in self._shown:
            source = self.clips[clip]
            poses, openings, found = [], [], []
            for face in (source.face(at, self.img_size) for at in range(len(source.numbers))):  # large ones: one by one
                poses.append(pose_of(face).astype(np.uint8))
                openings.append(self._seen.openings_of(face[None])[0])
                gap = gap_of(openings[-1], self.img_size[1]) / self.img_size[0]
                found.append(at_least_open(self._shape.lips_of(face[None])[0], gap))
            lips = np.stack(found)
            widths = np.abs(lips[:, 1, 0] - lips[:, 0, 0])
            self._shown[clip] = Shown(np.stack(poses), np.array(openings), lips, widths / widths.mean())
        return self._shown[clip]

    @torch.inference_mode()
    def _wanted(self, clip: int, shown: Shown, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How open the mouths at some places shall be, in eye distances, and how wide, over the clip's mean."""
        if self._hear is None:
            return shown.openings[places], shown.widths[places]
        if clip not in self._speech:
            self._speech[clip] = self.clips[clip].speech()
        frames, which = np.unique(self.clips[clip].numbers[places], return_inverse=True)
        ranks = heard_along(self._hear.rank, self._speech[clip], audio.speech_places(frames, self.fps))
        openings, widths = ranks[which].T.tolist()
        return np.array([opening_at(rank) for rank in openings]), np.array([widening_at(rank) for rank in widths])


class Matches:
    """Draws matched samples; every draw is a function of its random generator and of `seed` alone.

    Args:
        clips: usable clips, all in memory or on a disk.
        starts: of each clip, frame numbers whose mel window exists one frame earlier.
        fps: frames a second of the clips.
        img_size: (height, width) of the faces.
        seed: of the speech to draw from.
    """

    def __init__(self, clips: list[Clip], starts: list[np.ndarray], fps: float, img_size: tuple[int, int], seed: int):
        self.clips, self.img_size = clips, img_size
        self._ranks = MouthRanks(clips, img_size)
        self._speech = self._pool(starts, fps, np.random.default_rng((seed, 2)))

    @torch.inference_mode()
    def _pool(self, starts: list[np.ndarray], fps: float, rng: np.random.Generator) -> np.ndarray:
        """Mel windows (n, 80, 16) of anywhere, from those that sound most closed to those that sound most open."""
        hear = load_heard_shape()
        count = min(POOL, sum(map(len, starts)))
        chosen = np.sort(rng.integers(len(starts), size=count))
        windows, openings = [], []
        for clip, times in zip(*np.unique(chosen, return_counts=True), strict=True):
            frames = np.sort(rng.choice(starts[clip], times)) - 1
            windows.append(self.clips[clip].mel_windows(frames, fps))
            heard = heard_along(hear, self.clips[clip].speech(), audio.speech_places(frames + 1, fps))
            openings.append(heard[:, 0])
        return np.concatenate(windows)[torch.cat(openings).argsort(stable=True).numpy()]

    def sample(self, clip: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Five frames in one pose: `TARGETS`, `REFERENCES` and speech that sounds like the targets.

        Returns targets and references (5, H, W, 3) uint8 BGR, upper halves all alike, and mels (5, 80, 16). None for a
        clip whose mouth hardly moves.
        """
        ranks = self._ranks(clip)
        if ranks is None:
            return None
        source = self.clips[clip]
        order, pose = np.argsort(ranks), source.face(int(rng.integers(len(ranks))), self.img_size)
        quarters = np.array_split(order, 4)
        picked = []
        for among in (quarters[0], quarters[-1], order):  # CLOSED, OPEN, ANY
            drawn = rng.choice(among, min(CANDIDATES, len(among)), replace=False)
            far = pose_distances(pose_of(pose), np.stack([pose_of(source.face(at, self.img_size)) for at in drawn]))
            picked.append(drawn[np.argmin(far)])
        faces = np.stack([put_on(source.face(at, self.img_size), pose) for at in picked])
        wanted = np.clip(ranks[picked] + rng.normal(0, TREMBLE, len(picked)), 0, 1)
        mels = self._speech[np.round(wanted * (len(self._speech) - 1)).astype(int)]
        return faces[list(TARGETS)], faces[list(REFERENCES)], mels[list(TARGETS)]


def check_matched(hp: HParams, sharded: bool) -> None:
    """Raises InputError where matched samples or fitting references cannot be made."""
    if not 0 <= hp.matched_share <= 1:
        raise InputError("matched_share is a share of the samples, from 0 to 1")
    if hp.fitting_references and (hp.contrast_wt or hp.spoken_over_share):
        raise InputError("fitting_references have no speech of their own: leave contrast_wt and spoken_over_share at 0")
    if sharded and (hp.matched_share or hp.fitting_references):
        raise InputError(
            "matched_share and fitting_references need all clips at hand: use a preprocessed tree or a pack, not shards"
        )
