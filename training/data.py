"""Training samples: windows of 5 frames, and the one sampler of all three stages (paper section 3)."""

import itertools
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from errors import InputError
from hparams import HParams
from models.syncnet import CONSECUTIVE, PUBLISHED_FPS, SYNCNET_T
from mouths.shapes import opening_of
from training.augment import JITTER_DRAWS, MelGain, WindowTransform
from training.clips import FILELISTS, Clip, Steps, cache_faces, check_fps, open_clips, stored_fps, why_unusable
from training.labels import give_lips
from training.matching import FittingReferences, check_fitting
from training.pack import is_packed, packed_fps, read_pack
from training.shards import clips_of, is_sharded, shard_set
from training.stream import ShardStream


def load_clips(
    data_root: Path, split: str, hp: HParams, lead: int, filelists: Path = FILELISTS, steps: Steps = CONSECUTIVE
) -> list[Clip]:
    """The usable clips of a split, of a preprocessed tree or of the pack or shards made of one. Raises InputError.

    Packs and shards have their own lists of clips; `filelists` is for trees.
    """
    if is_sharded(data_root, split):
        shards = shard_set(data_root, split)
        check_fps(shards.fps, data_root, hp)
        clips = [clip for shard in shards.shards for clip in clips_of(shard)]
    elif is_packed(data_root, split):
        clips = read_pack(data_root, split, hp)
    else:
        clips = open_clips(data_root, split, hp, filelists, steps)
    if hp.fitting_references:  # training.landmarks looks at all that anything can be learnt from
        give_lips(data_root, split, [clip for clip in clips if why_unusable(clip, hp, 0, CONSECUTIVE) is None])
    usable = [clip for clip in clips if why_unusable(clip, hp, lead, steps) is None]
    if not usable:
        raise InputError(f"no clip of {split} in {data_root} has 2 windows of {SYNCNET_T} consecutive frames")
    if len(usable) < len(clips):
        tqdm.write(f"{split}: {len(usable)} of {len(clips)} clips have 2 windows that can be learnt from")
    clips = usable
    if clips[0].faces is None:
        cache_faces(clips, split, hp)
    return clips


def training_set(
    data_root: Path,
    hp: HParams,
    filelists: Path,
    seed: int,
    kind: type["_WindowDataset"],
    steps: Steps = CONSECUTIVE,
) -> "_WindowDataset | ShardStream":
    """Samples of the training split: of clips in memory or on a disk, or streamed where they are shards.

    Raises InputError when there are none.
    """
    make = partial(kind, hp=hp, seed=seed, train=True, steps=steps)
    check_fitting(hp, is_sharded(data_root, "train"))
    if not is_sharded(data_root, "train"):
        return make(load_clips(data_root, "train", hp, kind.lead, filelists, steps))
    shards = shard_set(data_root, "train")
    check_fps(shards.fps, data_root, hp)
    return ShardStream(shards, make, hp, kind.lead, steps, seed)


def data_fps(data_root: Path, split: str) -> float:
    """Frames a second of a split by its own word, else the published 25. Raises InputError."""
    if is_sharded(data_root, split):
        return shard_set(data_root, split).fps
    stored = packed_fps(data_root, split) if is_packed(data_root, split) else stored_fps(data_root)
    return stored or PUBLISHED_FPS


class WindowSampler:
    """Draws windows of clips; every draw is a function of its random generator alone.

    Args:
        clips: usable clips.
        fps: frames a second of the clips.
        lead: see `Clip.window_starts`.
        min_distance: frames that windows drawn together lie apart, where the clip is long enough.
        steps: the frames of a window, counted from its first.
    """

    def __init__(self, clips: list[Clip], fps: float, lead: int, min_distance: int, steps: Steps = CONSECUTIVE):
        self.clips, self.min_distance = clips, max(1, min_distance)
        self._window_starts = partial(Clip.window_starts, fps=fps, lead=lead, steps=steps)
        self.starts = [self._window_starts(clip) for clip in clips]

    def replace(self, at: int, clip: Clip) -> None:
        """Put another clip in the place of one."""
        self.clips[at], self.starts[at] = clip, self._window_starts(clip)

    def draw(self, clip: int, rng: np.random.Generator, first: int | None = None) -> tuple[int, int]:
        """A window's start, unless it is given, and another's of the same clip, at least `min_distance` frames apart if
        possible."""
        starts = self.starts[clip]
        if first is None:
            first = starts[rng.integers(len(starts))]
        distances = np.abs(starts - first)
        others = starts[distances >= min(self.min_distance, distances.max())]
        return int(first), int(others[rng.integers(len(others))])

    def draw_many(self, clip: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """`count` starts of one clip, different from one another as long as there are enough."""
        starts = self.starts[clip]
        return rng.choice(starts, count, replace=count > len(starts))


class OpenedWindows:
    """Draws windows of all clips by how open their mouths are: twice as open, four times as often.

    Most mouths of most talking faces are all but shut, presenters' above all; a generator that learnt from windows as
    they come washes out wide ones.

    Raises InputError where `training.landmarks` has not looked at the clips, and where all mouths are shut.
    """

    def __init__(self, windows: WindowSampler, img_size: tuple[int, int], steps: Steps):
        if any(clip.lips is None for clip in windows.clips):
            raise InputError("opened_share needs to know where lips are: run training.landmarks on these data")
        self._clips = np.repeat(np.arange(len(windows.clips)), [len(starts) for starts in windows.starts])
        self._starts = np.concatenate(windows.starts)
        openings = []
        for clip, starts in zip(windows.clips, windows.starts, strict=True):
            shown = np.array([opening_of(lips, img_size) for lips in np.nan_to_num(clip.lips)])
            openings.append(shown[np.searchsorted(clip.numbers, np.add.outer(starts, steps))].mean(1))
        self._until = np.cumsum(np.concatenate(openings) ** 2)
        if not self._until[-1] > 0:
            raise InputError("opened_share: no mouth of the data is open")

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """A clip and the start of a window of it."""
        at = np.searchsorted(self._until, rng.random() * self._until[-1], side="right")
        return int(self._clips[at]), int(self._starts[at])


class _WindowDataset(Dataset, ABC):
    """Sample i is a function of (seed, i): epochs are reshuffled, a resumed run draws what the first would have.

    `steps` are the frames of a window, counted from its first: other than 0 to 4 for an expert that learnt at another
    rate than the clips have.
    """

    lead = 0

    def __init__(self, clips: list[Clip], hp: HParams, seed: int, train: bool, steps: Steps = CONSECUTIVE):
        self.clips, self.hp, self.seed, self.train, self.steps = clips, hp, seed, train, steps
        self.img_size = hp.face_size
        self.windows = WindowSampler(clips, hp.fps, self.lead, hp.negative_frames, steps)
        self._order: tuple[int, np.ndarray] = (-1, np.arange(len(clips)))

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, index))
        return self.sample(self.clip_of(index), rng)

    @property
    def epoch_size(self) -> int:
        """Samples of an epoch."""
        return len(self)

    def replace(self, at: int, clip: Clip) -> None:
        """Put another clip in the place of one."""
        self.windows.replace(at, clip)

    def clip_of(self, index: int) -> int:
        """The clip that sample `index` comes from; each epoch visits every clip once."""
        epoch, place = divmod(index, len(self.clips))
        if not self.train:
            return place
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self.seed, epoch, 1)).permutation(len(self.clips))
        return int(self._order[1][place])

    def transforms(self, rng: np.random.Generator) -> tuple[WindowTransform, MelGain]:
        random = self.train and self.hp.augment
        return WindowTransform.draw(rng, random, self.hp.vary_colours), MelGain.draw(rng, random)

    @abstractmethod
    def sample(self, clip: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A sample of a clip; all that is random in it comes from `rng`."""


class ExpertDataset(_WindowDataset):
    """Samples of the expert (paper section 3.1).

    `faces` (15, H / 2, W) uint8: 5 lower halves stacked on channels; `mel` (1, 80, 16); `label` (1,): 1 when the
    mel is the faces' own, 0 when the faces are of another start of the same clip. A fair coin decides in training;
    in validation even draws are true and odd draws are false.
    """

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if self.train:
            return super().__getitem__(index)
        pair, label = divmod(index, 2)  # both samples of a pair are of the same draw
        rng = np.random.default_rng((self.seed, pair))
        return self._sample(self.clip_of(pair), rng, label=1 - label)

    def sample(self, clip: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return self._sample(clip, rng, label=int(rng.integers(2)))

    def _sample(self, clip: int, rng: np.random.Generator, label: int) -> dict[str, np.ndarray]:
        start, other = self.windows.draw(clip, rng)
        transform, gain = self.transforms(rng)
        source = self.clips[clip]
        return {
            "faces": expert_faces(transform(source.window(start if label else other, self.img_size, self.steps))),
            "mel": gain(source.mel_window(start, self.hp.fps))[None],
            "label": np.array([label], np.float32),
        }


class ExpertPairsDataset(_WindowDataset):
    """Samples for losses over all pairs of windows in a batch (syncnet_loss=infonce or bce_pairs).

    `faces` (K, 15, H / 2, W) uint8, `mel` (K, 1, 80, 16), `start` (K,) frame numbers, `clip` (K,) the clip. With
    `taught`, what `training.taught` reads of each clip, also `heard` and `seen` (K, D), not numbers where nothing is
    known. With `hp.vary_voices` also `voice`, the seed of what is done to a batch's speech.
    """

    taught: list[tuple[np.ndarray, np.ndarray]] | None = None

    def sample(self, clip: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        starts = self.windows.draw_many(clip, self.hp.syncnet_windows, rng)
        faces, mels = [], []
        transform, gain = self.transforms(rng)
        source = self.clips[clip]
        for start in starts:
            faces.append(expert_faces(transform(source.window(start, self.img_size, self.steps))))
            mels.append(gain(source.mel_window(start, self.hp.fps))[None])
        sample = {
            "faces": np.stack(faces),
            "mel": np.stack(mels),
            "start": starts,
            "clip": np.full(len(starts), zlib.crc32(str(source.folder).encode())),
        }
        if self.hp.vary_voices:
            sample["voice"] = rng.integers(2**31)
        if self.taught is not None:
            at = np.searchsorted(source.numbers, starts)
            sample["heard"], sample["seen"] = (rows[at] for rows in self.taught[clip])
        return sample


class GeneratorDataset(_WindowDataset):
    """Samples of the generator (paper section 3.4).

    `target` and `reference` (3, 5, H, W) uint8: a window and a different one of the same clip, or with
    `hp.fitting_references` what `training.matching` makes for it; `indiv_mels`
    (5, 1, 80, 16): each frame gets the mel that starts one frame earlier; `mel` (1, 80, 16) starts at the window.
    `reference_indiv_mels` and `reference_mel` are the reference's: only there when `reference_speech` is set, which by
    default is when a loss uses them. `jitter` is what `augment.jitter` takes, with augmentation.
    """

    lead = 1

    def __init__(
        self,
        clips: list[Clip],
        hp: HParams,
        seed: int,
        train: bool,
        steps: Steps = CONSECUTIVE,
        reference_speech: bool | None = None,
    ):
        super().__init__(clips, hp, seed, train, steps)
        needed = hp.contrast_wt > 0 or hp.spoken_over_share > 0
        self.reference_speech = needed if reference_speech is None else reference_speech
        self.fitting = None
        if hp.fitting_references:
            self.fitting = FittingReferences(clips, hp.fps, self.img_size, hp.negative_frames, heard=not train)
        wide = train and hp.opened_share > 0
        self.opened = OpenedWindows(self.windows, self.img_size, steps) if wide else None

    def sample(self, clip: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        first = None
        if self.opened is not None and rng.random() < self.hp.opened_share:
            clip, first = self.opened.draw(rng)
        windows = self.windows.draw(clip, rng, first)
        transform, gain = self.transforms(rng)
        source = self.clips[clip]
        targets = source.window(windows[0], self.img_size, self.steps)
        if self.fitting is None:
            references = source.window(windows[1], self.img_size, self.steps)
        else:
            places = np.searchsorted(source.numbers, windows[0] + np.array(self.steps))
            references = self.fitting(clip, targets, places, rng)
        frames = (np.array([*(start - self.lead + k for k in self.steps), start]) for start in windows)
        speech = (gain(source.mel_windows(at, self.hp.fps))[:, None] for at in frames)
        sample = {
            "target": channels_first(transform(targets)),
            "reference": channels_first(transform(references)),
        }
        for prefix, mels in zip(("", "reference_")[: 1 + self.reference_speech], speech, strict=False):
            sample |= {f"{prefix}indiv_mels": mels[:SYNCNET_T], f"{prefix}mel": mels[SYNCNET_T]}
        if self.train and self.hp.augment:
            sample["jitter"] = rng.uniform(-1, 1, JITTER_DRAWS).astype(np.float32)
        return sample


def collate(samples: Sequence[dict[str, np.ndarray]]) -> dict[str, Tensor]:
    """Samples as one batch, along a new first axis: one copy, without a tensor for every piece of a sample."""
    return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}


def expert_faces(window: np.ndarray) -> np.ndarray:
    """(5, H, W, 3) -> lower halves stacked on channels, time-major: (15, H / 2, W)."""
    lower = window[:, window.shape[1] // 2 :]
    return lower.transpose(0, 3, 1, 2).reshape(-1, *lower.shape[1:3])


def channels_first(window: np.ndarray) -> np.ndarray:
    """(5, H, W, 3) -> (3, 5, H, W), a view: collating makes the one copy of a batch."""
    return window.transpose(3, 0, 1, 2)


class StepSampler(Sampler[list[int]]):
    """Endless batches of sample indices, from any sample on; rank r of w takes its share of each step's samples.

    Which samples a step has depends on how many it has in all, not on how many ranks share them.
    """

    def __init__(self, batch_size: int, first_sample: int = 0, rank: int = 0, world_size: int = 1):
        self.batch_size, self.first = batch_size, first_sample + rank * batch_size
        self.stride = world_size * batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for first in itertools.count(self.first, self.stride):
            yield list(range(first, first + self.batch_size))
