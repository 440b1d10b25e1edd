"""How many samples fit into memory at once: a step's batch is cut into parts that do (`--batch_size auto`)."""

import copy
import gc
import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from errors import InputError
from training.clips import free_memory
from training.data import collate
from training.stage import Batch, Stage

USED_SHARE = 0.7  # of the free memory that a part may take on a CPU
HELD_BACK = 0.05  # of a GPU's memory, for what varies from step to step
OPTIMIZER_COPIES = 3  # of the weights: Adam's two means, and the average

TOO_LITTLE = (
    "memory runs out for the smallest part of a batch: use --hparams activation_checkpointing=True, --precision bf16, "
    "a smaller --img_size or generator_width"
)


def parts_that_fit(
    stage: Stage, dataset: Dataset, device: torch.device, autocasting: Callable[[], AbstractContextManager]
) -> int:
    """Into how many parts a step's batch must be cut, found out by steps that change nothing.

    On a GPU the whole batch is tried, then half of it, and so on. On a CPU, which kills programs that take too much,
    the smallest part's memory is measured and compared with what is free. Networks come to the device.

    Raises InputError when not even the smallest part fits.
    """
    total, smallest = stage.loader_batch, min(stage.smallest_part, stage.loader_batch)
    samples = collate(list(islice(iter(dataset), total if device.type == "cuda" else smallest)))

    def attempt(count: int) -> None:
        part = stage.prepare({name: value[:count] for name, value in samples.items()})
        with autocasting():
            stage.step(to_device(part, device), lambda _, loss: loss.backward())

    with _unchanged(stage, device):
        if device.type == "cuda":
            count = _largest_that_runs(attempt, total, smallest, device)
        else:
            count = _largest_that_is_free(attempt, total, smallest)
    parts = math.ceil(total / count)
    tqdm.write(
        f"batches of {total} in {parts} {'part' if parts == 1 else 'parts'} of at most {math.ceil(total / parts)}"
    )
    return parts


def split(batch: Batch, parts: int) -> Iterator[tuple[float, Batch]]:
    """A batch in parts of nearly equal size along the first axis, each with its share of the samples."""
    total = len(batch["mel"])
    size = math.ceil(total / parts)
    for first in range(0, total, size):
        part = {name: value if value is None else value[first : first + size] for name, value in batch.items()}
        yield len(part["mel"]) / total, part


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch on the device; pictures from uint8 to [0, 1]."""
    moved = {}
    for name, value in batch.items():
        if value is not None:
            value = value.to(device, non_blocking=True)
            value = value.float().div_(255) if value.dtype == torch.uint8 else value
        moved[name] = value
    return moved


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; the CPU's allocator raises plain RuntimeErrors."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in text


def _largest_that_runs(attempt: Callable[[int], None], total: int, smallest: int, device: torch.device) -> int:
    """Samples: `total`, or half of it as often as memory runs out."""
    count = total
    while True:
        try:
            attempt(count)
            return count
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        if count <= smallest:
            raise InputError(TOO_LITTLE)
        count = max(smallest, math.ceil(count / 2))
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _largest_that_is_free(attempt: Callable[[int], None], total: int, smallest: int) -> int:
    """Samples of which `USED_SHARE` of the free memory holds a step; the smallest part where that cannot be known."""
    free = USED_SHARE * free_memory() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    needed = peak_bytes(lambda: attempt(smallest))
    if needed is None:
        return smallest
    if needed > free:
        raise InputError(TOO_LITTLE)
    return max(smallest, min(total, int(free / max(1, needed)) * smallest))


def peak_bytes(call: Callable[[], None]) -> int | None:
    """How far the memory of this process rises during a call, as Linux tells; None elsewhere."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the highest so far is now what is used now
        before = _status_bytes("VmRSS")
        call()
        return _status_bytes("VmHWM") - before
    except OSError:
        return None


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


@contextmanager
def _unchanged(stage: Stage, device: torch.device) -> Iterator[None]:
    """Weights, statistics and random state are afterwards what they were; what an optimiser will need is held."""
    before = {prefix: copy.deepcopy(network.state_dict()) for prefix, network in stage.networks.items()}
    for network in (*stage.networks.values(), *stage.frozen):
        network.to(device, memory_format=torch.channels_last)
    weights = sum(parameter.numel() for network in stage.networks.values() for parameter in network.parameters())
    held: list[Tensor] = []
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        held.append(
            torch.empty(int(4 * OPTIMIZER_COPIES * weights + HELD_BACK * total), dtype=torch.uint8, device=device)
        )
    stage.train_mode()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        held.clear()
        for prefix, network in stage.networks.items():
            network.zero_grad(set_to_none=True)
            network.load_state_dict(before[prefix])
        if device.type == "cuda":
            torch.cuda.empty_cache()
