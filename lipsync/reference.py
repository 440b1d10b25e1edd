"""References whose mouth is as far open as the speech sounds: each frame's own mouth, opened or closed.

The published procedure makes every frame its own reference, whatever its mouth does (paper section 4). A generator
copies much of its reference's mouth, the more the less it was trained. What it copies here fits what is said already.
"""

import numpy as np
import torch

import audio
from models.checkpoint import load_heard_opening, load_mouth_shape
from models.opening import CONTEXT
from mouths import gap_at, with_gap

HEARD_AT_ONCE = 1024  # mel windows


class FittingMouths:
    """Gives faces the mouth that fits the speech."""

    def __init__(self) -> None:
        self._shape = load_mouth_shape()

    def __call__(self, face: np.ndarray, rank: float) -> np.ndarray:
        """A face (H, W, 3) uint8 BGR with a mouth that is more open than a share `rank` of all mouths that talk."""
        return with_gap(face, self._shape.lips_of(face[None])[0], gap_at(rank, face.shape[1]))


def wants_fitting(option: str, weights: str) -> bool:
    """Whether references are to fit the speech, by the value of `--reference` and what the weights ask for."""
    return (weights if option == "auto" else option) == "fitting"


class HeardOpenings:
    """How open mouths are at what is heard."""

    def __init__(self) -> None:
        self._hear = load_heard_opening()

    @torch.inference_mode()
    def __call__(self, mel: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """What is heard from some mel frames (n,) of a spectrogram (80, T) on: shares (n,) in [0, 1] of all speech that
        sounds more closed.

        The mel frames lie `HEARING_LEAD_MS` before their frames; those before them count, too.
        """
        parts = np.array_split(starts, max(1, -(-len(starts) // HEARD_AT_ONCE)))
        windows = (torch.from_numpy(audio.mel_windows_at(mel, part, CONTEXT))[:, None] for part in parts)
        return torch.cat([self._hear.rank(part) for part in windows]).numpy()
