"""What the tests of inference have in common: small inputs, and stand-ins for the slow parts."""

from pathlib import Path

import cv2
import numpy as np
import torch
from media import noise, portrait, write_clip

from audio import save_wav
from lipsync import detection, synthesis
from lipsync.options import InferenceOptions
from models import Wav2Lip
from models.checkpoint import save_checkpoint

FRAME_SIZE = (160, 240)  # rows, columns
FACE_AT = (60, 20)  # column and row of the portrait's corner
FACE_SIZE = 128
EVERY_FRAME = {"det_every": 1, "face_detector_size": 0}


def scene(index: int = 0, with_face: bool = True, size: tuple[int, int] = FRAME_SIZE) -> np.ndarray:
    """A soft background with the astronaut's head, which drifts a pixel a frame to the right."""
    y, x = np.mgrid[: size[0], : size[1]]
    frame = np.stack([60 + x // 3, 90 + y // 4, 120 + 0 * x], -1).astype(np.uint8)
    if with_face:
        left = FACE_AT[0] + index % 40
        frame[FACE_AT[1] : FACE_AT[1] + FACE_SIZE, left : left + FACE_SIZE] = portrait(FACE_SIZE)
    return frame


def make_inputs(folder: Path) -> Path:
    """face.mp4 (12 frames), face.png, speech.wav (0.7 s: 15 frames at 25 a second) and generator.pth in `folder`."""
    write_clip(folder / "face.mp4", [scene(i) for i in range(12)])
    cv2.imwrite(str(folder / "face.png"), scene())
    save_wav(noise(0.7), folder / "speech.wav")
    torch.manual_seed(0)
    save_checkpoint(folder / "generator.pth", Wav2Lip(width=0.25))
    return folder


def options(folder: Path, outfile: Path, **changes) -> InferenceOptions:
    given = {"face": "face.mp4", "audio": "speech.wav", "checkpoint_path": "generator.pth"}
    paths = {name: folder / changes.pop(name, file) for name, file in given.items()}
    return InferenceOptions(**paths, outfile=outfile, **EVERY_FRAME | changes)


class Painter:
    """Stands in for the generator: faces of one colour; remembers what it was given."""

    face_size = (96, 96)
    mel_lead_ms = 0.0
    reference = "own"
    colour = (0, 255, 0)

    def __init__(self, *_: object):
        self.mel_windows: list[np.ndarray] = []
        self.faces: list[np.ndarray] = []
        self.batches: list[int] = []

    def fit(self, crop: np.ndarray) -> np.ndarray:
        return cv2.resize(crop, self.face_size)

    def __call__(self, inputs) -> list[np.ndarray]:
        self.batches.append(len(inputs))
        self.faces += [face for face, _ in inputs]
        self.mel_windows += [mel for _, mel in inputs]
        return [np.full((*self.face_size, 3), self.colour, np.uint8) for _ in inputs]


class Script:
    """Stands in for the detector: boxes of the n-th frame that it is shown, by a function."""

    def __init__(self, boxes_of):
        self._boxes_of, self.seen = boxes_of, 0

    def __call__(self, *_: object, **__: object) -> "Script":
        self.seen = 0
        return self

    def detect_faces(self, images) -> list[np.ndarray]:
        first, self.seen = self.seen, self.seen + len(images)
        return [np.array(self._boxes_of(i), np.float32).reshape(-1, 5) for i in range(first, self.seen)]


def stand_in(monkeypatch, boxes_of=lambda i: [(60, 20, 160, 140, 0.9)], painter: Painter | None = None) -> Painter:
    """Replace generator and detector of the pipeline."""
    painter = painter or Painter()
    monkeypatch.setattr(synthesis, "Synthesizer", lambda *_: painter)
    monkeypatch.setattr(detection, "FaceAlignment", Script(boxes_of))
    return painter
