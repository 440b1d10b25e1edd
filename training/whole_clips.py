"""Sync of whole validation clips, by the measures of `evaluation.sync`: what single windows cannot tell."""

import contextlib
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

import audio
import crops
from errors import InputError
from evaluation import sync
from models.syncnet import SyncNet_color
from training.clips import Clip

MEASURED = 16  # clips, evenly out of all: enough to see where training goes
BATCH = 16  # frames of the published size generated at once; of larger faces, as many as have as many pixels


def of_real_clips(expert: SyncNet_color, clips: list[Clip], fps: float) -> dict[str, float]:
    """LSE-D, LSE-C and the share of clips within a frame of sync, by an expert that is being trained."""

    def score(clip: Clip) -> sync.SyncScore:
        return sync.measure(expert, _faces(clip, expert.img_size), clip.mel.T, fps, clip.numbers)

    return _means(score, clips)


def of_generated_clips(generator: nn.Module, expert: SyncNet_color, clips: list[Clip], fps: float) -> dict[str, float]:
    """The same for clips that are generated from their own speech, each frame's reference half a clip away."""

    def score(clip: Clip) -> sync.SyncScore:
        faces, numbers = _generated(generator, clip, fps, expert.img_size)
        return sync.measure(expert, faces, clip.mel.T, fps, numbers)

    return _means(score, clips)


def _means(score: Callable[[Clip], sync.SyncScore], clips: list[Clip]) -> dict[str, float]:
    """Means over the clips that can be measured; nothing when none can."""
    found = []
    for clip in _some(clips):
        with contextlib.suppress(InputError):  # too short, or without sound where the face is
            found.append(score(clip))
    if not found:
        return {}
    return {
        "lse_d": float(np.mean([score.distance for score in found])),
        "lse_c": float(np.mean([score.confidence for score in found])),
        "in_sync": float(np.mean([abs(score.offset) <= 1 for score in found])),
    }


def _some(clips: list[Clip]) -> list[Clip]:
    count = min(MEASURED, len(clips))
    return [clips[place] for place in np.linspace(0, len(clips) - 1, count).round().astype(int)]


def _faces(clip: Clip, img_size: tuple[int, int]) -> np.ndarray:
    """(n, H, W, 3) uint8 BGR."""
    return np.stack([clip.face(at, img_size) for at in range(len(clip.numbers))])


def _generated(
    generator: nn.Module, clip: Clip, fps: float, img_size: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Faces (m, H, W, 3) uint8 BGR, at `img_size` if given, and their frame numbers: of all whose mel is there."""
    count = len(clip.numbers)
    starts = audio.mel_starts(clip.numbers - 1, fps)  # as the generator learns it
    there = (clip.numbers >= 1) & (starts + audio.MEL_STEP_SIZE <= len(clip.mel))
    if not there.any():
        raise InputError(f"clip {clip.folder} has no frame with sound: leave it out of the file list")
    device = next(generator.parameters()).device
    size = generator.img_size
    batch = max(1, BATCH * math.prod(crops.PUBLISHED_SIZE) // math.prod(size))
    pieces = []
    for places in np.array_split(np.flatnonzero(there), -(-int(there.sum()) // batch)):
        masked = np.stack([clip.face(at, size) for at in places])
        masked[:, masked.shape[1] // 2 :] = 0
        references = np.stack([clip.face((at - count // 2) % count, size) for at in places])
        pictures = torch.from_numpy(np.concatenate((masked, references), axis=3)).to(device)
        mels = np.stack([clip.mel[start : start + audio.MEL_STEP_SIZE].T for start in starts[places]])
        made = generator(torch.from_numpy(mels)[:, None].to(device), pictures.permute(0, 3, 1, 2).float() / 255)
        made = (made.float() * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        pieces += [face if img_size is None else crops.fit(face, img_size) for face in made]
    return np.stack(pieces), clip.numbers[there]
