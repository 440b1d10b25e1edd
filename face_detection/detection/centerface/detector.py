"""CenterFace (Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", arXiv 1911.03599).

A face is a peak of a heat map at a quarter of the input's resolution. Beside it the network gives, per cell, the
logarithm of the box's size, the offset of its centre inside the cell, and five landmarks, which are not used here.
"""

from pathlib import Path

import cv2
import numpy as np

from errors import InputError
from face_detection.detection.core import FaceDetector, non_maximum_suppression

MODEL_PATH = Path(__file__).with_name("centerface.onnx")
STRIDE = 4  # input pixels per cell of the output maps
INPUT_MULTIPLE = 32  # the network halves its input five times
MAX_IOU = 0.3


class CenterFaceDetector(FaceDetector):
    """CenterFace on OpenCV's DNN module. It always runs on the CPU.

    `size`: the longer side of the network's input in pixels; larger frames are shrunk to it, smaller ones are left
    as they are, and 0 means that no frame is shrunk. `threshold`: the lowest score of a face, in (0, 1).
    One detector must not be used by two threads at once. Raises InputError for settings outside these ranges, a
    missing model file, or an OpenCV that cannot run it.
    """

    def __init__(self, size: int = 640, threshold: float = 0.5, model_path: str | Path = MODEL_PATH) -> None:
        if size < 0 or 0 < size < INPUT_MULTIPLE:
            raise InputError(f"face detection size {size} is too small: use 0 (full size) or at least 32")
        if not 0 < threshold < 1:
            raise InputError(f"face detection threshold {threshold} is out of range: use one between 0 and 1")
        self.size = size
        self.threshold = threshold
        self.network = _read_network(Path(model_path))
        self.output_names = self.network.getUnconnectedOutLayersNames()

    def detect_from_batch(self, images: np.ndarray) -> list[np.ndarray]:
        return [self._detect(image) for image in images]

    def _detect(self, image: np.ndarray) -> np.ndarray:
        shrunk = shrink(image, self.size)
        blob = cv2.dnn.blobFromImage(pad_to_multiple(shrunk), swapRB=True)
        self.network.setInput(blob)
        heat_map, log_size, offset, _ = self.network.forward(self.output_names)
        detections = decode(heat_map[0, 0], log_size[0], offset[0], self.threshold)
        scale = np.divide(image.shape[1::-1], shrunk.shape[1::-1], dtype=np.float32)
        detections[:, :4] *= np.tile(scale, 2)
        return non_maximum_suppression(detections, MAX_IOU)


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """`image` (H, W, 3) with its longer side at most `size` pixels (0: as it is), aspect kept to the pixel."""
    height, width = image.shape[:2]
    longer = max(height, width)
    if not size or longer <= size:
        return image
    new_width, new_height = (max(1, round(side * size / longer)) for side in (width, height))
    return cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA)


def pad_to_multiple(image: np.ndarray) -> np.ndarray:
    """`image` (H, W, 3) grown to the right and below with black to multiples of 32."""
    height, width = image.shape[:2]
    bottom, right = -height % INPUT_MULTIPLE, -width % INPUT_MULTIPLE
    return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT)


def decode(heat_map: np.ndarray, log_size: np.ndarray, offset: np.ndarray, threshold: float) -> np.ndarray:
    """Boxes of all cells above `threshold`: (n, 5) float32, in pixels of the network's input.

    `heat_map` (h, w) in [0, 1]; `log_size` and `offset` (2, h, w), vertical before horizontal, in cells.
    """
    rows, columns = np.nonzero(heat_map > threshold)
    heights, widths = np.exp(log_size[:, rows, columns]) * STRIDE
    y_offsets, x_offsets = offset[:, rows, columns]
    x_centres = (columns + x_offsets + 0.5) * STRIDE
    y_centres = (rows + y_offsets + 0.5) * STRIDE
    left, top = x_centres - widths / 2, y_centres - heights / 2
    scores = heat_map[rows, columns]
    return np.stack([left, top, left + widths, top + heights, scores], axis=1).astype(np.float32)


def _read_network(path: Path) -> cv2.dnn.Net:
    if not path.is_file():
        raise InputError(f"face detector {path} is missing: restore it from the repository")
    if not hasattr(cv2.dnn, "ENGINE_NEW"):
        raise InputError(
            f"OpenCV {cv2.__version__} computes CenterFace wrongly: install opencv-python-headless 5"
        )
    try:
        return cv2.dnn.readNetFromONNX(str(path), cv2.dnn.ENGINE_NEW)
    except cv2.error as error:
        raise InputError(f"face detector {path} is damaged: restore it from the repository") from error
