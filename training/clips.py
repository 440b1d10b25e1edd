"""Preprocessed clips: folders of face crops `<frame number>.jpg`, `audio.wav` and, from preprocess.py, `mel.npy`.

Crops are decoded once and stay in memory when they fit; the mel is never computed twice in a run.
"""

import argparse
import json
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

import audio
import crops
from errors import InputError
from hparams import HParams, hparams
from models.syncnet import CONSECUTIVE, PUBLISHED_FPS, SYNCNET_T
from whole import write_text_whole

MIN_FRAMES = 16  # a clip needs more than 15
LEVELS = 255  # steps of stored spectrograms over [-4, 4]
Steps = tuple[int, ...]  # the frames of a window, counted from its first
FACTS = "data.json"  # what preprocess.py says of a tree, at its root
FILELISTS = Path(__file__).resolve().parent.parent / "filelists"


@dataclass
class Clip:
    """One preprocessed clip.

    Attributes:
        folder: where its crops lie; its name alone when they came out of a pack.
        numbers: (n,) frame numbers that have a crop, ascending.
        mel: (mel frames, 80) float32.
        encoded: the crops' JPEG files, of a clip that came out of a shard.
        packed_speech: (frames, 80) what `speech` is made of, of a clip that came out of a pack.
        faces: (n, H, W, 3) uint8 BGR, in memory colour by colour (`in_planes`); None while crops are decoded on demand.
        lips: (n, 11, 2) where `training.landmarks` found lips in the crops, NaN where it found no face; None where it
            was not asked.
    """

    folder: Path
    numbers: np.ndarray
    mel: np.ndarray
    faces: np.ndarray | None = None
    encoded: list[bytes] | None = None
    packed_speech: np.ndarray | None = None
    lips: np.ndarray | None = None

    def window_starts(self, fps: float, lead: int = 0, steps: Steps = CONSECUTIVE) -> np.ndarray:
        """Frame numbers at which all crops of a window exist and mel windows fit.

        `lead` frames more of mel are needed before the start: 0 for the expert, 1 for the generator, whose frame
        f + k hears the mel that starts at frame f + k - 1. `steps` are the window's frames (`window_frames`).
        """
        have = np.zeros(self.numbers[-1] + steps[-1] + 1, bool)
        have[self.numbers] = True
        starts = self.numbers[self.numbers >= lead]
        starts = starts[have[starts[:, None] + steps].all(axis=1)]
        last = max(0, steps[-1] - lead) if lead else 0  # the latest frame, counted from f, whose mel is used
        return starts[audio.mel_starts(starts + last, fps) + audio.MEL_STEP_SIZE <= len(self.mel)]

    def face(self, at: int, img_size: tuple[int, int]) -> np.ndarray:
        """The `at`-th crop: (H, W, 3) uint8 BGR."""
        if self.faces is not None:
            return crops.fit(self.faces[at], img_size)
        path = self.folder / f"{self.numbers[at]}.jpg"
        return decode_crop(_read(path) if self.encoded is None else self.encoded[at], path, img_size)

    def window(self, start: int, img_size: tuple[int, int], steps: Steps = CONSECUTIVE) -> np.ndarray:
        """The 5 crops of the window from frame `start` on: (5, H, W, 3) uint8 BGR."""
        if self.faces is not None and steps == CONSECUTIVE and self.faces.shape[1:3] == img_size:
            at = int(np.searchsorted(self.numbers, start))
            return self.faces[at : at + SYNCNET_T]
        return np.stack([self.face(at, img_size) for at in np.searchsorted(self.numbers, np.add(steps, start))])

    def speech(self) -> np.ndarray:
        """What mouths are heard by, see `audio.speech_spectrogram`: (80, frames). Raises InputError where the clip's
        sound is missing."""
        if self.packed_speech is not None:
            return from_levels(self.packed_speech).T
        return audio.speech_spectrogram(audio.load_wav(self.folder / "audio.wav"))

    def mel_window(self, frame: int, fps: float) -> np.ndarray:
        """The mel that starts at a video frame: (80, 16)."""
        return self.mel_windows(np.array([frame]), fps)[0]

    def mel_windows(self, frames: np.ndarray, fps: float) -> np.ndarray:
        """The mels that start at video frames: (n, 80, 16)."""
        starts = audio.mel_starts(frames, fps)
        return self.mel[starts[:, None] + np.arange(audio.MEL_STEP_SIZE)].transpose(0, 2, 1)


def to_levels(spectrogram: np.ndarray) -> np.ndarray:
    """A spectrogram in [-4, 4] as 8-bit numbers."""
    top = hparams.max_abs_value
    return np.round((np.clip(spectrogram, -top, top) + top) * (LEVELS / (2 * top))).astype(np.uint8)


def from_levels(levels: np.ndarray) -> np.ndarray:
    """What `to_levels` made numbers of, float32."""
    top = hparams.max_abs_value
    return levels.astype(np.float32) * (2 * top / LEVELS) - top


def in_planes(faces: np.ndarray) -> np.ndarray:
    """The same (n, H, W, 3) array, in memory colour by colour, as networks take it: windows are then copied whole."""
    return np.ascontiguousarray(faces.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)


def _read(path: Path) -> bytes:
    """A file's content; nothing where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def decode_crop(jpeg: bytes, name: Path, img_size: tuple[int, int]) -> np.ndarray:
    """A face crop at (height, width), see `crops.fit`: (H, W, 3) uint8 BGR. Raises InputError if it does not decode."""
    crop = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    if crop is None:
        raise InputError(f"face crop {name} cannot be read: delete the clip's folder and run preprocess.py again")
    return crops.fit(crop, img_size)


def add_data_arguments(parser: argparse.ArgumentParser, made_by: str = "preprocess.py, or of training.pack") -> None:
    """Let a command take a data set that is made already, and which clips of it count."""
    parser.add_argument("--data_root", type=Path, required=True, help=f"output of {made_by}")
    parser.add_argument("--filelists", type=Path, default=FILELISTS, help="folder of train.txt and val.txt; a pack has "
                        "its own (default: filelists/)")  # fmt: skip


def read_filelist(split: str, folder: Path = FILELISTS) -> list[str]:
    """Clip names `<folder>/<id>` of a split; anything after a space is ignored. Raises InputError."""
    path = folder / f"{split}.txt"
    if not path.is_file():
        raise InputError(f"file list {path} does not exist: put train.txt and val.txt of the data set there")
    names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    if not names:
        raise InputError(f"file list {path} is empty: it takes a <folder>/<id> a line")
    return names


def write_facts(data_root: Path, fps: float) -> None:
    """Say in a tree how many of its frames make a second. Raises InputError if it is there with other ones."""
    begun = PUBLISHED_FPS if any(data_root.glob("*/*/audio.wav")) else None
    before = stored_fps(data_root) or begun
    if before not in (None, fps):
        raise InputError(f"{data_root} was begun at {before:g} frames a second: use another folder for {fps:g}")
    write_text_whole(data_root / FACTS, json.dumps({"fps": fps}) + "\n")  # other processes may be reading it


def stored_fps(data_root: Path) -> float | None:
    """Frames a second of a tree by its own word; None where it has none. Raises InputError."""
    try:
        return float(json.loads((data_root / FACTS).read_text())["fps"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{data_root / FACTS} is damaged: it takes {{'fps': frames a second}}") from error


def check_fps(stored: float | None, data_root: Path, hp: HParams) -> None:
    """Raises InputError when data say that they have other frames a second than `hp.fps`."""
    if stored not in (None, hp.fps):
        raise InputError(f"{data_root} has {stored:g} frames a second, not {hp.fps:g}: use --hparams fps={stored:g}")


def open_clips(
    data_root: Path,
    split: str,
    hp: HParams,
    filelists: Path = FILELISTS,
    steps: Steps = CONSECUTIVE,
) -> list[Clip]:
    """The clips of a split of a preprocessed tree from which an expert can learn, with their mels.

    Raises InputError, with counts per reason, when none can be used.
    """
    names = read_filelist(split, filelists)
    if not data_root.is_dir():
        raise InputError(f"--data_root {data_root} is not a folder: give the output of preprocess.py")
    check_fps(stored_fps(data_root), data_root, hp)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(
            tqdm(pool.map(lambda name: open_clip(data_root / name, hp, steps), names),
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
    return clips


def open_clip(folder: Path, hp: HParams, steps: Steps = CONSECUTIVE) -> Clip | str:
    """The clip of a folder, with its mel, or the reason why it cannot be used."""
    if not folder.is_dir():
        return "missing"
    stored = folder / "mel.npy"
    try:
        mel = np.load(stored) if stored.is_file() else audio.melspectrogram(audio.load_wav(folder / "audio.wav")).T
    except (InputError, ValueError, OSError):
        return "without readable audio"
    clip = Clip(folder, crop_numbers(folder), np.ascontiguousarray(mel, np.float32))
    return why_unusable(clip, hp, 0, steps) or clip


def why_unusable(clip: Clip, hp: HParams, lead: int, steps: Steps) -> str | None:
    """What keeps a clip from giving samples; None if nothing does."""
    if len(clip.numbers) < MIN_FRAMES:
        return f"with under {MIN_FRAMES} frames"
    if len(clip.window_starts(hp.fps, lead, steps)) < 2:
        return f"with under 2 windows of {SYNCNET_T} consecutive frames"
    return None


def crop_numbers(folder: Path) -> np.ndarray:
    """(n,) frame numbers of the crops in a clip's folder, ascending."""
    return np.array(sorted(int(path.stem) for path in folder.glob("*.jpg") if path.stem.isdigit()), int)


def cache_faces(clips: list[Clip], split: str, hp: HParams) -> None:
    """Decode the crops of clips when they fit in memory."""
    needed = sum(len(clip.numbers) for clip in clips) * math.prod(hp.face_size) * 3
    if needed > min(hp.cache_gb * 2**30, free_memory() / 2):
        tqdm.write(f"{split}: crops need {needed / 2**30:.1f} GB of memory and are decoded on demand")
        return

    def decode(clip: Clip) -> None:
        clip.faces = in_planes(np.stack([clip.face(k, hp.face_size) for k in range(len(clip.numbers))]))

    with ThreadPoolExecutor(8) as pool:
        list(tqdm(pool.map(decode, clips), total=len(clips), desc=f"{split} crops", unit="clip", leave=False))


def free_memory(system: Path = Path("/")) -> float:
    """Bytes of memory that can be had without swapping, by the machine and the container's limit, whichever is less.

    Unlimited where the system (its files are under `system`) does not tell.
    """
    free = float("inf")
    with suppress(OSError, StopIteration):
        lines = (system / "proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    with suppress(OSError, ValueError, StopIteration):  # "max" is no limit
        group = system / "sys/fs/cgroup"
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        lines = (group / "memory.stat").read_text().splitlines()
        cached = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        free = min(free, limit - used + cached)
    return free
