"""Poses of pictures of faces: how far they are from one another, and how one is moved onto another."""

import cv2
import numpy as np

SEAM = 1 / 24  # of the face's height over which the upper half melts into another's lower half
ALIGNED_HEIGHT = 48  # pixels of a face that alignment looks at
ALIGNMENT = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 1e-3)


def alignment(face: np.ndarray, to: np.ndarray) -> np.ndarray:
    """How a face is moved and turned so that its upper half lies on another's of its size, (H, W, 3) uint8 both: where
    the places of `to` lie in `face`, (2, 3), in pixels. Nothing moves where that cannot be found.

    Enhanced correlation coefficient (Evangelidis and Psarakis, 2008), which does not mind brightness.
    """
    height, width = to.shape[:2]
    shrink = max(1.0, height / ALIGNED_HEIGHT)
    size = round(width / shrink), round(height / shrink)
    region = np.zeros(size[::-1], np.uint8)
    region[size[1] // 24 : size[1] * 13 // 24, size[0] // 12 : size[0] * 11 // 12] = 255
    small = (cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA) for picture in (to, face))
    grey = [cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in small]
    matrix = np.eye(2, 3, dtype=np.float32)
    try:
        _, matrix = cv2.findTransformECC(*grey, matrix, cv2.MOTION_EUCLIDEAN, ALIGNMENT, region, 5)
    except cv2.error:  # it did not converge
        return np.eye(2, 3, dtype=np.float32)
    matrix[:, 2] = shrink * matrix[:, 2] + (shrink - 1) / 2 * (1 - matrix[:, :2].sum(1))  # pixels have middles
    return matrix


def with_mouth_of(face: np.ndarray, pose: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The upper half of `pose` with the lower half of `face`, (H, W, 3) uint8 both, moved by `alignment`'s matrix."""
    height = pose.shape[0]
    both = moved_by(matrix, face)
    share = np.clip((np.arange(height) + 0.5 - height / 2) / (SEAM * height) + 0.5, 0, 1)
    first, last = np.searchsorted(share, 0, "right"), np.searchsorted(share, 1)
    both[:first] = pose[:first]
    rows, melting = slice(first, last), share[first:last, None, None]
    both[rows] = (melting * both[rows] + (1 - melting) * pose[rows] + 0.5).astype(np.uint8)
    return both


def moved_by(matrix: np.ndarray, face: np.ndarray) -> np.ndarray:
    """A face (H, W, 3) as an `alignment` says: a copy."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    height, width = face.shape[:2]
    return cv2.warpAffine(
        np.ascontiguousarray(face), matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )


def points_moved_by(matrix: np.ndarray, points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Where points (n, 2) of a face, x over its width and y over its height, are once it has been moved."""
    size = np.array((width, height))
    return (np.linalg.inv(matrix[:, :2]) @ (points * size - 0.5 - matrix[:, 2]).T).T / size + 0.5 / size


def pose_of(face: np.ndarray) -> np.ndarray:
    """The upper part of a face, coarsely: (24 x 5 / 12, 24, 3) float32 or somewhat more."""
    top, step = face.shape[0] * 5 // 12, max(1, face.shape[0] // 24)
    return face[:top:step, ::step].astype(np.float32)


def pose_distances(pose: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mean absolute difference of a pose, see `pose_of`, from each of several (n, ...): (n,) in grey levels."""
    return np.abs(others - pose).mean((1, 2, 3))
