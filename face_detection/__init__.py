"""Face detection: S3FD, as the published system uses it, and CenterFace, the embedded default."""

from face_detection.api import DETECTORS, FaceAlignment, LandmarksType, NetworkSize

__all__ = ["DETECTORS", "FaceAlignment", "LandmarksType", "NetworkSize"]
