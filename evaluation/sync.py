"""How well lips and sound go together: offset, confidence (LSE-C) and distance (LSE-D) of a face track.

    score = measure(load_expert(DEFAULT_EXPERT), faces, mel, fps=25)

The method is that of "Out of time" (Chung and Zisserman, 2016, section 4): every window of 5 frames is compared with
the sound at each offset, the distances are averaged over the windows, and the curve's lowest point tells the offset.
LSE-D and LSE-C (paper section 5) are that lowest point and how far it lies under the curve's median.

Distances here are Euclidean distances of the expert's normalised embeddings: 0 to 1.41. Published figures come from
SyncNet v2, whose embeddings are not normalised: its scale is another, and the two must not be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import audio
from errors import InputError
from models.discriminator import stack_window
from models.syncnet import CONSECUTIVE, SYNCNET_T, SyncNet_color, window_frames

MAX_OFFSET = 15  # frames either way in which the offset is looked for
OFFSETS = np.arange(-MAX_OFFSET, MAX_OFFSET + 1)
TOLERANCE = 1  # frames about an offset that is known beforehand, in which evidence counts for it
BATCH = 64  # windows embedded at once
MIN_SHARE = 0.25  # of the windows that must have sound at an offset for it to count: fewer make a chance minimum


@dataclass(frozen=True)
class SyncScore:
    """What the distances of a track say.

    Attributes:
        offset: in frames. Above 0 the sound is late: what lips say at frame f is heard at frame f + offset, and the
            sound must be moved that much earlier. (SyncNet's own programs print the opposite sign.)
        confidence: LSE-C, the curve's median less its minimum; higher is better.
        distance: LSE-D, the curve's minimum; lower is better.
        windows: how many windows of 5 frames were measured.
        curve: mean distance at each of `OFFSETS`; NaN where too few windows have sound.
    """

    offset: int
    confidence: float
    distance: float
    windows: int
    curve: tuple[float, ...]

    @property
    def in_sync(self) -> bool:
        """Whether the offset is that of sound in step, give or take a frame."""
        return abs(self.offset) <= TOLERANCE


def measure(
    expert: SyncNet_color, faces: Sequence[np.ndarray], mel: np.ndarray, fps: float, numbers: np.ndarray | None = None
) -> SyncScore:
    """The score of one track; see `distances` for the arguments and errors."""
    return score(distances(expert, faces, mel, fps, numbers))


def score(matrix: np.ndarray) -> SyncScore:
    """The score of a track's `distances` (windows, 31).

    Raises InputError when no offset has sound for enough of the windows.
    """
    heard = np.isfinite(matrix)
    enough = heard.sum(axis=0) >= max(1, MIN_SHARE * len(matrix))
    if not enough.any():
        raise InputError("the sound ends before the faces begin: give a clip whose sound lasts as long as its picture")
    curve = np.full(len(OFFSETS), np.nan)
    curve[enough] = np.nanmean(matrix[:, enough].astype(np.float64), axis=0)
    lowest = int(np.nanargmin(curve))
    distance = float(curve[lowest])
    confidence = float(np.nanmedian(curve)) - distance
    return SyncScore(int(OFFSETS[lowest]), confidence, distance, len(matrix), tuple(curve.tolist()))


@dataclass(frozen=True)
class Evidence:
    """What some windows say about the offset: their mean distance at each of `OFFSETS`.

    Attributes:
        curve: (31,) mean distances.
        windows: how many.
        spread: standard deviation of a window's distances over the offsets, averaged.
    """

    curve: np.ndarray
    windows: int
    spread: float

    @classmethod
    def of(cls, distances: np.ndarray) -> "Evidence":
        """Of `distances` (windows, 31)."""
        measured = score(distances)
        return cls(np.array(measured.curve), measured.windows, float(np.nanmean(np.nanstd(distances, axis=1))))

    @classmethod
    def together(cls, parts: Sequence["Evidence"]) -> "Evidence":
        """Of all windows of all parts."""
        windows = np.array([part.windows for part in parts])
        curves = np.stack([part.curve for part in parts])
        weights = np.where(np.isfinite(curves), windows[:, None], 0)
        curve = (np.nan_to_num(curves) * weights).sum(axis=0) / np.maximum(1, weights.sum(axis=0))
        curve[weights.sum(axis=0) == 0] = np.nan
        spread = float(np.average([part.spread for part in parts], weights=windows))
        return cls(curve, int(windows.sum()), spread)

    @property
    def offset(self) -> int:
        """Frames by which the sound is late, where the distance is lowest."""
        return int(OFFSETS[np.nanargmin(self.curve)])

    def confidence(self, offset: int, tolerance: int = 0) -> float:
        """LSE-C at an offset, or the best within `tolerance` frames of it: how far it lies under the curve's median."""
        near = np.abs(OFFSETS - offset) <= tolerance
        return float(np.nanmedian(self.curve) - np.nanmin(self.curve[near]))

    def z(self, confidence: float) -> float:
        """A confidence in standard errors: chance stays below the same value for any number of windows."""
        return confidence * np.sqrt(self.windows) / max(self.spread, 1e-9)


@torch.inference_mode()
def distances(
    expert: SyncNet_color, faces: Sequence[np.ndarray], mel: np.ndarray, fps: float, numbers: np.ndarray | None = None
) -> np.ndarray:
    """Distance of every window of 5 consecutive frames to the sound at every offset.

    Args:
        expert: frozen, in eval mode.
        faces: F face crops (h, w, 3) uint8 BGR of any size, of one person; (F, H, W, 3) serves.
        mel: (80, mel frames) of the clip's sound, from the video's first frame on.
        fps: frames a second of the video. Mel windows start by time, and the 5 frames of a window are those nearest in
            time to 5 consecutive ones at the rate at which the expert learnt (`SyncNet_color.fps`).
        numbers: (F,) frame numbers of the faces in the video, ascending; by default 0, 1, 2, ... Windows never reach
            across missing frames.

    Returns (windows, 31) float32: column k is offset k - 15, at which the window from frame f on meets the mel window
    that starts at frame f + k - 15; NaN where the sound has none.
    Raises InputError when there are no 5 consecutive frames.
    """
    numbers = np.arange(len(faces)) if numbers is None else np.asarray(numbers)
    steps = window_frames(fps, expert.fps)
    places = window_places(numbers, steps)
    if not len(places):
        raise InputError(
            f"the face is seen in {len(faces)} frames, never in {SYNCNET_T} in a row: give a longer clip, or one with "
            "a clearer face"
        )
    lips = embed_lips(expert, _fit(faces, expert.img_size), places, steps)
    frames = np.unique(numbers[places][:, None] + OFFSETS)
    frames = frames[(frames >= 0) & (np.array([_mel_end(f, fps) for f in frames]) <= mel.shape[1])]
    result = np.full((len(places), len(OFFSETS)), np.nan, np.float32)
    if not len(frames):
        return result
    speech = embed_speech(expert, mel, [audio.mel_start(f, fps) for f in frames])
    wanted = numbers[places][:, None] + OFFSETS  # (windows, 31) frames whose sound is compared
    rows = np.minimum(np.searchsorted(frames, wanted), len(frames) - 1)
    there = frames[rows] == wanted
    for first in range(0, len(places), BATCH):
        part = slice(first, first + BATCH)
        apart = (speech[rows[part]] - lips[part, None]).norm(dim=2)
        result[part] = np.where(there[part], apart.cpu().numpy(), np.nan)
    return result


def window_places(numbers: np.ndarray, steps: Sequence[int] = CONSECUTIVE) -> np.ndarray:
    """Places in `numbers` (ascending) from which all frames up to a window's last follow on one another."""
    last = steps[-1]
    whole = [k for k in range(len(numbers) - last) if numbers[k + last] - numbers[k] == last]
    return np.array(whole, int)


@torch.inference_mode()
def embed_lips(
    expert: SyncNet_color, faces: np.ndarray, places: Sequence[int], steps: Sequence[int] = CONSECUTIVE
) -> Tensor:
    """Embeddings (windows, D), of length 1, of the windows that begin at `places` of faces (F, H, W, 3) uint8 BGR.

    The faces have the expert's size; `steps` are the 5 frames of a window, counted from its first.
    """
    device = next(expert.parameters()).device
    pieces = []
    for first in range(0, len(places), BATCH):
        windows = np.stack([faces[np.add(at, steps)] for at in places[first : first + BATCH]])
        pixels = torch.from_numpy(windows).to(device).permute(0, 4, 1, 2, 3).float() / 255  # (B, 3, 5, H, W)
        pieces.append(F.normalize(expert.face_encoder(stack_window(pixels)).flatten(1).float()))
    return torch.cat(pieces)


@torch.inference_mode()
def embed_speech(expert: SyncNet_color, mel: np.ndarray, starts: Sequence[int]) -> Tensor:
    """Embeddings (n, D), of length 1, of the mel windows that begin at mel frames `starts` of mel (80, mel frames)."""
    device = next(expert.parameters()).device
    pieces = []
    for first in range(0, len(starts), BATCH):
        windows = np.stack([mel[:, at : at + audio.MEL_STEP_SIZE] for at in starts[first : first + BATCH]])
        heard = torch.from_numpy(windows).to(device, torch.float32)[:, None]
        pieces.append(F.normalize(expert.audio_encoder(heard).flatten(1).float()))
    return torch.cat(pieces)


def _mel_end(frame: int, fps: float) -> int:
    return audio.mel_start(frame, fps) + audio.MEL_STEP_SIZE


def _fit(faces: Sequence[np.ndarray], img_size: tuple[int, int]) -> np.ndarray:
    """(F, H, W, 3) uint8 of the given (height, width), resized as training's crops are."""
    height, width = img_size
    fitting = (face if face.shape[:2] == img_size else cv2.resize(face, (width, height)) for face in faces)
    return np.stack(list(fitting))
