"""Data parallelism by torchrun: one process a device, or one process alone when started plainly.

With as many samples a step in all, any number of processes learns the same, up to rounding: each takes its share of the
same samples, gradients are averaged, and batch norm has the statistics of the whole batch.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from errors import InputError


class Workers:
    """The processes of a run. `rank` 0 writes files and speaks."""

    def __init__(self, device: str):
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise InputError("--device cuda: this PyTorch sees no CUDA device; use --device cpu")
        self.device = torch.device(f"cuda:{local_rank}" if device == "cuda" else device)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if self.size > 1:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network, its gradients averaged over the processes and its batch statistics those of the whole batch."""
        network.to(self.device, memory_format=torch.channels_last)
        if self.size == 1:
            return network
        if self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
            return nn.parallel.DistributedDataParallel(network, device_ids=[self.device.index])
        for module in network.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = GlobalBatchNorm2d  # the same tensors under the same names
        return nn.parallel.DistributedDataParallel(network)

    def mean_by_name(self, values: dict[str, float]) -> dict[str, float]:
        """Means over the processes, which all have the same names."""
        return {name: total / self.size for name, total in self.sum_by_name(values).items()}

    def sum_by_name(self, values: dict[str, float]) -> dict[str, float]:
        """Sums over the processes; a process without a name adds nothing to it."""
        if self.size == 1:
            return values
        gathered: list[dict[str, float]] = [{} for _ in range(self.size)]
        dist.all_gather_object(gathered, values)
        names = {name for each in gathered for name in each}
        return {name: sum(each.get(name, 0.0) for each in gathered) for name in names}

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        total = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(total)
        return bool(total > 0)

    def most(self, count: int) -> int:
        """The largest of the processes' counts."""
        if self.size == 1:
            return count
        largest = torch.tensor(count, device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def close(self) -> None:
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def without_sync(networks: Iterable[nn.Module], active: bool = True) -> Iterator[None]:
    """Gradients stay in their process: those of the step's last part bring them together."""
    with ExitStack() as stack:
        for network in networks:
            if active and isinstance(network, nn.parallel.DistributedDataParallel):
                stack.enter_context(network.no_sync())
        yield


class SumOverProcesses(torch.autograd.Function):
    """The sum of all processes' tensors; each has the gradients of all that were made from it."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return SumOverProcesses.apply(gradient)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with the statistics of all processes' batches: what SyncBatchNorm, which needs CUDA, does there.

    The processes' batches are equally large.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        if not self.training:
            return super().forward(x)
        kind, x = x.dtype, x.float()  # statistics are never of half precision
        size = dist.get_world_size()
        mean = SumOverProcesses.apply(x.mean((0, 2, 3))) / size
        centred = x - mean.view(1, -1, 1, 1)
        variance = SumOverProcesses.apply(centred.square().mean((0, 2, 3))) / size
        with torch.no_grad():
            count = size * x.numel() / x.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(kind)


def gathered(part: Tensor) -> Tensor:
    """The parts (B, ...) of all processes as one (processes x B, ...), in order; gradients find their way back.

    A loss over all of it, computed alike in every process, then has the gradient that one process would have.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return part
    rank, size = dist.get_rank(), dist.get_world_size()
    around = (rank * len(part), (size - 1 - rank) * len(part))
    return SumOverProcesses.apply(F.pad(part, (*(0, 0) * (part.dim() - 1), *around)))  # all others add zeros


def bare(network: nn.Module) -> nn.Module:
    """The network without its data-parallel wrapper."""
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
