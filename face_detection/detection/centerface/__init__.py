"""CenterFace, the embedded default detector (Xu et al., arXiv 1911.03599)."""

from face_detection.detection.centerface.centerface_detector import CenterFaceDetector

__all__ = ["CenterFaceDetector"]
