"""Crops of faces, and boxes that neither tremble nor lag."""

from pathlib import Path

import cv2
import numpy as np

from crops import cut, inside, with_aspect

OUTLIER_FRAMES = 5  # window of the median that takes out single wrong boxes
PLACE_SECONDS = 0.08  # standard deviation of the weights over which a box's centre is averaged
SIZE_SECONDS = 0.24  # the same for its size, which changes more slowly
STORED_MARGIN = 1.25  # sides of a stored crop over the network's: augmentation and JPEG cost no sharpness then
SHARPNESS_SIZE = 96  # pixels a side at which sharpness is measured: what the networks see


def smooth_track(boxes: np.ndarray, fps: float) -> np.ndarray:
    """Steady boxes (n, 4) float64 of a face in consecutive frames, from detected ones (n, 4).

    Centre and size are averaged over frames before and after alike, so that the box does not lag, after a running
    median. (The published smoothing over the frames that follow is for single boxes of single frames.)
    """
    from scipy.ndimage import gaussian_filter1d, median_filter

    boxes = np.asarray(boxes, np.float64)
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    steady = []
    for values, seconds in ((centres, PLACE_SECONDS), (sizes, SIZE_SECONDS)):
        values = median_filter(values, (min(OUTLIER_FRAMES, len(values)), 1), mode="nearest")
        steady.append(gaussian_filter1d(values, seconds * fps, axis=0, mode="nearest"))
    centres, sizes = steady
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)


def crop(frame: np.ndarray, box: np.ndarray, pads: tuple[int, int, int, int] = (0, 0, 0, 0)) -> np.ndarray:
    """The part of a frame (H, W, 3) in a box x1, y1, x2, y2 grown by `pads` (top, bottom, left, right), a view.

    Sides are rounded to whole pixels; what lies outside the frame is left out.
    """
    top, bottom, left, right = pads
    x1, y1, x2, y2 = (round(float(side)) for side in box)
    return frame[max(0, y1 - top) : max(0, y2 + bottom), max(0, x1 - left) : max(0, x2 + right)]


def write_crop(
    frame: np.ndarray,
    box: np.ndarray,
    pads: tuple[int, int, int, int],
    path: Path,
    img_size: tuple[int, int] | None = None,
) -> None:
    """A crop as jpg, by `crop_for` where `img_size` is given; none where nothing of it lies inside the frame."""
    face = crop(frame, box, pads)
    if face.size and img_size is not None:
        face = crop_for(frame, box, pads, img_size)
    if face.size:
        path.write_bytes(cv2.imencode(".jpg", face)[1])


def crop_for(
    frame: np.ndarray, box: np.ndarray, pads: tuple[int, int, int, int], img_size: tuple[int, int]
) -> np.ndarray:
    """A crop as networks of `img_size` (height, width) take it (`crops.with_aspect`), reduced to what they need of it.

    Arguments else as for `crop`. Its sides are at most `STORED_MARGIN` times the network's.
    """
    top, bottom, left, right = pads
    x1, y1, x2, y2 = (round(float(side)) for side in box)
    box = inside((x1 - left, y1 - top, x2 + right, y2 + bottom), frame.shape[:2])
    face = cut(frame, with_aspect(box, img_size))
    scale = max(STORED_MARGIN * needed / side for needed, side in zip(img_size, face.shape, strict=False))
    return face if scale >= 1 else cv2.resize(face, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def sharpness(face: np.ndarray) -> float:
    """Variance of the Laplacian of a face crop's brightness at 96 x 96 pixels: low where it is blurred.

    0 for a crop without pixels. Small faces are enlarged and count as the blurred pictures that they become.
    """
    if not face.size:
        return 0.0
    shrunk = cv2.resize(face, (SHARPNESS_SIZE, SHARPNESS_SIZE), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(cv2.cvtColor(shrunk, cv2.COLOR_BGR2GRAY), cv2.CV_32F).var())
