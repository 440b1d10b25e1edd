"""The field's interface to face detection: `FaceAlignment(...).get_detections_for_batch(images)`."""

from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np

from errors import InputError
from face_detection.detection.core import FaceDetector

DETECTORS = ("auto", "sfd", "centerface")
Box = tuple[int, int, int, int]


class LandmarksType(Enum):
    """Kinds of landmarks; kept for callers of the field's interface, which only asks for boxes."""

    _2D = 1
    _2halfD = 2
    _3D = 3


class FaceAlignment:
    """A face detector behind the field's interface.

    Args:
        landmarks_type: accepted for compatibility.
        flip_input: accepted for compatibility; detection does not use it.
        device: where S3FD runs. CenterFace runs on the CPU always.
        face_detector: "sfd", "centerface", or "auto": S3FD when its weights are there, else CenterFace.
        settings: passed on to the detector.

    Raises InputError for an unknown detector, and when S3FD is asked for without its weights.
    """

    def __init__(
        self,
        landmarks_type: LandmarksType = LandmarksType._2D,
        flip_input: bool = False,
        device: str = "cpu",
        face_detector: str = "auto",
        verbose: bool = False,
        **settings: Any,
    ):
        self.face_detector = make_detector(face_detector, device, **settings)

    def detect_faces(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """All faces of each (H, W, 3) uint8 BGR frame: (n, 5) float32 x1, y1, x2, y2, score; best first."""
        return self.face_detector.detect_from_batch(np.asarray(images))

    def get_detections_for_batch(self, images: np.ndarray) -> list[Box | None]:
        """The best face of each frame of (N, H, W, 3) uint8 BGR: (x1, y1, x2, y2) in whole pixels, or None."""
        return [to_box(faces[0]) if len(faces) else None for faces in self.detect_faces(images)]


def to_box(face: np.ndarray) -> Box:
    """A detection clipped at 0 and truncated to whole pixels."""
    x1, y1, x2, y2 = (int(side) for side in np.clip(face[:4], 0, None))
    return x1, y1, x2, y2


def make_detector(name: str, device: str = "cpu", **settings: Any) -> FaceDetector:
    """The detector of a name in `DETECTORS`. Raises InputError."""
    if resolve_detector(name) == "sfd":
        from face_detection.detection.sfd import SFDDetector

        return SFDDetector(device=device, **settings)
    from face_detection.detection.centerface.detector import CenterFaceDetector

    return CenterFaceDetector(**settings)


def resolve_detector(name: str) -> str:
    """"sfd" or "centerface": what a name in `DETECTORS` stands for here. Raises InputError."""
    if name not in DETECTORS:
        raise InputError(f"unknown face detector '{name}': use one of {', '.join(DETECTORS)}")
    if name == "auto":
        return "sfd" if _sfd_weights_present() else "centerface"
    return name


def _sfd_weights_present() -> bool:
    try:
        from face_detection.detection.sfd import weights_path
    except ImportError:
        return False
    return weights_path() is not None
