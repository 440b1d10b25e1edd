"""S3FD behind the interface of face detectors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from errors import InputError
from face_detection.detection.core import FaceDetector, check_size, scale_up, shrink
from face_detection.detection.sfd import WEIGHTS_PLACES, weights_path
from face_detection.detection.sfd.detect import MIN_SCORE, decode_detections
from face_detection.detection.sfd.net_s3fd import s3fd
from models.checkpoint import load_weights, read_state_dict

CHANNEL_MEANS = (104.0, 117.0, 123.0)


class SFDDetector(FaceDetector):
    """S3FD as the published pipeline uses it: the colour order swapped, frames at full size unless told otherwise.

    `weights_path`: the weights, by default the first of `WEIGHTS_PLACES` that exists. `threshold`: detections that
    score above it stay. `size`: the longer side of larger frames as the network sees them, in pixels; 0 keeps the full
    size. Raises InputError when the weights are missing, damaged or of another network.
    Running out of a GPU's memory raises torch.OutOfMemoryError: give fewer frames at a time.
    """

    def __init__(
        self,
        device: str | torch.device = "cpu",
        weights_path: str | Path | None = None,
        threshold: float = MIN_SCORE,
        size: int = 0,
    ) -> None:
        check_size(size)
        self.size = size
        path = _find_weights() if weights_path is None else Path(weights_path)
        self.device = torch.device(device)
        self.threshold = threshold
        self.network = s3fd()
        load_weights(self.network, read_state_dict(path), path)
        self.network.to(self.device).eval()

    def detect(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        seen = [shrink(image, self.size) for image in images]
        with torch.inference_mode():
            maps = self.network(network_input(seen, self.device))
        found = decode_detections(maps, self.threshold)
        return [scale_up(faces, small, image) for faces, small, image in zip(found, seen, images, strict=True)]


def network_input(images: Sequence[np.ndarray], device: str | torch.device = "cpu") -> Tensor:
    """B frames (H, W, 3) of one size, uint8 BGR -> (B, 3, H, W) float32 RGB less the channel means.

    The means are those of blue, green and red, yet they are subtracted from red, green and blue in that order: so
    the published pipeline does, and its boxes depend on it.
    """
    batch = torch.from_numpy(np.stack(images)).to(device).flip(-1)
    means = torch.tensor(CHANNEL_MEANS, device=device)
    return (batch.float() - means).permute(0, 3, 1, 2).contiguous()


def _find_weights() -> Path:
    path = weights_path()
    if path is None:
        places = " or ".join(str(place) for place in WEIGHTS_PLACES)
        raise InputError(f"S3FD's weights are missing: put s3fd.pth at {places}, or use the face detector centerface")
    return path
