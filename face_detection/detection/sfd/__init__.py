"""S3FD, the published system's detector (Zhang et al., "S3FD: Single Shot Scale-invariant Face Detector", 2017).

Importing this package does not import torch: `SFDDetector` is loaded when it is first asked for.
"""

from pathlib import Path
from typing import Any

__all__ = ["SFDDetector", "WEIGHTS_PLACES", "weights_path"]

_HERE = Path(__file__).resolve().parent
WEIGHTS_PLACES = (_HERE / "s3fd.pth", _HERE.parents[2] / "checkpoints" / "s3fd.pth")


def weights_path() -> Path | None:
    """The first of `WEIGHTS_PLACES` that is there, or None."""
    return next((place for place in WEIGHTS_PLACES if place.is_file()), None)


def __getattr__(name: str) -> Any:
    if name != "SFDDetector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from face_detection.detection.sfd.sfd_detector import SFDDetector

    return SFDDetector
