"""The weights and inputs that the parity vectors were made with, each drawn from a generator seeded by its name."""

import zlib

import numpy as np
import torch


def _rng(name: str) -> np.random.RandomState:
    return np.random.RandomState((zlib.crc32(name.encode()) + 0) & 0x7FFFFFFF)


def fill(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A new state dict with the names and shapes of `state_dict` and the parity vectors' values."""
    return {name: _values(name, tuple(tensor.shape)) for name, tensor in state_dict.items()}


def x(name: str, *shape: int) -> np.ndarray:
    """The input called `name`: float32 in [0, 1) of `shape`."""
    return _rng("input:" + name).random_sample(shape).astype(np.float32)


def _values(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    normal = _rng(name).standard_normal(shape)
    if name.endswith("running_var"):
        values = 1 + 0.1 * np.abs(normal)
    elif name.endswith("running_mean"):
        values = 0.1 * normal
    elif name.endswith(".weight") and len(shape) == 4:
        values = normal * np.sqrt(1 / (shape[1] * shape[2] * shape[3]))
    elif name.endswith(".weight"):
        values = 1 + 0.1 * normal
    else:
        values = 0.1 * normal
    return torch.from_numpy(np.asarray(values, dtype=np.float32))
