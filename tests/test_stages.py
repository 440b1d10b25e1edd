"""Stages in threads: what one after the other would give, no more ahead than asked for, one clean end."""

import itertools
import os
import platform
import threading
from contextlib import closing
from pathlib import Path

import pytest

from lipsync.heap import give_back_freed
from lipsync.stages import StageClock, ahead, in_parallel


class Source:
    """Counts up; knows how far it was asked and whether it was closed, and by which thread."""

    def __init__(self, fails_at: int | None = None):
        self.made, self.closed_by, self._fails_at = 0, None, fails_at

    def __iter__(self):
        try:
            for number in itertools.count():
                if number == self._fails_at:
                    raise ValueError("source")
                self.made += 1
                yield number
        finally:
            self.closed_by = threading.current_thread()


@pytest.fixture(autouse=True)
def no_thread_stays():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_ahead_changes_nothing(depth):
    assert list(ahead(iter(range(50)), depth)) == list(range(50))
    assert list(ahead(iter([]), depth)) == []


def test_ahead_goes_no_further_than_its_depth():
    source = Source()
    with closing(ahead(iter(source), 3)) as items:
        assert [next(items), next(items)] == [0, 1]
        for _ in range(100):
            assert source.made <= 2 + 3 + 1  # those taken, those that wait, and the one in hand
    assert source.closed_by is not threading.current_thread()


def test_ahead_begins_at_once():
    begun = threading.Event()
    with closing(ahead((begun.set() for _ in range(2)), 1)):
        assert begun.wait(10)


def test_errors_come_after_the_items_before_them():
    items = ahead(iter(Source(fails_at=4)), 2)
    assert list(itertools.islice(items, 4)) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="source"):
        next(items)


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_in_parallel_keeps_the_order(workers):
    first_waits = threading.Event()

    def function(item: int) -> int:
        if workers > 1:
            first_waits.wait(10) if item == 0 else first_waits.set()
        return item * item

    assert list(in_parallel(function, iter(range(40)), workers)) == [i * i for i in range(40)]


def test_in_parallel_holds_little_and_ends_when_it_is_left():
    source = Source()
    with closing(in_parallel(lambda item: item, iter(source), 2)) as results:
        assert next(results) == 0
        for _ in range(100):
            assert source.made <= 1 + 2 + 2
    assert source.closed_by is not None


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_is_raised_in_its_place(workers):
    def function(item: int) -> int:
        if item == 3:
            raise KeyError("worker")
        return item

    source, results = Source(), []
    with pytest.raises(KeyError, match="worker"), closing(in_parallel(function, iter(source), workers)) as stage:
        for result in stage:
            results.append(result)
    assert results == [0, 1, 2]
    assert source.closed_by is not None or workers == 0


def test_stages_end_in_the_middle_of_a_chain():
    source = Source()
    chain = in_parallel(lambda item: item, ahead(ahead(iter(source), 2), 2), 2)
    with closing(chain):
        assert next(chain) == 0
    assert source.closed_by is not None


def test_clock_counts_all_threads():
    clock = StageClock()
    assert list(clock.each("a", iter([1, 2]))) == [1, 2]
    assert clock.timed("b", lambda x: x + 1)(1) == 2
    assert clock.seconds.keys() == {"a", "b"} and min(clock.seconds.values()) >= 0


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such call")
def test_freed_memory_goes_back_to_the_system():
    blocks = [bytearray(b"x" * 60_000) for _ in range(2000)]
    last = bytearray(b"x" * 60_000)  # above them, so that they would stay in the heap
    full = resident()
    del blocks
    give_back_freed()
    assert resident() < full - 100_000_000 and len(last)
