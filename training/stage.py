"""What a stage of training is to the one loop (training/trainer.py); the three stages are in training/stages.py."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Dataset

from hparams import HParams
from training.clips import Clip

Batch = dict[str, Tensor]
Learn = Callable[[str, Tensor], None]  # adds that loss's gradients to those of the network with that prefix


class Stage(ABC):
    """One training stage.

    Attributes:
        networks: the networks being trained by checkpoint file prefix; "" is the main one.
        learning_rates: by the same prefixes.
        frozen: networks that the losses use and that are not trained.
        betas: of Adam.
        batch_size: samples a step.
        lead: mel frames needed before a window, in video frames.
        smallest_part: samples that a batch must not be cut under; batch norm asks for more than one value.
        passing: channels of the generator at full size that pass pictures on (`models.grow`).
        score: the validation metric by which the best checkpoint is chosen (lower is better).
    """

    betas = (0.9, 0.999)
    lead = 0
    smallest_part = 2
    passing = 0
    score = "loss"

    def __init__(self, hp: HParams):
        self.hp = hp
        self.networks: dict[str, nn.Module] = {}
        self.learning_rates: dict[str, float] = {}
        self.frozen: tuple[nn.Module, ...] = ()
        self.batch_size = hp.batch_size

    @property
    def loader_batch(self) -> int:
        """Items of the training set that make a batch."""
        return self.batch_size

    def train_mode(self) -> None:
        """Bring the networks into training mode."""
        for network in self.networks.values():
            network.train()

    @abstractmethod
    def dataset(self, data_root: Path, split: str, seed: int, filelists: Path) -> Dataset: ...

    def prepare(self, batch: Batch) -> Batch:
        """What is made of a step's whole batch before it is cut into parts."""
        return batch

    @abstractmethod
    def step(self, batch: Batch, learn: Learn) -> dict[str, Tensor]:
        """Gradients of one batch, or of a part of one, which `prepare` has seen; returns the losses to show."""

    @abstractmethod
    def evaluate(self, batch: Batch, network: nn.Module) -> dict[str, Tensor]:
        """Means over a validation batch."""

    def measure_clips(self, clips: list[Clip], network: nn.Module) -> dict[str, float]:
        """LSE-D, LSE-C and the share in sync of whole validation clips."""
        return {}

    def eval_items(self, dataset: Dataset) -> int:
        """Validation items, fixed in number and content."""
        return len(dataset) * self.hp.eval_windows

    def after_loading(self, path: Path, samples: Callable[[], Batch]) -> None:  # noqa: B027
        """Try the weights that the main network took from a file; on the CPU, before it learns."""

    def after_growth(self, path: Path, small: nn.Module, samples: Callable[[], Batch]) -> None:  # noqa: B027
        """Make the most of what the main network took from one for smaller faces; on the CPU, before it learns."""

    def after_evaluation(self, metrics: dict[str, float]) -> None:  # noqa: B027 (most stages have no schedule)
        """Let a schedule react to the validation metrics."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold beyond networks and optimisers."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027
        """The inverse of `state`."""

    def sample_sheets(self, batch: Batch, network: nn.Module) -> np.ndarray | None:
        """(B, T, H, n x W, 3) uint8 BGR pictures of a validation batch, or None."""
        return None
