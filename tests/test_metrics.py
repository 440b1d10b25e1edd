"""Pictures, silence, motion and intervals: figures whose right value is known."""

import numpy as np
import pytest
import torch
from media import RATE
from scipy import stats
from skimage.metrics import structural_similarity

from evaluation import metrics


def windows(seed: int, size: tuple[int, int] = (96, 96)) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((2, 3, 5, *size))).float()


def test_psnr_and_ssim_look_at_the_lower_half_alone():
    a = windows(0)
    b = a.clone()
    b[..., :48, :] = 0
    assert float(metrics.psnr_lower(b, a)) == metrics.MAX_PSNR
    assert float(metrics.ssim_lower(b, a)) == pytest.approx(1)
    b[..., 48:, :] += 0.1
    assert float(metrics.psnr_lower(b, a)) == pytest.approx(20, abs=1e-3)


@pytest.mark.parametrize("size", [(96, 96), (62, 41), (192, 128)])
def test_ssim_is_that_of_scikit_image(size):
    a, b = windows(0, size), 0.7 * windows(0, size) + 0.3 * windows(1, size)
    pairs = zip(*(x[..., size[0] // 2 :, :].permute(0, 2, 3, 4, 1).flatten(0, 1).numpy() for x in (a, b)), strict=True)
    settings = {"data_range": 1.0, "channel_axis": -1, "gaussian_weights": True, "use_sample_covariance": False}
    expected = np.mean([structural_similarity(x, y, **settings) for x, y in pairs])
    assert float(metrics.ssim_lower(a, b)) == pytest.approx(expected, abs=1e-5)
    with torch.autocast("cpu", torch.bfloat16):  # as training validates with --precision bf16
        assert float(metrics.ssim_lower(a, b)) == pytest.approx(expected, abs=1e-5)


def test_sharpness_falls_with_blur_and_forgives_light():
    sharp = windows(0)
    blurred = (sharp + sharp.roll(1, -1) + sharp.roll(1, -2) + sharp.roll((1, 1), (-1, -2))) / 4
    assert metrics.sharpness(blurred) < 0.2 * metrics.sharpness(sharp)
    assert float(metrics.sharpness(sharp + 0.3)) == pytest.approx(float(metrics.sharpness(sharp)), rel=1e-4)
    ramp = torch.linspace(0, 1, 96).expand(1, 3, 5, 96, 96)
    assert float(metrics.sharpness(ramp)) == pytest.approx(0, abs=1e-9)


def test_mouth_is_where_motion_is_measured():
    faces = np.zeros((100, 50, 3), np.uint8)
    seen = faces.copy()
    metrics.mouth_of(torch.from_numpy(seen).permute(2, 0, 1)).fill_(8)
    assert metrics.mouth_motion(faces, seen) == 8
    assert 0.2 < (seen > 0).mean() < 0.3


def test_frechet_distance_of_gaussians():
    rng = np.random.default_rng(0)
    a = stats.multivariate_normal([0, 0, 0], np.diag([1.0, 4.0, 9.0])).rvs(50_000, rng)
    b = stats.multivariate_normal([1, 2, 2], np.diag([4.0, 4.0, 1.0])).rvs(50_000, rng)
    assert metrics.frechet_distance(a, b) == pytest.approx(
        9 + 1 + 0 + 4, rel=0.02
    )  # sum of (difference of deviations)^2
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="at least two"):
        metrics.frechet_distance(a[:1], b)


def test_frechet_distance_with_fewer_features_than_dimensions():
    few = np.random.default_rng(0).standard_normal((5, 40))
    assert metrics.frechet_distance(few, few + 1) == pytest.approx(40, rel=1e-3)


def test_silence_needs_200_ms():
    wav = 0.3 * np.sin(np.arange(4 * RATE))
    wav[1 * RATE : 2 * RATE] *= 0.001  # frames 25 to 49
    wav[int(2.4 * RATE) : int(2.56 * RATE)] = 0  # 4 frames
    silent = metrics.silent_frames(wav, RATE, 110, 25)
    assert np.flatnonzero(silent).tolist() == [*range(25, 50), *range(100, 110)]  # the sound ends at frame 100
    assert metrics.silent_frames(np.zeros(RATE), RATE, 25, 25).all()
    assert metrics.silent_frames(wav, RATE, 0, 25).shape == (0,)


def test_motion_counts_the_mouth_alone():
    before = np.full((96, 96, 3), 100, np.uint8)
    after = before.copy()
    after[:50] = 200
    assert metrics.mouth_motion(before, after) == 0
    after[:] = 107
    assert metrics.mouth_motion(before, after) == 7


def test_interval_is_a_function_of_values_and_seed():
    values = np.random.default_rng(0).normal(3, 1, 100).tolist()
    found = metrics.interval(values, seed=0)
    assert found == metrics.interval(values, seed=0) != metrics.interval(values, seed=1)
    assert found.low < found.mean < found.high and found.high - found.low == pytest.approx(0.39, abs=0.06)
    assert metrics.interval([2.0], 0) == metrics.Interval(2.0, None, None, 1)
    assert metrics.interval([], 0) is None
    assert metrics.interval([1.0, 1.0], 0) == metrics.Interval(1.0, 1.0, 1.0, 2)
