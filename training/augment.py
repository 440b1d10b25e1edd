"""Random changes to training samples. A whole window gets one change: varying it by frame would be false motion."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

MAX_SHIFT = 0.05  # of the face's size
MAX_SCALE = 0.08
MAX_ROTATION = 6.0  # degrees
MAX_BRIGHTNESS = 45.0  # of 255
MAX_CONTRAST = 0.3
MAX_TINT = 0.06  # factor on each colour channel
LUMA = (0.114, 0.587, 0.299)  # of blue, green and red
SATURATIONS = (0.2, 1.8)  # of colours that are varied widely: factors on what differs from grey
MAX_HUE = 25.0  # degrees about the axis of greys
JITTER_DRAWS = 5  # numbers that `jitter` takes a window: angle, scale, side, shift across and down
MAX_MEL_GAIN = 0.5  # of the mel's [-4, 4]: about 6 dB


@dataclass(frozen=True)
class WindowTransform:
    """Flip, shift, scale, rotation, brightness, contrast and tint of all frames of a sample; or nothing."""

    active: bool
    flip: bool = False
    matrix: tuple[float, ...] = ()  # (2, 3): about the middle, then a shift in shares of width and height
    gain: tuple[float, ...] = ()
    bias: float = 0.0
    mixing: tuple[float, ...] = ()  # (3, 3): blue, green and red of these; or nothing

    @classmethod
    def draw(cls, rng: np.random.Generator, active: bool, colours: bool = False) -> "WindowTransform":
        """`colours`: hue and saturation change, too."""
        if not active:
            return cls(False)
        angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
        scale = 1 + rng.uniform(-MAX_SCALE, MAX_SCALE)
        matrix = cv2.getRotationMatrix2D((0, 0), angle, scale)
        matrix[:, 2] = rng.uniform(-MAX_SHIFT, MAX_SHIFT, 2)
        contrast = 1 + rng.uniform(-MAX_CONTRAST, MAX_CONTRAST)
        gain = contrast * (1 + rng.uniform(-MAX_TINT, MAX_TINT, 3))
        flip, bias = bool(rng.integers(2)), rng.uniform(-1, 1) * MAX_BRIGHTNESS
        mixing = colour_mixing(rng.uniform(*SATURATIONS), rng.uniform(-MAX_HUE, MAX_HUE)) if colours else np.zeros(0)
        return cls(True, flip, tuple(matrix.ravel()), tuple(gain), bias, tuple(mixing.ravel()))

    def __call__(self, window: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 -> the same shape."""
        if not self.active:
            return window
        height, width = window.shape[1:3]
        matrix = np.array(self.matrix).reshape(2, 3)
        centre = np.array([width, height]) / 2
        matrix[:, 2] = matrix[:, 2] * (width, height) + centre - matrix[:, :2] @ centre
        out = np.empty_like(window)
        for t, frame in enumerate(window):
            frame = cv2.warpAffine(frame, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
            out[t] = frame[:, ::-1] if self.flip else frame
        if self.mixing:
            out = cv2.transform(out.reshape(-1, width, 3), np.array(self.mixing).reshape(3, 3)).reshape(out.shape)
        tables = np.arange(256)[:, None] * np.array(self.gain) + (self.bias + 128 * (1 - np.mean(self.gain)))
        tables = np.clip(tables, 0, 255).astype(np.uint8)
        flat = out.reshape(-1, width, 3)
        return cv2.LUT(flat, tables[:, None, :].reshape(1, 256, 3)).reshape(out.shape)


def colour_mixing(saturation: float, hue: float) -> np.ndarray:
    """(3, 3): turns colours by `hue` degrees about the axis of greys, and changes how far they are from it."""
    cos, sin = np.cos(np.deg2rad(hue)), np.sin(np.deg2rad(hue))
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)  # with the axis of greys
    turned = cos * np.eye(3) + sin * cross + (1 - cos) * np.ones((3, 3)) / 3  # Rodrigues
    grey = np.tile(LUMA, (3, 1))
    return (grey + saturation * (np.eye(3) - grey)) @ turned


@dataclass(frozen=True)
class MelGain:
    """One loudness for all mels of a sample; or nothing."""

    offset: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator, active: bool) -> "MelGain":
        return cls(float(rng.uniform(-1, 1) * MAX_MEL_GAIN) if active else 0.0)

    def __call__(self, mel: np.ndarray) -> np.ndarray:
        """(..., 80, 16) in [-4, 4] -> the same."""
        return np.clip(mel + self.offset, -4, 4).astype(np.float32) if self.offset else mel


def jitter(faces: Tensor, draws: Tensor) -> Tensor:
    """Flip, shift, scale and rotate generated faces (B, 3, T, H, W): one change a window, differentiable.

    Between generator and expert it takes the ground from patterns that please the expert at one place only and are no
    lips. `draws` (B, JITTER_DRAWS) lie in [-1, 1].
    """
    batch, colours, time, height, width = faces.shape
    moves = moves_of(draws, MAX_ROTATION, MAX_SCALE, MAX_SHIFT)
    grid = F.affine_grid(moves, (batch, 1, height, width), align_corners=False)
    flat = faces.reshape(batch, colours * time, height, width)
    return F.grid_sample(flat, grid, padding_mode="border", align_corners=False).view_as(faces)


def moves_of(draws: Tensor, rotation: float, scale: float, shift: float) -> Tensor:
    """(B, 2, 3): where a moved picture's places lie in the picture as it was, both in [-1, 1], about the middle.

    `draws` (B, JITTER_DRAWS) in [-1, 1] are shares of the most: degrees, and shares of the face's size.
    """
    draw = draws.T
    angle, size, side = torch.deg2rad(draw[0] * rotation), 1 + draw[1] * scale, draw[2].sign()  # -1 mirrors
    cos, sin, across, down = size * angle.cos(), size * angle.sin(), 2 * shift * draw[3], 2 * shift * draw[4]
    return torch.stack((side * cos, -sin, across, side * sin, cos, down), dim=1).view(-1, 2, 3)
