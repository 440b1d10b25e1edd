"""Whether a mouth is to be seen, or a hand or the like is before it: a small network that learnt it from mouths with
shapes drawn over them."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.conv import scaled

PLAN = ((24, 2), (48, 2), (48, 1), (96, 2), (96, 1), (128, 2), (128, 1))  # channels and stride of each convolution


class MouthCover(nn.Module):
    """Whether the mouths of faces are to be seen.

    Args:
        img_size: (height, width) of the face in pixels; others are resized to it.
        width: factor on every channel count.
    """

    def __init__(self, img_size: tuple[int, int] = (96, 96), width: float = 1.0):
        super().__init__()
        self.img_size, self.width = tuple(img_size), width
        layers: list[nn.Module] = []
        channels, sides = 1, self.img_size
        for wanted, stride in PLAN:
            out = scaled(wanted, width)
            layers += [nn.Conv2d(channels, out, 3, stride, 1), nn.BatchNorm2d(out), nn.ReLU()]
            channels, sides = out, tuple(-(-side // stride) for side in sides)
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(channels * math.prod(sides), 1))

    def forward(self, faces: Tensor) -> Tensor:
        """Faces (N, 3, H, W) in [0, 1] -> logits (N,) of that the mouth is to be seen, with nothing before it."""
        if faces.shape[-2:] != self.img_size:
            faces = F.interpolate(faces, self.img_size, mode="bilinear", antialias=True)
        grey = faces.float().mean(1, keepdim=True)  # of equal contrast, so that light and colours say nothing
        grey = (grey - grey.mean((1, 2, 3), keepdim=True)) / (grey.std((1, 2, 3), keepdim=True) + 0.02)
        return self.head(self.features(grey).flatten(1))[:, 0]

    @torch.inference_mode()
    def visible(self, face: np.ndarray) -> float:
        """The logit of a picture (H, W, 3) uint8 and its mirror image, the mean."""
        both = torch.from_numpy(np.stack((face, face[:, ::-1]))).permute(0, 3, 1, 2).float() / 255
        return float(self(both).mean())
