"""Measures of pictures and of movement, and intervals around their means. Pure functions: no files, no networks."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.discriminator import lower_half

MAX_PSNR = 100.0  # dB, of equal pictures
SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # pixels of the Gaussian window (Wang et al. 2004, section III-B)
SSIM_K = (0.01, 0.03)
# The mouth in a face crop, as shares of its height and width.
MOUTH_ROWS, MOUTH_COLUMNS = (0.58, 0.98), (0.2, 0.8)

SILENT_DB = -35.0  # a frame is silent this far below the clip's loud ones (95th percentile)
QUIET_DB = -60.0  # and always under this, relative to full scale
SILENT_FRAMES = 5  # in a row, at least: 200 ms at 25 frames a second, so that closures within words do not count

RESAMPLES = 2000  # of the bootstrap
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over `count` clips, with its bootstrap confidence interval; `low` and `high` are None for a single one."""

    mean: float
    low: float | None
    high: float | None
    count: int


def psnr_lower(generated: Tensor, truth: Tensor) -> Tensor:
    """Mean PSNR in dB of the lower halves of windows (B, 3, T, H, W) in [0, 1]; 100 for equal ones."""
    error = lower_half(generated.float() - truth).square().mean((1, 2, 3, 4))
    return (-10 * error.clamp_min(10 ** (-MAX_PSNR / 10)).log10()).mean()


def ssim_lower(generated: Tensor, truth: Tensor) -> Tensor:
    """Mean SSIM of the lower halves of windows (B, 3, T, H, W) in [0, 1]: at least 11 rows and columns in a half.

    Gaussian window (sigma 1.5), population covariance, mean over channels (Wang et al. 2004): the same number as
    scikit-image's, for batches and on any device, where training needs no further package.
    """
    a, b = (lower_half(faces.float()).transpose(1, 2).flatten(0, 2)[:, None] for faces in (generated, truth))
    with torch.autocast(generated.device.type, enabled=False):  # variances are small differences of large numbers
        a_mean, b_mean = _blurred(a), _blurred(b)
        a_var, b_var = _blurred(a * a) - a_mean**2, _blurred(b * b) - b_mean**2
        covariance = _blurred(a * b) - a_mean * b_mean
    c1, c2 = (k**2 for k in SSIM_K)
    likeness = (2 * a_mean * b_mean + c1) * (2 * covariance + c2)
    return (likeness / ((a_mean**2 + b_mean**2 + c1) * (a_var + b_var + c2))).mean()


def _blurred(pictures: Tensor) -> Tensor:
    """Gaussian means of (N, 1, H, W), without the border that the window does not fit into."""
    at = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, device=pictures.device, dtype=pictures.dtype)
    weights = torch.exp(-(at**2) / (2 * SSIM_SIGMA**2))
    weights = weights / weights.sum()
    return F.conv2d(F.conv2d(pictures, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))


def sharpness(faces: Tensor) -> Tensor:
    """Mean square of the Laplacian of the brightness of pictures (B, 3, T, H, W) in [0, 1]: low where they are blurred.

    Noise counts as sharpness: it says something beside PSNR and SSIM only.
    """
    grey = faces.float().mean(1)  # (B, T, H, W)
    around = grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1] + grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:]
    return (around - 4 * grey[..., 1:-1, 1:-1]).square().mean()


def mouth_of(faces: Tensor) -> Tensor:
    """The mouth's part of face crops (..., H, W), a view."""
    height, width = faces.shape[-2:]
    return faces[..., _part(MOUTH_ROWS, height), _part(MOUTH_COLUMNS, width)]


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of the Gaussians of two sets of features (n, D), (m, D): FID, for Inception's features.

    |mean difference|^2 + trace(A + B - 2 (A B)^(1/2)) (Heusel et al. 2017, equation 6). Raises ValueError under two
    features in a set. Under D features the covariances have no full rank and the figure is too large: compare only
    figures of equally large sets.
    """
    from scipy.linalg import sqrtm

    if min(len(a), len(b)) < 2:
        raise ValueError("a covariance needs at least two features")
    a, b = a.astype(np.float64), b.astype(np.float64)
    a_cov, b_cov = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (a, b))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about singular products, whose root is what is wanted
        root = sqrtm(a_cov @ b_cov)
    difference = a.mean(0) - b.mean(0)
    return float(difference @ difference + np.trace(a_cov) + np.trace(b_cov) - 2 * np.trace(root.real))


def silent_frames(wav: np.ndarray, rate: int, frames: int, fps: float) -> np.ndarray:
    """Which of `frames` video frames are silent, (frames,) bool: quiet ones, at least `SILENT_FRAMES` in a row.

    A frame is quiet when the sound from its time to the next one's lies `SILENT_DB` below the clip's loud frames, or
    under `QUIET_DB` of full scale. Frames after the end of the sound are silent.
    """
    edges = np.round(np.arange(frames + 1) * rate / fps).astype(int)
    energy = np.concatenate(([0.0], np.cumsum(np.asarray(wav, np.float64) ** 2)))
    ends = np.minimum(edges, len(wav))
    power = np.diff(energy[ends]) / np.maximum(1, np.diff(edges))
    loudness = 10 * np.log10(np.maximum(power, 1e-12))
    quiet = loudness < max(QUIET_DB, np.percentile(loudness, 95) + SILENT_DB) if frames else np.zeros(0, bool)
    runs = np.flatnonzero(np.diff(np.concatenate(([0], quiet.astype(int), [0])))).reshape(-1, 2)
    silent = np.zeros(frames, bool)
    for first, end in runs:
        silent[first:end] = end - first >= SILENT_FRAMES
    return silent


def mouth_motion(before: np.ndarray, after: np.ndarray) -> float:
    """Mean absolute difference of the mouth in two crops (H, W, 3) uint8 made with one box: levels of 255, grey."""
    height, width = after.shape[:2]
    rows, columns = _part(MOUTH_ROWS, height), _part(MOUTH_COLUMNS, width)
    grey = (crop[rows, columns].astype(np.float64).mean(axis=2) for crop in (before, after))
    return float(np.abs(np.subtract(*grey)).mean())


def _part(shares: tuple[float, float], size: int) -> slice:
    return slice(int(shares[0] * size), max(int(shares[0] * size) + 1, int(shares[1] * size)))


def interval(values: list[float], seed: int) -> Interval | None:
    """The mean of a figure over clips and its percentile bootstrap interval, a function of values and seed alone.

    None without values.
    """
    if not values:
        return None
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, None, None, 1)
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.array(values, np.float64),),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), len(values))
