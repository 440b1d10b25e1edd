"""References whose mouth is as far open as the speech sounds: mouths of the video itself, in each frame's own pose.

The published procedure makes every frame its own reference, whatever its mouth does (paper section 4). A generator
copies much of its reference's mouth, the more the less it was trained. What it copies here fits what is said already.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch

import audio
from models.checkpoint import load_heard_opening, load_seen_opening
from models.opening import CONTEXT
from mouths import pose_distances, pose_of, with_mouth_of

LEVEL = 0.006  # eye distances of opening that one level spans
LEVELS = 20
KEPT = 6  # mouths a level, the newest ones
KEPT_BYTES = 48 * 2**20  # of a shot's mouths
SHOTS = 4  # that are remembered: pictures cut back and forth
CUT = (
    20.0  # pose distance of two frames from which on they are of different shots; between neighbours 99 % are under 10
)
FAR = 16.0  # pose distance from which on a mouth looks out of place
NEAR = 8.0  # pose distance up to which alignment makes up for it: nearer ones would mostly be the frame's own mouth
POSE_COST = 0.1  # of a unit of pose distance above that, in standard deviations of the opening
HEARD_AT_ONCE = 1024  # mel windows
JUMP_COST = 0.3  # of mouths that do not follow each other in the video, as the last one chosen and this one


class FittingMouths:
    """The mouths of a video, shot by shot."""

    def __init__(self) -> None:
        self._seen = load_seen_opening()
        self._shots: deque[Shot] = deque(maxlen=SHOTS)

    @torch.inference_mode()
    def add(self, face: np.ndarray) -> "Shot":
        """Take the next face of the video, (H, W, 3) uint8 BGR at the generator's size; the shot that it is of."""
        picture = torch.from_numpy(np.ascontiguousarray(face)).permute(2, 0, 1)[None].float() / 255
        pose = pose_of(face)
        shot = min(self._shots, key=lambda known: known.distance(pose), default=None)
        if shot is None or shot.distance(pose) > CUT:
            shot = Shot()
            self._shots.append(shot)
        shot.add(face, pose, float(self._seen(picture)))
        return shot


@dataclass(frozen=True)
class Mouth:
    """A face of a shot and what its mouth does."""

    number: int  # of the face in the shot, counted from 0
    opening: float  # in eye distances
    pose: np.ndarray
    face: np.ndarray


class Shot:
    """The mouths of one shot of one face, and for each face the one that fits the speech.

    Holds the newest `KEPT` mouths of each level of opening, so that memory does not grow with the video.
    """

    def __init__(self) -> None:
        self._levels: list[deque[Mouth]] = [deque() for _ in range(LEVELS)]
        self._met = np.zeros(LEVELS)  # mouths of each level, those that are no longer held too
        self._pose = np.zeros(())  # of the newest face
        self._last = -1  # number of the mouth chosen last

    def distance(self, pose: np.ndarray) -> float:
        """How far a pose is from the newest face's."""
        return float(pose_distances(pose, self._pose[None])[0])

    def add(self, face: np.ndarray, pose: np.ndarray, opening: float) -> None:
        """Take the next face."""
        level = min(LEVELS - 1, max(0, int(opening / LEVEL)))
        held = self._levels[level]
        if len(held) >= max(1, min(KEPT, KEPT_BYTES // (LEVELS * face.nbytes))):
            held.popleft()
        held.append(Mouth(int(self._met.sum()), opening, pose, face))
        self._met[level] += 1
        self._pose = pose

    def like(self, face: np.ndarray, rank: float) -> np.ndarray:
        """A face, (H, W, 3) uint8 BGR, with a mouth that is more open than a share `rank` of all those that came.

        The face itself where no mouth was seen in a pose near its own.
        """
        mouths = [mouth for level in self._levels for mouth in level]
        wanted, spread = self._opening_at(rank)
        far = pose_distances(pose_of(face), np.stack([mouth.pose for mouth in mouths]))
        off = np.abs(np.array([mouth.opening for mouth in mouths]) - wanted) / spread
        jump = np.abs(np.array([mouth.number for mouth in mouths]) - self._last - 1)
        cost = off + POSE_COST * np.maximum(0, far - NEAR) + JUMP_COST * np.minimum(1, jump / 3) * (self._last >= 0)
        best = int(np.argmin(np.where(far > FAR, np.inf, cost)))
        if far[best] > FAR:
            return face
        self._last = mouths[best].number
        return with_mouth_of(mouths[best].face, face)

    def _opening_at(self, rank: float) -> tuple[float, float]:
        """The opening that a share `rank` of all mouths does not reach, and the openings' standard deviation."""
        share = self._met / self._met.sum()
        upto = np.cumsum(share)
        level = min(LEVELS - 1, int(np.searchsorted(upto, rank)))
        within = (rank - upto[level] + share[level]) / max(share[level], 1e-6)
        middles = LEVEL * (np.arange(LEVELS) + 0.5)
        mean = (share * middles).sum()
        return LEVEL * (level + within), float(np.sqrt((share * (middles - mean) ** 2).sum())) + LEVEL / 2


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
