"""The first pass over a source: its cuts, and the faces of every frame with what they are judged by."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from face_detection import FaceAlignment
from lipsync.detection import find_faces, widths_of
from lipsync.video import FrameReader
from preprocessing.crops import crop, sharpness
from preprocessing.shots import Shots

DETECT_EVERY = 5  # frames; more are looked at where the picture is not steady
SEEN_FACE = 16  # pixels that the smallest face wanted has as the detector sees it
SMALLEST_SIZE = 320  # longer side of a frame as the detector sees it
NOTICED = 0.5  # of the smallest width wanted: smaller faces are none
HELD_BYTES = 256 * 2**20  # of frames that wait for their faces
NOSE_DEPTH = 0.5  # distance of the nose's tip from the plane of the eyes, in distances of the eyes

BOX, SHARPNESS, TURN = slice(0, 4), 5, 6
"""Columns of a face: x1, y1, x2, y2 in pixels; sharpness; degrees from frontal, NaN where it has no landmarks."""


@dataclass(frozen=True)
class Watched:
    """What the first pass saw: `count` frames, the first frame of each shot but the first, and each frame's faces.

    `faces[i]` is (n, 7) float32 with the columns `BOX`, the score, `SHARPNESS` and `TURN`.
    """

    count: int
    cuts: list[int]
    faces: list[np.ndarray]


def watch(
    reader: FrameReader, detector: "RawFaces", batch_size: int, find_cuts: bool, seen: Callable[[int], None]
) -> Watched:
    """Read a video once. At most some dozens of frames are held. `seen` is told of each frame."""
    waiting: deque[np.ndarray] = deque()
    shots = Shots(float(reader.fps))

    def frames() -> Iterator[np.ndarray]:
        for frame in reader:
            seen(1)
            if find_cuts:
                shots.see(frame)
            waiting.append(frame)
            yield frame

    held = max(1, HELD_BYTES // (2 * reader.height * reader.width * 3))
    faces = [
        judged(waiting.popleft(), found)
        for found in find_faces(frames(), detector, DETECT_EVERY, min(batch_size, held), every_face=True)
    ]
    return Watched(len(faces), shots.cuts, faces)


class RawFaces:
    """A detector that sees frames just as large as the smallest face wanted needs it; smaller faces do not count.

    The detector is kept for videos of the same size.
    """

    def __init__(self, min_face: int, device: str, face_detector: str):
        self._min_face, self._device, self._name = min_face, device, face_detector
        self._size, self._detector = 0, None

    def __call__(self, frames: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Faces (n, 5 or 15) of each frame (H, W, 3); see `FaceAlignment.detect_faces`."""
        frames = list(frames)
        longer = max(frames[0].shape[:2])
        size = min(longer, max(SMALLEST_SIZE, round(longer * SEEN_FACE / self._min_face)))
        if size != self._size:
            self._size, self._detector = size, self._make(max(32, size))
        found = self._detector.detect_faces(frames)
        return [faces[widths_of(faces) >= NOTICED * self._min_face] for faces in found]

    def _make(self, size: int) -> FaceAlignment:
        from face_detection.api import resolve_detector

        name = resolve_detector(self._name)
        settings = {"landmarks": True} if name == "centerface" else {}
        return FaceAlignment(device=self._device, face_detector=name, size=size, **settings)


def judged(frame: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Faces (n, 5 or 15) of a frame with the columns of `Watched`: (n, 7)."""
    result = np.empty((len(faces), 7), np.float32)
    result[:, :5] = faces[:, :5]
    for row, face in zip(result, faces, strict=True):
        row[SHARPNESS] = sharpness(crop(frame, face[:4]))
        row[TURN] = turn(face[5:].reshape(5, 2)) if len(face) == 15 else np.nan
    return result


def turn(landmarks: np.ndarray) -> float:
    """Degrees, about, by which a face is turned from frontal, to the side: 0 to 90.

    `landmarks` (5, 2): x, y of both eyes, nose and corners of the mouth. A nose that stands out by half the distance
    of the eyes moves to the side of their middle by half of that times the tangent.
    """
    left, right, nose = landmarks[:3].astype(np.float64)
    line = right - left
    apart = float(np.hypot(*line))
    if apart < 1e-6:
        return 90.0
    aside = abs(float((nose - (left + right) / 2) @ line)) / apart
    return float(np.degrees(np.arctan2(aside, NOSE_DEPTH * apart)))
