"""Memory of the C library, which Python does not manage."""

import ctypes
from collections.abc import Callable
from functools import cache


def give_back_freed() -> bool:
    """Give freed memory back to the system; whether there was any to give.

    glibc keeps it in one heap for some threads each. Frames and batches that come and go in all of them leave holes,
    which add up in long videos. Does nothing where the C library is another.
    """
    trim = _malloc_trim()
    return trim is not None and bool(trim(0))


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # Windows has no name for the program itself; others no such function
        return None
