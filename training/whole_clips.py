"""Sync of whole validation clips, by the measures of `evaluation.sync`: what single windows cannot tell."""

import contextlib
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn

import audio
import crops
from errors import InputError
from evaluation import sync
from models.syncnet import SyncNet_color
from training.clips import Clip
from training.matching import FittingReferences

MEASURED = 16  # clips, evenly out of all: enough to see where training goes
BATCH = 16  # frames of the published size generated at once; of larger faces, as many as have as many pixels


def of_real_clips(expert: SyncNet_color, clips: list[Clip], fps: float) -> dict[str, float]:
    """LSE-D, LSE-C and the share of clips within a frame of sync, by an expert that is being trained."""
    measured = _some(clips)

    def score(index: int) -> sync.SyncScore:
        clip = measured[index]
        return sync.measure(expert, _faces(clip, expert.img_size), clip.mel.T, fps, clip.numbers)

    return _means(score, len(measured))


def of_generated_clips(generator: nn.Module, expert: SyncNet_color, clips: list[Clip], fps: float) -> dict[str, float]:
    """The same for clips that are generated from their own speech.

    Each frame's reference lies half a clip away, or has a mouth from there that is as open as the speech sounds, for a
    generator that asks for references that fit.
    """
    measured = _some(clips)
    references = _fitting(measured, fps, generator) if generator.reference == "fitting" else _half_a_clip_away

    def score(index: int) -> sync.SyncScore:
        clip = measured[index]
        faces, numbers = _generated(generator, clip, partial(references, index, clip), fps, expert.img_size)
        return sync.measure(expert, faces, clip.mel.T, fps, numbers)

    return _means(score, len(measured))


def _half_a_clip_away(index: int, clip: Clip, faces: np.ndarray, places: np.ndarray) -> np.ndarray:
    count, size = len(clip.numbers), faces.shape[1:3]
    return np.stack([clip.face((at - count // 2) % count, size) for at in places])


def _fitting(clips: list[Clip], fps: float, generator: nn.Module) -> Callable[..., np.ndarray]:
    longest = max(len(clip.numbers) for clip in clips)
    fitting = FittingReferences(clips, fps, generator.img_size, longest, heard=True)

    def references(index: int, clip: Clip, faces: np.ndarray, places: np.ndarray) -> np.ndarray:
        return fitting(index, faces, places, np.random.default_rng((index, places[0])))

    return references


def _means(score: Callable[[int], sync.SyncScore], count: int) -> dict[str, float]:
    """Means over the clips that can be measured; nothing when none can."""
    found = []
    for index in range(count):
        with contextlib.suppress(InputError):  # too short, or without sound where the face is
            found.append(score(index))
    if not found:
        return {}
    return {
        "lse_d": float(np.mean([score.distance for score in found])),
        "lse_c": float(np.mean([score.confidence for score in found])),
        "in_sync": float(np.mean([score.in_sync for score in found])),
    }


def _some(clips: list[Clip]) -> list[Clip]:
    count = min(MEASURED, len(clips))
    return [clips[place] for place in np.linspace(0, len(clips) - 1, count).round().astype(int)]


def _faces(clip: Clip, img_size: tuple[int, int]) -> np.ndarray:
    """(n, H, W, 3) uint8 BGR."""
    return np.stack([clip.face(at, img_size) for at in range(len(clip.numbers))])


def _generated(
    generator: nn.Module,
    clip: Clip,
    references: Callable[[np.ndarray, np.ndarray], np.ndarray],
    fps: float,
    img_size: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Faces (m, H, W, 3) uint8 BGR, at `img_size` if given, and their frame numbers: of all whose mel is there.

    `references` makes them of faces (n, H, W, 3) and their places in the clip (n,).
    """
    starts = audio.mel_starts(clip.numbers - 1, fps)  # as the generator learns it
    there = (clip.numbers >= 1) & (starts + audio.MEL_STEP_SIZE <= len(clip.mel))
    if not there.any():
        raise InputError(f"clip {clip.folder} has no frame with sound: leave it out of the file list")
    device = next(generator.parameters()).device
    size = generator.img_size
    batch = max(1, BATCH * math.prod(crops.PUBLISHED_SIZE) // math.prod(size))
    pieces = []
    for places in np.array_split(np.flatnonzero(there), -(-int(there.sum()) // batch)):
        faces = np.stack([clip.face(at, size) for at in places])
        masked = faces.copy()
        masked[:, masked.shape[1] // 2 :] = 0
        pictures = torch.from_numpy(np.concatenate((masked, references(faces, places)), axis=3)).to(device)
        mels = np.stack([clip.mel[start : start + audio.MEL_STEP_SIZE].T for start in starts[places]])
        made = generator(torch.from_numpy(mels)[:, None].to(device), pictures.permute(0, 3, 1, 2).float() / 255)
        made = (made.float() * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        pieces += [face if img_size is None else crops.fit(face, img_size) for face in made]
    return np.stack(pieces), clip.numbers[there]
