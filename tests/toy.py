"""A tiny preprocessed data set whose mouths open with their sound, made from numbers alone."""

from pathlib import Path

import cv2
import numpy as np
from scipy.io import wavfile

from hparams import hparams
from training.clips import open_clips
from training.labels import labels_paths

# The corners of the mouth of a drawn face of 96 x 96, and its `models.face_mesh.LIP_POINTS`.
CORNERS = (32, 72), (64, 72)
QUARTERS = (40, 71.25), (56, 71.25), (40, 72.75), (56, 72.75)
LIPS = np.array([*CORNERS, (48, 71), (48, 73), (48, 79), *CORNERS, *QUARTERS]) / 96

FPS, RATE = 25, 16000


def make_clip(folder: Path, seed: int, frames: int = 30, size: int = 96, missing: tuple[int, ...] = ()) -> None:
    """A face-like ellipse whose mouth is as open as its tone is loud; frames in `missing` have no crop."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    loudness = np.clip(np.convolve(rng.uniform(-0.6, 1, frames + 4), np.ones(3) / 3, "same")[:frames], 0, 1)
    skin = tuple(int(v) for v in rng.integers(90, 200, 3))
    for i in range(frames):
        face = np.full((size, size, 3), 40, np.uint8)
        cv2.ellipse(face, (48, 48), (36, 46), 0, 0, 360, skin, -1)
        cv2.ellipse(face, (48, 74), (14, 1 + int(12 * loudness[i])), 0, 0, 360, (20, 20, 60), -1)
        if i not in missing:
            cv2.imwrite(str(folder / f"{i}.jpg"), face)
    at = np.arange(frames * RATE // FPS) / RATE
    gain = np.interp(at * FPS, np.arange(frames), loudness)
    wav = gain * np.sin(2 * np.pi * rng.uniform(200, 400) * at)
    wavfile.write(folder / "audio.wav", RATE, (20000 * wav).astype(np.int16))


def make_data_set(root: Path, clips: int = 6) -> tuple[Path, Path]:
    """A preprocessed tree and its file lists: (data root, filelists)."""
    names = [f"s{i % 2}/{i:05d}" for i in range(clips)]
    for i, name in enumerate(names):
        make_clip(root / "data" / name, seed=i)
    lists = root / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("".join(f"{name} NF 1\n" for name in names[2:]))
    (lists / "val.txt").write_text("".join(f"{name}\n" for name in names[:2]))
    return root / "data", lists


def write_labels(data: Path, lists: Path) -> None:
    """What a landmark model would say of all crops of such a set, as `training.landmarks` writes it."""
    for split in ("train", "val"):
        clips = open_clips(data, split, hparams, lists)
        faces = [clip.face(at, (96, 96)) for clip in clips for at in range(len(clip.numbers))]
        paths = labels_paths(data, split)
        np.save(paths.openings, np.array([dark(face) for face in faces], np.float32))
        np.save(paths.lips, np.stack([drawn_lips(face) for face in faces]))
        np.save(paths.second, np.load(paths.openings))


def dark(face: np.ndarray) -> float:
    """The height of a drawn mouth, over the face's."""
    return float((face[60:92, 48, 1] < 50).sum() / 96)


def drawn_lips(face: np.ndarray) -> np.ndarray:
    """`LIP_POINTS` of a drawn mouth: the middle of its edges."""
    rows, columns = np.nonzero(face[60:88, 30:66, 1] < 50)
    left, right, top, bottom = columns.min() + 30, columns.max() + 30, rows.min() + 60, rows.max() + 60
    middle = (left + right) / 2
    corners = [(left, (top + bottom) / 2), (right, (top + bottom) / 2)]
    halfway = [(x, y) for y in (top, bottom) for x in ((left + middle) / 2, (right + middle) / 2)]
    points = [*corners, (middle, top), (middle, bottom), (middle, bottom), *corners, *halfway]
    return np.array(points, np.float32) / 96
