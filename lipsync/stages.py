"""Stages side by side: each in a thread of its own, with bounded queues between them.

A stage is an iterator over the stage before it. `ahead` and `in_parallel` move one into other threads without changing
what it yields or in which order; closing the last iterator of a chain (`contextlib.closing`) ends all its threads.
Threads serve since the work is done in libraries that let go of Python's lock. Importing this does not import torch.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from threading import Condition, Lock, Thread
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import cv2

if TYPE_CHECKING:
    import torch

Item, Result = TypeVar("Item"), TypeVar("Result")

MOST_WORKERS = 4  # threads that generate; more cores than that are shared out among them
GPU_WORKERS = 2  # one prepares and composites while the other one's batch is on the device


class Queue(Generic[Item]):
    """A queue of at most `depth` items between two threads, which either of them can close."""

    def __init__(self, depth: int):
        self._items: deque[Item] = deque()
        self._depth, self._closed, self._changed = depth, False, Condition()

    def put(self, item: Item) -> bool:
        """Append an item once there is room; whether it was taken: False when the queue has been closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._depth)
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._closed

    def __iter__(self) -> Iterator[Item]:
        """The items as they come, until the queue is closed and empty."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._items)
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
            del item  # a frame must not live on while the next one is waited for

    def close(self, discard: bool = False) -> None:
        """Take no more items, and forget those that are in if asked."""
        with self._changed:
            self._closed = True
            if discard:
                self._items.clear()
            self._changed.notify_all()


def ahead(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """The same items, made in another thread up to `depth` ahead; in this one, as they are asked for, if it is 0.

    That thread begins at once. Its error is raised here, in its place. Leaving the iteration closes `items` in their
    own thread.
    """
    begun = _made_ahead(items, depth)
    next(begun)
    return begun


def _made_ahead(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """`ahead`, after a first None that says that it has begun."""
    if not depth:
        yield None
        yield from items
        return
    queue: Queue[tuple[Any, BaseException | None]] = Queue(depth)
    thread = Thread(target=_produce, args=(items, queue), daemon=True)
    thread.start()
    try:
        yield None
        for item, error in queue:
            if error is not None:
                raise error
            yield item
            del item
    finally:
        queue.close(discard=True)
        thread.join()


def _produce(items: Iterable, queue: Queue) -> None:
    try:
        for item in items:
            if not queue.put((item, None)):
                break
            del item
    except BaseException as error:
        queue.put((None, error))
    finally:
        _close(items)
        queue.close()


def in_parallel(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    initializer: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """`map(function, items)` in `workers` threads, at most `workers` + 2 items under way; in this thread if it is 0.

    `initializer` is called first in each of those threads.
    """
    if not workers:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers, initializer=initializer)
    futures = ahead(_submitted(pool, function, items), depth=workers)
    try:
        for future in futures:
            yield future.result()
            del future
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # before the feeding thread is joined, which may wait for room
        futures.close()
        pool.shutdown()


def _submitted(pool: ThreadPoolExecutor, function: Callable, items: Iterable) -> Iterator[Future]:
    try:
        for item in items:
            try:
                future = pool.submit(function, item)
            except RuntimeError:  # shut down meanwhile: no one waits for results any more
                return
            del item
            yield future
            del future
    finally:
        _close(items)


def _close(items: Iterable) -> None:
    if hasattr(items, "close"):
        items.close()


class Threads:
    """How many threads the stages and the libraries under them use. A context: afterwards it is as it was before.

    Args:
        workers: threads that generate; None for as many as suit the machine; 0 for no threads of our own.
        device: name of where the generator runs, as of `--device`.

    Attributes:
        side_by_side: whether stages have threads of their own.
    """

    def __init__(self, workers: int | None, device: str):
        self._workers, self._device = workers, device
        self._cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.side_by_side = workers != 0
        self._torch_before: int | None = None  # torch's number of threads, if it has been changed
        self._lock = Lock()

    def __enter__(self) -> Threads:
        self._cv2_before = cv2.getNumThreads()
        if self.side_by_side:
            cv2.setNumThreads(max(1, self._cores // 2))
        return self

    def __exit__(self, *_: object) -> None:
        cv2.setNumThreads(self._cv2_before)
        if self._torch_before is not None:
            import torch

            torch.set_num_threads(self._torch_before)

    @cached_property
    def device(self) -> torch.device:
        """Where the generator runs. Imports torch. Raises InputError if it is not there."""
        from lipsync.synthesis import pick_device

        return pick_device(self._device)

    @property
    def workers(self) -> int:
        """How many threads generate. May import torch."""
        if self._workers is not None:
            return self._workers
        return GPU_WORKERS if self.device.type == "cuda" else min(self._cores, MOST_WORKERS)

    def limit(self) -> None:
        """In a worker's thread: let torch use this worker's share of the cores, so that workers do not wait."""
        if self.side_by_side:
            self._let_torch_use(max(1, self._cores // self.workers))

    def use_all(self) -> None:
        """In another stage's thread: let torch use every core. PyTorch counts threads for each thread that calls."""
        if self.side_by_side:
            self._let_torch_use(self._cores)

    def _let_torch_use(self, count: int) -> None:
        import torch

        with self._lock:
            if self._torch_before is None:
                self._torch_before = torch.get_num_threads()
        torch.set_num_threads(count)


class StageClock:
    """Adds up the time spent in each stage, of all threads.

    Attributes:
        seconds: per stage.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

    def each(self, stage: str, items: Iterator) -> Iterator:
        """The items, the time to make each counted."""
        items = iter(items)
        try:
            while True:
                with self(stage):
                    item = next(items, self)
                if item is self:
                    return
                yield item
                del item
        finally:
            _close(items)

    def timed(self, stage: str, function: Callable[..., Result]) -> Callable[..., Result]:
        """The function, the time that its calls take counted."""

        def counted(*arguments: Any) -> Result:
            with self(stage):
                return function(*arguments)

        return counted
