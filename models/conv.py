"""The convolution blocks that all networks are made of, and how networks scale with face size and width."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from errors import InputError
from hparams import hparams, parse_size

Size = int | tuple[int, int]

PUBLISHED_LEVELS = 5  # halvings of the published 96 x 96 face


class Conv2d(nn.Module):
    """Convolution, batch norm, optional residual add, ReLU. (N, cin, H, W) -> (N, cout, H', W')."""

    def __init__(self, cin: int, cout: int, kernel_size: Size, stride: Size, padding: Size, residual=False):
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(cin, cout, kernel_size, stride, padding), nn.BatchNorm2d(cout))
        self.act = nn.ReLU()
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv_block(x)
        return self.act(out + x if self.residual else out)


class nonorm_Conv2d(nn.Module):  # noqa: N801 (the published name)
    """Convolution and LeakyReLU(0.01), for the visual-quality discriminator."""

    def __init__(self, cin: int, cout: int, kernel_size: Size, stride: Size, padding: Size):
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(cin, cout, kernel_size, stride, padding))
        self.act = nn.LeakyReLU(0.01, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv_block(x))


class Conv2dTranspose(nn.Module):
    """Transposed convolution, batch norm, ReLU. (N, cin, H, W) -> (N, cout, H', W')."""

    def __init__(self, cin: int, cout: int, kernel_size: Size, stride: Size, padding: Size, output_padding: Size = 0):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ConvTranspose2d(cin, cout, kernel_size, stride, padding, output_padding), nn.BatchNorm2d(cout)
        )
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv_block(x))


def residuals(channels: int, count: int) -> list[nn.Module]:
    """`count` residual 3x3 blocks that keep the width."""
    return [Conv2d(channels, channels, 3, 1, 1, residual=True) for _ in range(count)]


def scaled(channels: int, width: float) -> int:
    """A published channel count times the width factor, in steps of 4 so that kernels stay efficient."""
    return channels if width == 1.0 else max(4, 4 * round(channels * width / 4))


def face_levels(img_size: tuple[int, int]) -> int:
    """How often a face of (height, width) pixels is halved: until the next halving is odd or leaves under 3 cells.

    (96, 96) gives the published 5 with 3 x 3 cells left; every supported size leaves 3 to 10 cells a side.
    Raises ValueError for sizes that leave more, such as odd ones.
    """
    height, width = img_size
    levels = 0
    while height % 2 == 0 and width % 2 == 0 and min(height, width) // 2 >= 3:
        height, width, levels = height // 2, width // 2, levels + 1
    if levels < PUBLISHED_LEVELS or max(height, width) > 10:
        raise ValueError(f"a face of {img_size[0]} x {img_size[1]} pixels does not halve down to 3 to 10 cells a side")
    return levels


def checked_size(img_size: tuple[int, int], flag: str = "--img_size") -> tuple[int, int]:
    """The same size. Raises InputError for one that no network can be built for."""
    try:
        face_levels(img_size)
    except ValueError as error:
        raise InputError(f"{flag}: {error}; use such as 96, 192, 256, 288x192, 384, 512 or 1280x640") from error
    return img_size


def size_of(text: str) -> tuple[int, int]:
    """`--img_size` as (height, width). Raises InputError for what is no size, or none of a network."""
    return checked_size(dataclasses.replace(hparams, img_size=parse_size(text)).face_size)


def audio_encoder(width: float, residuals_at_256: int) -> nn.Sequential:
    """Mel window (N, 1, 80, 16) -> embedding (N, 512 x width, 1, 1); the generator has 1 residual at 256."""
    c32, c64, c128, c256, c512 = (scaled(c, width) for c in (32, 64, 128, 256, 512))
    return nn.Sequential(
        Conv2d(1, c32, 3, 1, 1),
        *residuals(c32, 2),
        Conv2d(c32, c64, 3, (3, 1), 1),
        *residuals(c64, 2),
        Conv2d(c64, c128, 3, 3, 1),
        *residuals(c128, 2),
        Conv2d(c128, c256, 3, (3, 2), 1),
        *residuals(c256, residuals_at_256),
        Conv2d(c256, c512, 3, 1, 0),
        Conv2d(c512, c512, 1, 1, 0),
    )


def fold_time(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (T x B, C, H, W), all of time step 0 first."""
    return torch.cat(x.unbind(dim=2), dim=0)


def unfold_time(x: Tensor, batch_size: int) -> Tensor:
    """(T x B, C, H, W) -> (B, C, T, H, W): the inverse of `fold_time`."""
    return torch.stack(x.split(batch_size, dim=0), dim=2)


def output_size(layers: Sequence[tuple[int, int, int]], size: int) -> int:
    """Cells left of `size` after convolutions given as (kernel, stride, padding)."""
    for kernel, stride, padding in layers:
        size = (size + 2 * padding - kernel) // stride + 1
    return size
