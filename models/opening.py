"""How far a mouth is open and where its lips are: small networks that learnt to see it from a landmark model.

Openings are gaps between the inner lips in distances of the outer eye corners: 0.02 is nearly closed, 0.1 wide open.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.conv import scaled

SHAPE_PLAN = ((24, 2), (48, 2), (48, 1), (96, 2), (96, 1), (128, 2), (128, 1))
VIEWS = ((0.0, 0.0, 1.0), (0.0, -0.08, 1.08))  # shifts, scale; more of them find points hardly better
# Numbers of MediaPipe's face mesh: corners of the mouth; upper and lower inner lip, lower edge; inner corners; the
# inner lips half way between the middle and these, above and below.
LIP_POINTS = (61, 291, 13, 14, 17, 78, 308, 81, 311, 178, 402)
MIRRORED = (1, 0, 2, 3, 4, 6, 5, 8, 7, 10, 9)  # `LIP_POINTS` in a mirror
PLAN = ((12, 2), (24, 2), (24, 1), (48, 2), (48, 1), (72, 2), (72, 1))  # channels and stride of each convolution


class MouthOpening(nn.Module):
    """The opening of the mouth of faces. Gradients pass, so that a generator can learn from it.

    It sees the lower half, grey and of equal contrast, so that light and colours say nothing.

    Args:
        img_size: (height, width) of the face in pixels; others are resized to it.
        width: factor on every channel count.
    """

    def __init__(self, img_size: tuple[int, int] = (96, 96), width: float = 1.0):
        super().__init__()
        self.img_size, self.width = tuple(img_size), width
        layers, features = _convolutions(PLAN, width, 1, (img_size[0] // 2, img_size[1]))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(features, 1))
        self.register_buffer("mean", torch.tensor(0.0))  # of the openings that it learnt from
        self.register_buffer("std", torch.tensor(1.0))

    def forward(self, faces: Tensor) -> Tensor:
        """Faces (N, 3, H, W) in [0, 1] -> openings (N,) in eye distances."""
        return self.mean + self.std * self.standardised(faces)

    def standardised(self, faces: Tensor) -> Tensor:
        """The same in standard deviations around the mean of real talking faces: what losses compare."""
        if faces.shape[-2:] != self.img_size:
            faces = F.interpolate(faces, self.img_size, mode="bilinear", antialias=True)
        lower = faces.float().mean(1, keepdim=True)[:, :, self.img_size[0] // 2 :]
        deviation = lower.std((1, 2, 3), keepdim=True) + 0.02  # a flat picture stays flat
        lower = (lower - lower.mean((1, 2, 3), keepdim=True)) / deviation
        return self.head(self.features(lower).flatten(1))[:, 0]

    @torch.inference_mode()
    def openings_of(self, faces: np.ndarray) -> np.ndarray:
        """The openings (N,) of pictures (N, H, W, 3) uint8."""
        return self(as_input(faces)).numpy()


class MouthShape(nn.Module):
    """Where the lips of faces are, and whether they are to be seen.

    Args:
        img_size: (height, width) of the face in pixels; others are resized to it.
        width: factor on every channel count.
    """

    def __init__(self, img_size: tuple[int, int] = (96, 96), width: float = 1.0):
        super().__init__()
        self.img_size, self.width = tuple(img_size), width
        layers, features = _convolutions(SHAPE_PLAN, width, 1, img_size)
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(features, 2 * len(LIP_POINTS) + 1))
        self.register_buffer("mean", torch.zeros(len(LIP_POINTS), 2))  # of the points that it learnt from

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Faces (N, 3, H, W) in [0, 1] -> `LIP_POINTS` (N, 11, 2), x over the width and y over the height; and logits
        (N,) of that the mouth is to be seen, with nothing before it."""
        if faces.shape[-2:] != self.img_size:
            faces = F.interpolate(faces, self.img_size, mode="bilinear", antialias=True)
        grey = faces.float().mean(1, keepdim=True)
        grey = (grey - grey.mean((1, 2, 3), keepdim=True)) / (grey.std((1, 2, 3), keepdim=True) + 0.02)
        said = self.head(self.features(grey).flatten(1))
        return self.mean + 0.1 * said[:, :-1].unflatten(1, (-1, 2)), said[:, -1]

    @torch.inference_mode()
    def lips_of(self, faces: np.ndarray) -> np.ndarray:
        """The points of pictures (N, H, W, 3) uint8 BGR."""
        return self(as_input(faces))[0].numpy()

    @torch.inference_mode()
    def closely(self, face: np.ndarray) -> tuple[np.ndarray, float]:
        """The points of a picture (H, W, 3) uint8 BGR (11, 2), and the logit of that the mouth is to be seen.

        Both are means over several views of it, moved a little and mirrored, which errs less than one.
        """
        shown = F.interpolate(as_input(face[None]), self.img_size, mode="bilinear", antialias=True)
        views = [(side, *view) for side in (1.0, -1.0) for view in VIEWS]
        moves = torch.tensor([[[side * size, 0, x], [0, size, y]] for side, x, y, size in views])
        grid = F.affine_grid(moves, (len(views), *shown.shape[1:]), align_corners=False)
        shown = F.grid_sample(shown.expand(len(views), -1, -1, -1), grid, padding_mode="border", align_corners=False)
        points, logits = self(shown)
        mirrored = (moves[:, 0, 0] < 0)[:, None, None]
        points = torch.where(mirrored, points[:, MIRRORED], points)
        points = (2 * points - 1) @ moves[:, :, :2].transpose(1, 2) + moves[:, None, :, 2]
        return ((points + 1) / 2).mean(0).numpy(), float(logits.mean())


def as_input(faces: np.ndarray) -> Tensor:
    """Pictures (N, H, W, 3) uint8 as networks here take them: (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(faces)).permute(0, 3, 1, 2).float() / 255


def _convolutions(
    plan: tuple[tuple[int, int], ...], width: float, channels: int, sides: tuple[int, int]
) -> tuple[list[nn.Module], int]:
    """Convolutions by channels and strides, over pictures of (height, width), and how many numbers come out."""
    layers: list[nn.Module] = []
    for wanted, stride in plan:
        out = scaled(wanted, width)
        layers += [nn.Conv2d(channels, out, 3, stride, 1), nn.BatchNorm2d(out), nn.ReLU()]
        channels, sides = out, tuple(-(-side // stride) for side in sides)
    return layers, channels * math.prod(sides)
