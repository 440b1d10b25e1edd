"""References that fit the speech, for training: the target's pose with a mouth that is about as open and wide."""

from typing import NamedTuple

import numpy as np
import torch

import audio
from errors import InputError
from hparams import HParams, hparams
from models.checkpoint import load_face_mesh, load_heard_shape
from models.speech_shape import heard_along
from mouths.insides import Opened
from mouths.poses import pose_distances, pose_of
from mouths.shapes import WIDTHS, gap_of, inside_misfits, misfits, opening_at, opening_of, widening_at
from mouths.warping import shaped_on
from training.clips import Clip

MISS = 0.011  # standard deviation, in eye distances, of what a fitting reference's mouth misses its target's by
WIDTH_MISS = 0.02  # the same of its width, over the mean


class Shown(NamedTuple):
    """What is known of the n mouths of a clip."""

    poses: np.ndarray  # (n, ...) uint8, see `pose_of`
    openings: np.ndarray  # (n,) in eye distances
    lips: np.ndarray  # (n, 11, 2), see `models.face_mesh.LIP_POINTS`
    widths: np.ndarray  # (n,) over their mean


class FittingReferences:
    """References whose mouth is about as open and wide as the target's, in the target's pose: what inference shows a
    generator whose `reference` is "fitting" (`lipsync.reference`).

    The mouth is that of the clip's frame that fits best, see `mouths.shapes.misfits`, opened, closed and widened as the
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
        self._mesh = load_face_mesh()
        self._hear = load_heard_shape() if heard else None
        self._speech: dict[int, np.ndarray] = {}  # of clips that were heard: a tree's sound is decoded once
        self._shown: dict[int, Shown] = {}

    @torch.autocast("cpu", enabled=False)  # samples are the same in every precision
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
            self._said(clip, shown, *self._choose(shown, there, int(place), *shape), target, *shape)
            for place, target, *shape in zip(places, targets, openings, widths, strict=True)
        ])  # fmt: skip

    def _said(
        self, clip: int, shown: Shown, other: int, inside: int, target: np.ndarray, opening: float, width: float
    ) -> np.ndarray:
        """The mouth of frame `other` in the pose of a face (H, W, 3), of some opening and width; what is missing
        inside is that of another frame."""
        opened = Opened(self.clips[clip].face(inside, self.img_size), shown.lips[inside])
        face = self.clips[clip].face(other, self.img_size)
        gap = max(0.0, gap_of(opening, self.img_size[1]))
        widening = float(np.clip(width / shown.widths[other], WIDTHS[0], WIDTHS[-1]))
        return shaped_on(face, shown.lips[other], target, gap, widening, opened)

    def _choose(self, shown: Shown, there: np.ndarray, place: int, opening: float, width: float) -> tuple[int, int]:
        """The frames whose mouth fits best, and whose inside does, of those that are `there` and far enough away; of
        all where none is."""
        count = len(shown.openings)
        far = np.flatnonzero(np.abs(np.arange(count) - place) >= min(self.distance, count // 2))
        among = far[np.isin(far, there)]
        usable = among if len(among) else far
        distances = pose_distances(shown.poses[place].astype(np.float32), shown.poses[usable])
        openings = shown.openings[usable]
        costs = misfits(distances, openings, shown.widths[usable], opening, width)
        return int(usable[costs.argmin()]), int(usable[inside_misfits(distances, openings, opening).argmin()])

    def _look_at(self, clip: int) -> Shown:
        if clip not in self._shown:
            source = self.clips[clip]
            poses, found = [], []
            known = source.lips is not None and self.img_size == hparams.face_size  # as training.landmarks saw them
            for at in range(len(source.numbers)):
                face = source.face(at, self.img_size)  # large ones: one by one
                poses.append(pose_of(face).astype(np.uint8))
                there = known and np.isfinite(source.lips[at]).all()
                found.append(source.lips[at].astype(float) if there else self._mesh.lips_of(face))
            lips = np.stack(found)
            openings = np.array([opening_of(each, self.img_size) for each in lips])
            widths = np.abs(lips[:, 1, 0] - lips[:, 0, 0])
            self._shown[clip] = Shown(np.stack(poses), openings, lips, widths / widths.mean())
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


def check_fitting(hp: HParams, sharded: bool) -> None:
    """Raises InputError where fitting references cannot be made."""
    if hp.fitting_references and (hp.contrast_wt or hp.spoken_over_share):
        raise InputError("fitting_references have no speech of their own: leave contrast_wt and spoken_over_share at 0")
    if hp.fitting_references and sharded:
        raise InputError("fitting_references need all clips at hand: use a preprocessed tree or a pack, not shards")
    if hp.opened_share and not hp.fitting_references:
        raise InputError("opened_share goes with fitting_references=True")
