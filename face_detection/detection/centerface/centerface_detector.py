"""CenterFace (Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2019).

A face is a peak of a heat map at a quarter of the input's resolution. Beside it the network gives, per cell,
the logarithm of the box's size, the offset of its centre within the cell, and five landmarks.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from errors import InputError
from face_detection.detection.core import FaceDetector, check_size, non_maximum_suppression, scale_up, shrink

WEIGHTS = Path(__file__).with_name("centerface.onnx")
STRIDE = 4  # input pixels per cell of the maps
MULTIPLE = 32  # the network halves its input five times
MAX_IOU = 0.3


class CenterFaceDetector(FaceDetector):
    """CenterFace on OpenCV's DNN module. Runs on the CPU whatever the device of the networks.

    `size`: the longer side of the frame as the network sees it, in pixels; smaller frames are not enlarged, and
    0 keeps the full size. `threshold`: the lowest score of a face. `landmarks`: faces are (n, 15), with x and y of the
    eyes, the nose and the corners of the mouth (left before right in the picture) after the score. One detector must
    not be used by two threads at once. Raises InputError for settings out of range, weights missing or damaged, and an
    OpenCV too old.
    """

    def __init__(
        self, size: int = 640, threshold: float = 0.5, weights_path: str | Path = WEIGHTS, landmarks: bool = False
    ) -> None:
        check_size(size)
        if not 0 < threshold < 1:
            raise InputError(f"face detection threshold {threshold} is out of range: use one between 0 and 1")
        self.size = size
        self.threshold, self.landmarks = threshold, landmarks
        self.network = _read_network(Path(weights_path))
        self.output_names = self.network.getUnconnectedOutLayersNames()

    def detect(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self._detect_one(image) for image in images]

    def _detect_one(self, image: np.ndarray) -> np.ndarray:
        seen = shrink(image, self.size)
        faces = self._detect_as_seen(seen)
        if not len(faces):
            # A face can be too large for the network to take in: look once more, from twice as far away.
            seen = shrink(seen, max(MULTIPLE, max(seen.shape) // 2))
            faces = self._detect_as_seen(seen)
        return scale_up(faces, seen, image)

    def _detect_as_seen(self, seen: np.ndarray) -> np.ndarray:
        """Faces (n, 5 or 15) of a frame (h, w, 3) at the network's own scale, in pixels of that frame."""
        self.network.setInput(cv2.dnn.blobFromImage(pad_to_multiple(seen), swapRB=True))
        heat_map, log_size, offset, places = self.network.forward(self.output_names)
        faces = decode(heat_map[0, 0], log_size[0], offset[0], self.threshold, places[0] if self.landmarks else None)
        return non_maximum_suppression(faces, MAX_IOU)


def pad_to_multiple(image: np.ndarray) -> np.ndarray:
    """`image` (H, W, 3) grown to the right and downwards with black to multiples of 32."""
    height, width = image.shape[:2]
    return cv2.copyMakeBorder(image, 0, -height % MULTIPLE, 0, -width % MULTIPLE, cv2.BORDER_CONSTANT)


def decode(
    heat_map: np.ndarray, log_size: np.ndarray, offset: np.ndarray, threshold: float, places: np.ndarray | None = None
) -> np.ndarray:
    """Boxes of all cells above `threshold`: (n, 5) float32, in pixels of the network's input, before NMS.

    `heat_map` (h, w) in [0, 1]; `log_size` and `offset` (2, h, w), vertical before horizontal, in cells. With `places`
    (10, h, w), the landmarks' in the box, from 0 to 1, vertical before horizontal, rows are (n, 15).
    """
    rows, columns = np.nonzero(heat_map > threshold)
    heights, widths = np.exp(log_size[:, rows, columns]) * STRIDE
    y_offsets, x_offsets = offset[:, rows, columns]
    left = (columns + x_offsets + 0.5) * STRIDE - widths / 2
    top = (rows + y_offsets + 0.5) * STRIDE - heights / 2
    scores = heat_map[rows, columns]
    faces = [left, top, left + widths, top + heights, scores]
    if places is not None:
        for y, x in places[:, rows, columns].reshape(5, 2, -1):
            faces += [left + x * widths, top + y * heights]
    return np.stack(faces, axis=1).astype(np.float32)


def _read_network(path: Path) -> cv2.dnn.Net:
    if not path.is_file():
        raise InputError(f"face detector {path} is missing: restore it from the repository")
    if not hasattr(cv2.dnn, "ENGINE_NEW"):
        # Earlier engines keep to the first input's shape: for any other they return wrong maps without an error.
        raise InputError(f"OpenCV {cv2.__version__} cannot run CenterFace: install opencv-python-headless>=5")
    try:
        return cv2.dnn.readNetFromONNX(str(path), cv2.dnn.ENGINE_NEW)
    except cv2.error as error:
        raise InputError(f"face detector {path} is damaged: restore it from the repository") from error
