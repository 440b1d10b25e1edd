"""Data parallelism by torchrun: one process a device, or one process alone when started plainly."""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import distributed as dist
from torch import nn

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
        """The network, its gradients averaged over the processes; its batch statistics too on CUDA."""
        network.to(self.device, memory_format=torch.channels_last)
        if self.size == 1:
            return network
        if self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
            return nn.parallel.DistributedDataParallel(network, device_ids=[self.device.index])
        return nn.parallel.DistributedDataParallel(network)

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


def bare(network: nn.Module) -> nn.Module:
    """The network without its data-parallel wrapper."""
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
