"""The mouth of one picture of a face on another picture of it, in the other's pose."""

import cv2
import numpy as np

SEAM = 1 / 24  # of the face's height over which the upper half melts into another's lower half
ALIGNMENT = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 1e-3)


def with_mouth_of(face: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """The upper half of `pose` with the lower half of `face`, brought to its pose; (H, W, 3) uint8 both."""
    height = pose.shape[0]
    rows = np.arange(height) + 0.5
    share = np.clip((rows - height / 2) / (SEAM * height) + 0.5, 0, 1)[:, None, None]
    return (share * aligned(face, pose) + (1 - share) * pose + 0.5).astype(np.uint8)


def aligned(face: np.ndarray, to: np.ndarray) -> np.ndarray:
    """A face (H, W, 3) uint8 moved and turned so that its upper half lies on another's; as it is where that fails.

    Enhanced correlation coefficient (Evangelidis and Psarakis, 2008), which does not mind brightness.
    """
    height, width = to.shape[:2]
    region = np.zeros((height, width), np.uint8)
    region[height // 24 : height * 13 // 24, width // 12 : width * 11 // 12] = 255
    grey = [cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_BGR2GRAY) for picture in (to, face)]
    matrix = np.eye(2, 3, dtype=np.float32)
    try:
        _, matrix = cv2.findTransformECC(*grey, matrix, cv2.MOTION_EUCLIDEAN, ALIGNMENT, region, 5)
    except cv2.error:  # it did not converge
        return face
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    face = np.ascontiguousarray(face)
    return cv2.warpAffine(face, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def pose_of(face: np.ndarray) -> np.ndarray:
    """The upper part of a face, coarsely: (24 x 5 / 12, 24, 3) float32 or somewhat more."""
    top, step = face.shape[0] * 5 // 12, max(1, face.shape[0] // 24)
    return face[:top:step, ::step].astype(np.float32)


def pose_distances(pose: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mean absolute difference of a pose, see `pose_of`, from each of several (n, ...): (n,) in grey levels."""
    return np.abs(others - pose).mean((1, 2, 3))
