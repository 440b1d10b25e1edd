"""The field's interface to face detection: `FaceAlignment(...).get_detections_for_batch(images)`."""

from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np

from crops import Box
from errors import InputError
from face_detection.detection.core import FaceDetector

DETECTORS = ("auto", "sfd", "centerface")


class LandmarksType(Enum):
    """Kinds of landmarks; kept for callers of the field's interface, which only asks for boxes."""

    _2D = 1
    _2halfD = 2
    _3D = 3


class NetworkSize(Enum):
    """Size of the landmark network; kept for callers of the field's interface, which only asks for boxes."""

    LARGE = 4


class FaceAlignment:
    """A face detector behind the field's interface.

    `face_detector`: "sfd" (S3FD), "centerface", or "auto": S3FD when its weights are there (see
    `face_detection.detection.sfd`), else CenterFace. `device`: where S3FD runs; CenterFace runs on the CPU
    always. `verbose` prints the detector's name. Further keywords are settings of that detector:
    `weights_path`, `threshold` and `size`; CenterFace also `landmarks`. `landmarks_type`, `network_size` and
    `flip_input` are accepted and change nothing.

    Raises InputError for an unknown detector, absent or unusable weights, and settings out of range.
    """

    def __init__(
        self,
        landmarks_type: LandmarksType = LandmarksType._2D,
        network_size: NetworkSize = NetworkSize.LARGE,
        device: str = "cpu",
        flip_input: bool = False,
        face_detector: str = "auto",
        verbose: bool = False,
        **settings: Any,
    ) -> None:
        self.name = resolve_detector(face_detector)
        self.face_detector = make_detector(self.name, device, **settings)
        if verbose:
            print(f"face detector: {self.name}")

    def detect_faces(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """All faces of each frame of `images` (N, H, W, 3), uint8 BGR; a list of N frames of one size serves.

        Returns N float32 arrays (n, 5): x1, y1, x2, y2 in pixels of the frame (a box may reach beyond it) and
        the score in [0, 1]; best first, (0, 5) where there is no face; after the score come landmarks, if asked
        for. Raises ValueError for other shapes or
        types, and torch.OutOfMemoryError when S3FD's device has no room for the batch.
        """
        _check_frames(images)
        return self.face_detector.detect(images) if len(images) else []

    def get_detections_for_batch(self, images: Sequence[np.ndarray]) -> list[Box | None]:
        """The best face of each frame of `images` (N, H, W, 3), uint8 BGR: (x1, y1, x2, y2) or None.

        Sides are clipped at 0 and truncated to integers. Raises what `detect_faces` does.
        """
        return [to_box(faces[0]) if len(faces) else None for faces in self.detect_faces(images)]


def to_box(face: np.ndarray) -> Box:
    """A detection (4 or 5 values), clipped at 0 and truncated to whole pixels."""
    x1, y1, x2, y2 = (int(side) for side in np.maximum(face[:4], 0))
    return x1, y1, x2, y2


def resolve_detector(name: str) -> str:
    """ "sfd" or "centerface": what a name in `DETECTORS` stands for here. Raises InputError for another name."""
    if name not in DETECTORS:
        raise InputError(f"unknown face detector '{name}': use one of {', '.join(DETECTORS)}")
    if name != "auto":
        return name
    from face_detection.detection.sfd import weights_path

    return "centerface" if weights_path() is None else "sfd"


def make_detector(name: str, device: str = "cpu", **settings: Any) -> FaceDetector:
    """The detector of a name in `DETECTORS`. Raises InputError."""
    if resolve_detector(name) == "sfd":
        from face_detection.detection.sfd.sfd_detector import SFDDetector

        return SFDDetector(device=device, **settings)
    from face_detection.detection.centerface import CenterFaceDetector

    return CenterFaceDetector(**settings)


def _check_frames(images: Sequence[np.ndarray]) -> None:
    for image in images:
        if image.shape != images[0].shape or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"expected (H, W, 3) frames of uint8 of one size, not {image.shape} {image.dtype}")
