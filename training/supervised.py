"""How the small networks learn what is known of what they are shown: AdamW over one cycle of the learning rate."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm


@dataclass(frozen=True)
class Plan:
    """How a network learns: AdamW over one cycle of the learning rate."""

    steps: int
    batch: int
    rate: float  # the highest
    weight_decay: float
    varied: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # what is shown, and what is to be said of it


@dataclass(frozen=True)
class Labelled:
    """What is shown (n, ...), faces or speech; what is known of it (n, ...), lips or openings; its clip (n,)."""

    shown: Tensor
    known: Tensor
    clip: Tensor


@dataclass(frozen=True)
class Draws:
    """How batches are drawn: from which seed, and each clip how often (clips,), or all alike."""

    seed: int
    often: Tensor | None


def learn(
    network: nn.Module,
    data: Labelled,
    known: Tensor,
    plan: Plan,
    draws: Draws,
    loss_of: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """A loss of random batches of what is shown and of what is `known` of it, both changed by `plan.varied`."""
    draw = torch.Generator().manual_seed(draws.seed)
    device = next(network.parameters()).device
    weight = None if draws.often is None else draws.often[data.clip]

    def loss() -> Tensor:
        if weight is None:
            chosen = torch.randint(len(known), (plan.batch,), generator=draw)
        else:
            chosen = torch.multinomial(weight, plan.batch, replacement=True, generator=draw)
        return loss_of(*plan.varied(data.shown[chosen].to(device).float(), known[chosen].to(device)))

    descend(network, plan.steps, plan.rate, plan.weight_decay, loss)


def descend(network: nn.Module, steps: int, rate: float, weight_decay: float, loss_of: Callable[[], Tensor]) -> None:
    """AdamW on `loss_of()` over one cycle of the learning rate, at most `rate`; in eval mode afterwards."""
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps)
    network.train()
    bar = tqdm(range(steps), desc=type(network).__name__, unit="step")
    for _ in bar:
        loss = loss_of()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    network.eval()
