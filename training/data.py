"""Training data: preprocessed clips, windows of 5 frames, and the one sampler of all three stages (paper section 3).

A preprocessed clip is a folder of face crops `<frame number>.jpg`, `audio.wav` and, where preprocess.py made it,
`mel.npy`. Crops are decoded once and stay in memory when they fit; the mel is never computed twice in a run.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

import audio
from errors import InputError
from hparams import HParams
from models.syncnet import SYNCNET_T
from training.augment import MelGain, WindowTransform

MIN_FRAMES = 16  # a clip needs more than 15
FILELISTS = Path(__file__).resolve().parent.parent / "filelists"


@dataclass
class Clip:
    """One preprocessed clip.

    Attributes:
        folder: where its crops lie.
        numbers: (n,) frame numbers that have a crop, ascending.
        mel: (mel frames, 80) float32.
        faces: (n, H, W, 3) uint8 BGR, or None while crops are decoded on demand.
    """

    folder: Path
    numbers: np.ndarray
    mel: np.ndarray
    faces: np.ndarray | None = None

    def window_starts(self, fps: float, lead: int = 0) -> np.ndarray:
        """Frame numbers at which 5 consecutive crops exist and mel windows fit.

        `lead` frames more of mel are needed before the start: 0 for the expert, 1 for the generator, whose frame
        f + k hears the mel that starts at frame f + k - 1.
        """
        have = np.zeros(self.numbers[-1] + SYNCNET_T + 1, bool)
        have[self.numbers] = True
        starts = [f for f in self.numbers if f >= lead and have[f : f + SYNCNET_T].all()]
        last = SYNCNET_T - 1 - lead if lead else 0  # the latest frame, counted from f, whose mel is used
        ends = [mel_start(f + last, fps) + audio.MEL_STEP_SIZE for f in starts]
        return np.array([f for f, end in zip(starts, ends, strict=True) if end <= len(self.mel)], int)

    def window(self, start: int, img_size: tuple[int, int]) -> np.ndarray:
        """The 5 crops from frame `start` on: (5, H, W, 3) uint8 BGR."""
        at = int(np.searchsorted(self.numbers, start))
        if self.faces is not None:
            return self.faces[at : at + SYNCNET_T]
        return np.stack([read_crop(self.folder / f"{start + k}.jpg", img_size) for k in range(SYNCNET_T)])

    def mel_window(self, frame: int, fps: float) -> np.ndarray:
        """The mel that starts at a video frame: (80, 16)."""
        start = mel_start(frame, fps)
        return self.mel[start : start + audio.MEL_STEP_SIZE].T


def mel_start(frame: int, fps: float) -> int:
    """First mel frame of a video frame."""
    return int(audio.MEL_FRAMES_PER_SECOND * frame / fps)


def read_crop(path: Path, img_size: tuple[int, int]) -> np.ndarray:
    """A face crop resized to (height, width): (H, W, 3) uint8 BGR. Raises InputError when it does not decode."""
    crop = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if crop is None:
        raise InputError(f"face crop {path} cannot be read: delete the clip's folder and run preprocess.py again")
    return cv2.resize(crop, (img_size[1], img_size[0]))


def read_filelist(split: str, folder: Path = FILELISTS) -> list[str]:
    """Clip names `<folder>/<id>` of a split; anything after a space is ignored. Raises InputError."""
    path = folder / f"{split}.txt"
    if not path.is_file():
        raise InputError(f"file list {path} does not exist: put train.txt and val.txt of the data set there")
    names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    if not names:
        raise InputError(f"file list {path} is empty: it takes a <folder>/<id> a line")
    return names


def load_clips(data_root: Path, split: str, hp: HParams, lead: int, filelists: Path = FILELISTS) -> list[Clip]:
    """The usable clips of a split, with their mels, and their crops decoded when they fit in memory.

    Raises InputError, with counts per reason, when none can be used.
    """
    names = read_filelist(split, filelists)
    if not data_root.is_dir():
        raise InputError(f"--data_root {data_root} is not a folder: give the output of preprocess.py")
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(
            tqdm(pool.map(lambda name: _open_clip(data_root / name, hp, lead), names),
                 total=len(names), desc=f"{split} clips", unit="clip", leave=False)
        )  # fmt: skip
    clips = [outcome for outcome in outcomes if isinstance(outcome, Clip)]
    reasons = Counter(outcome for outcome in outcomes if isinstance(outcome, str))
    if not clips:
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise InputError(f"no clip of {split}.txt can be used ({counts}): is {data_root} what preprocess.py wrote?")
    if reasons:
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        tqdm.write(f"{split}: {len(clips)} clips; left out: {counts}")
    _cache_faces(clips, split, hp)
    return clips


def _open_clip(folder: Path, hp: HParams, lead: int) -> Clip | str:
    """A clip, or the reason why it cannot be used."""
    if not folder.is_dir():
        return "missing"
    numbers = np.array(sorted(int(path.stem) for path in folder.glob("*.jpg") if path.stem.isdigit()), int)
    if len(numbers) < MIN_FRAMES:
        return f"with under {MIN_FRAMES} frames"
    stored = folder / "mel.npy"
    try:
        mel = np.load(stored) if stored.is_file() else audio.melspectrogram(audio.load_wav(folder / "audio.wav")).T
    except (InputError, ValueError, OSError):
        return "without readable audio"
    clip = Clip(folder, numbers, np.ascontiguousarray(mel, np.float32))
    if len(clip.window_starts(hp.fps, lead)) < 2:
        return f"with under 2 windows of {SYNCNET_T} consecutive frames"
    return clip


def _cache_faces(clips: list[Clip], split: str, hp: HParams) -> None:
    needed = sum(len(clip.numbers) for clip in clips) * hp.img_size * hp.img_size * 3
    if needed > min(hp.cache_gb * 2**30, _free_memory() / 2):
        tqdm.write(f"{split}: crops need {needed / 2**30:.1f} GB of memory and are decoded on demand")
        return
    img_size = (hp.img_size, hp.img_size)

    def decode(clip: Clip) -> None:
        clip.faces = np.stack([read_crop(clip.folder / f"{number}.jpg", img_size) for number in clip.numbers])

    with ThreadPoolExecutor(8) as pool:
        list(tqdm(pool.map(decode, clips), total=len(clips), desc=f"{split} crops", unit="clip", leave=False))


def _free_memory() -> float:
    """Bytes of memory that can be had without swapping; unlimited where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float("inf")


class WindowSampler:
    """Draws windows of clips; every draw is a function of its random generator alone.

    Args:
        clips: usable clips.
        fps: frames a second of the clips.
        lead: see `Clip.window_starts`.
        min_distance: frames that windows drawn together lie apart, where the clip is long enough.
    """

    def __init__(self, clips: list[Clip], fps: float, lead: int, min_distance: int):
        self.clips, self.min_distance = clips, max(1, min_distance)
        self.starts = [clip.window_starts(fps, lead) for clip in clips]

    def draw(self, clip: int, rng: np.random.Generator) -> tuple[int, int]:
        """A window's start and another's of the same clip, at least `min_distance` frames apart if possible."""
        starts = self.starts[clip]
        first = rng.choice(starts)
        distances = np.abs(starts - first)
        others = starts[distances >= min(self.min_distance, distances.max())]
        return int(first), int(rng.choice(others))

    def draw_many(self, clip: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """`count` starts of one clip, different from one another as long as there are enough."""
        starts = self.starts[clip]
        return rng.choice(starts, count, replace=count > len(starts))


class _WindowDataset(Dataset, ABC):
    """Sample i is a function of (seed, i): epochs are reshuffled, a resumed run draws what the first would have."""

    lead = 0

    def __init__(self, clips: list[Clip], hp: HParams, seed: int, train: bool):
        self.clips, self.hp, self.seed, self.train = clips, hp, seed, train
        self.img_size = (hp.img_size, hp.img_size)
        self.windows = WindowSampler(clips, hp.fps, self.lead, hp.min_negative_distance)
        self._order: tuple[int, np.ndarray] = (-1, np.arange(len(clips)))

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, index))
        return self.sample(self._clip_of(index), rng)

    def _clip_of(self, index: int) -> int:
        epoch, place = divmod(index, len(self.clips))
        if not self.train:
            return place
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self.seed, epoch, 1)).permutation(len(self.clips))
        return int(self._order[1][place])

    def transforms(self, rng: np.random.Generator) -> tuple[WindowTransform, MelGain]:
        random = self.train and self.hp.augment
        return WindowTransform.draw(rng, random), MelGain.draw(rng, random)

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
        return self._sample(self._clip_of(pair), rng, label=1 - label)

    def sample(self, clip: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return self._sample(clip, rng, label=int(rng.integers(2)))

    def _sample(self, clip: int, rng: np.random.Generator, label: int) -> dict[str, np.ndarray]:
        start, other = self.windows.draw(clip, rng)
        transform, gain = self.transforms(rng)
        return {
            "faces": expert_faces(transform(self.clips[clip].window(start if label else other, self.img_size))),
            "mel": gain(self.clips[clip].mel_window(start, self.hp.fps))[None],
            "label": np.array([label], np.float32),
        }


class ExpertPairsDataset(_WindowDataset):
    """Samples for losses over all pairs of windows in a batch (syncnet_loss=infonce or bce_pairs).

    `faces` (K, 15, H / 2, W) uint8, `mel` (K, 1, 80, 16), `start` (K,) frame numbers, `clip` (K,) clip indices.
    """

    def sample(self, clip: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        starts = self.windows.draw_many(clip, self.hp.syncnet_windows, rng)
        faces, mels = [], []
        transform, gain = self.transforms(rng)
        for start in starts:
            faces.append(expert_faces(transform(self.clips[clip].window(start, self.img_size))))
            mels.append(gain(self.clips[clip].mel_window(start, self.hp.fps))[None])
        return {
            "faces": np.stack(faces),
            "mel": np.stack(mels),
            "start": starts,
            "clip": np.full(len(starts), clip),
        }


class GeneratorDataset(_WindowDataset):
    """Samples of the generator (paper section 3.4).

    `target` and `reference` (3, 5, H, W) uint8: a window and a different one of the same clip; `indiv_mels`
    (5, 1, 80, 16): frame f + k gets the mel that starts at frame f + k - 1; `mel` (1, 80, 16) starts at f.
    """

    lead = 1

    def sample(self, clip: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        start, other = self.windows.draw(clip, rng)
        source = self.clips[clip]
        transform, gain = self.transforms(rng)
        frames = range(start - 1, start - 1 + SYNCNET_T)
        return {
            "target": channels_first(transform(source.window(start, self.img_size))),
            "reference": channels_first(transform(source.window(other, self.img_size))),
            "indiv_mels": np.stack([gain(source.mel_window(frame, self.hp.fps))[None] for frame in frames]),
            "mel": gain(source.mel_window(start, self.hp.fps))[None],
        }


def expert_faces(window: np.ndarray) -> np.ndarray:
    """(5, H, W, 3) -> lower halves stacked on channels, time-major: (15, H / 2, W)."""
    lower = window[:, window.shape[1] // 2 :]
    return np.ascontiguousarray(lower.transpose(0, 3, 1, 2)).reshape(-1, *lower.shape[1:3])


def channels_first(window: np.ndarray) -> np.ndarray:
    """(5, H, W, 3) -> (3, 5, H, W)."""
    return np.ascontiguousarray(window.transpose(3, 0, 1, 2))


class StepSampler(Sampler[list[int]]):
    """Endless batches of sample indices, from any step on; rank r of w takes its share of each step's samples."""

    def __init__(self, batch_size: int, first_step: int = 0, rank: int = 0, world_size: int = 1):
        self.batch_size, self.first_step, self.rank, self.world_size = batch_size, first_step, rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        step = self.first_step
        while True:
            first = (step * self.world_size + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))
            step += 1
