"""How learning rates and averaged weights change over the steps."""

import math
from collections.abc import Callable

from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hparams import HParams


def learning_rate_factor(step: int, hp: HParams) -> float:
    """Linear warm-up, then a cosine to a hundredth at `hp.decay_steps`; 1 throughout by default."""
    factor = min(1.0, (step + 1) / hp.warmup_steps) if hp.warmup_steps else 1.0
    if hp.decay_steps:
        progress = min(1.0, step / hp.decay_steps)
        factor *= 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2
    return factor


def moving_average(decay: float) -> Callable[..., None]:
    """An exponential moving average for AveragedModel whose memory grows with the steps, so that it starts unbiased."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        get_ema_multi_avg_fn(min(decay, (1 + float(count)) / (10 + float(count))))(averaged, current, count)

    return update
