"""Timing: repeated, with the median and the spread, beside what the machine can do."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import torch
from torch import nn

MATRIX_SIZE = 3072  # rows and columns of the products that stand for the machine's limit


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)

    def show(self, digits: int = 1) -> str:
        """Median (least to most)."""
        return f"{self.median:.{digits}f} ({min(self.values):.{digits}f} to {max(self.values):.{digits}f})"


def repeated(function: Callable[[], object], times: int, per: int = 1) -> Spread:
    """Seconds of a call over `per`, `times` times, after one call that does not count."""
    function()
    return Spread(tuple(_seconds(function) / per for _ in range(times)))


def beside_products(function: Callable[[], object], times: int, per: int = 1) -> tuple[Spread, Spread]:
    """Seconds of a call over `per`, and in turns with the calls 1e9 floating-point operations a second in products of
    large float32 matrices on all cores: the mean of before and after each, for machines change their pace."""
    a, b = torch.rand(MATRIX_SIZE, MATRIX_SIZE), torch.rand(MATRIX_SIZE, MATRIX_SIZE)
    function(), a @ b
    products, values = [_seconds(lambda: a @ b)], []
    for _ in range(times):
        values.append(_seconds(function) / per)
        products.append(_seconds(lambda: a @ b))
    rates = [4 * MATRIX_SIZE**3 / (before + after) / 1e9 for before, after in pairwise(products)]
    return Spread(tuple(values)), Spread(tuple(rates))


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def operations(network: nn.Module, *inputs: torch.Tensor) -> float:
    """Floating-point operations of a network's convolutions for these inputs, two a multiplication, in 1e9.

    Counted as direct convolution, whatever way they are computed in.
    """
    counts = []

    def count(module: nn.Module, given: tuple, made: torch.Tensor) -> None:
        places = (given[0] if isinstance(module, nn.ConvTranspose2d) else made).shape
        counts.append(2 * module.weight.numel() * places[0] * places[2] * places[3])

    convolutions = (nn.Conv2d, nn.ConvTranspose2d)
    hooks = [module.register_forward_hook(count) for module in network.modules() if isinstance(module, convolutions)]
    with torch.inference_mode():
        network(*inputs)
    for hook in hooks:
        hook.remove()
    return sum(counts) / 1e9
