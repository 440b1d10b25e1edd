"""Face detection: S3FD, as the published system uses it, and CenterFace, the embedded default."""

from face_detection.api import FaceAlignment, LandmarksType

__all__ = ["FaceAlignment", "LandmarksType"]
