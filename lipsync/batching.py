"""Work in batches that shrink when memory runs out."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from errors import InputError, warn

Item, Result = TypeVar("Item"), TypeVar("Result")


class Batches(Generic[Item, Result]):
    """Applies a function to pieces of a sequence; halves the piece for good when memory runs out.

    Args:
        function: a list of items -> as many results.
        size: most items at once.
        name: of the flag that sets the size, for messages.

    Raises InputError on call when memory runs out for a single item.
    """

    def __init__(self, function: Callable[[Sequence[Item]], Sequence[Result]], size: int, name: str):
        self._function, self.size, self._name = function, size, name

    def __call__(self, items: Sequence[Item]) -> list[Result]:
        results: list[Result] = []
        while len(results) < len(items):
            piece = items[len(results) : len(results) + self.size]
            try:
                results += self._function(piece)
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                self._halve(len(piece))
        return results

    def _halve(self, tried: int) -> None:
        if tried <= 1:
            raise InputError(
                "memory runs out for a single frame: make the picture smaller with --resize_factor or use --device cpu"
            )
        self.size = tried // 2
        import torch  # heavy

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warn(f"out of memory: {self._name} is now {self.size}")


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; the devices, the CPU's allocator and OpenCV raise RuntimeErrors."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return "not enough memory" in text or "can't allocate memory" in text or "out of memory" in text
