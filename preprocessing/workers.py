"""Jobs in parallel processes: one a GPU that the face detector uses, else one a CPU core."""

import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from errors import InputError

DIED = "a worker process died (out of memory?): run again with fewer --workers"
SHARDS_HELP = "afterwards write the clips of --filelists into this folder too, as WebDataset shards"
IMG_SIZE_FLAG = {
    "metavar": "HxW",
    "help": "make crops for networks of this face size (high x wide): of its aspect, no larger than they need "
    "(default: the boxes as they are)",
}
LISTEN_SECONDS = 0.5  # between two looks at what the workers tell

Job = tuple[str, Any]
Prepare = Callable[[Any, str], None]


class Stopped(Exception):
    """The run was interrupted while a worker was at a job."""


def share_of_rank(names: list[str]) -> list[str]:
    """Those of `names` that this machine or process takes, by torchrun's RANK and WORLD_SIZE; all without it."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    return names[rank::size]


def worker_devices(face_detector: str, ngpu: int, workers: int) -> list[str]:
    """One process a GPU when S3FD can run on one, else one a CPU core; shared out among torchrun's processes.

    Raises InputError if S3FD cannot be had.
    """
    from face_detection.api import make_detector, resolve_detector

    place, size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if resolve_detector(face_detector) == "sfd":
        import torch

        make_detector("sfd")  # what is wrong with its weights is told here, once

        found = min(ngpu * size, torch.cuda.device_count())
        if found:
            return [f"cuda:{i}" for i in range(found)][place::size] or [f"cuda:{place % found}"]
    return ["cpu"] * (workers or max(1, (os.cpu_count() or 1) // size))


def run_jobs(
    work: Callable[[str, Any], Any],
    jobs: list[Job],
    devices: list[str],
    prepare: Prepare,
    setup: Any,
    heard: Callable[[int], None] = lambda amount: None,
) -> Iterator[tuple[str, Any]]:
    """Yield (name, `work(name, what)`) of each job (name, what) as it ends; `DIED` where its process did not survive.

    Jobs that ran when a process died are tried again one at a time, so that the one that kills its process is found
    and the rest goes on. `prepare(setup, device)` is called once in each process. `heard` gets what workers `tell`.
    An exception of `work` ends the run.
    """
    waiting, suspects = deque(jobs), deque()
    while waiting or suspects:
        if suspects:
            lost = yield from _pool_run(work, suspects, devices[:1], prepare, setup, heard)
            yield from ((name, DIED) for name, _ in lost)
        else:
            suspects += yield from _pool_run(work, waiting, devices, prepare, setup, heard)


def _pool_run(
    work: Callable, jobs: deque, devices: list[str], prepare: Prepare, setup: Any, heard: Callable[[int], None]
) -> Generator[tuple[str, Any], None, list[Job]]:
    """Run jobs until there are none or a process dies; returns those that were lost with it."""
    context = get_context("spawn")  # CUDA and OpenCV's threads do not survive a fork
    free, told, stop = context.SimpleQueue(), context.SimpleQueue(), context.Event()
    for device in devices:
        free.put(device)
    pool = ProcessPoolExecutor(len(devices), context, _begin, (prepare, setup, free, told, stop))
    running: dict[Future, Job] = {}
    try:
        while jobs or running:
            while jobs and len(running) < len(devices):
                job = jobs.popleft()
                try:
                    running[pool.submit(work, *job)] = job
                except BrokenProcessPool:
                    return [*running.values(), job]
            done, _ = wait(running, LISTEN_SECONDS, FIRST_COMPLETED)
            while not told.empty():
                heard(told.get())
            for future in done:
                try:
                    result = future.result()
                except BrokenProcessPool:
                    return list(running.values())
                yield running.pop(future)[0], result
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
    return []


# In a worker process

_told = None
_stop = None


def _begin(prepare: Prepare, setup: Any, free: Any, told: Any, stop: Any) -> None:
    global _told, _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    _told, _stop = told, stop
    device = free.get()
    if device == "cpu":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    import cv2

    cv2.setNumThreads(1)
    prepare(setup, device)


def tell(amount: int) -> None:
    """Report progress to the parent, if there is one. Raises Stopped when it wants the work to end."""
    if _stop is not None and _stop.is_set():
        raise Stopped
    if _told is not None:
        _told.put(amount)


def check_shards(shards: Path | None) -> None:
    """Raises InputError for shards from several processes: they are written once, of all clips."""
    if shards and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--shards is for one process: give it once more at the end, without torchrun")


def check_workers(batch_size: int, ngpu: int, workers: int) -> None:
    """Raise InputError for numbers out of range."""
    if batch_size < 1 or ngpu < 0 or workers < 0:
        raise InputError("--batch_size takes a number from 1, --ngpu and --workers from 0")


def check_size(img_size: str | None) -> None:
    """Raise InputError for an `--img_size` that no network has."""
    if img_size is not None:
        from models.conv import size_of

        size_of(img_size)
