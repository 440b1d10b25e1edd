"""Which source videos are for training, validation and test: whole sources, so that no one is in two of them."""

import hashlib
from pathlib import Path

from errors import warn
from whole import write_text_whole

SPLITS = ("train", "val", "test")
LARGEST = 1.5  # times its share that val or test may get when a source is put into it


def split_sources(seconds: dict[str, float], shares: tuple[float, float, float], seed: int) -> dict[str, str]:
    """Source -> split. `seconds`: kept seconds of each source.

    The order depends on the seed and the names alone, so that more sources move few of those that there are. Val and
    test get at least one source each, the smallest if all are too large, as long as train keeps one.
    """
    names = sorted((name for name in seconds if seconds[name] > 0), key=lambda name: _drawn(name, seed))
    total = sum(seconds.values())
    chosen: dict[str, str] = {}
    for split, share, others in zip(SPLITS[1:], shares[1:], (2 if shares[2] else 1, 1), strict=True):
        free = [name for name in names if name not in chosen]
        if share == 0 or len(free) < 2:
            continue
        filled = 0.0
        for name in free:
            left = len(names) - len(chosen) > others  # for the splits that follow
            if left and filled < share * total and filled + seconds[name] <= LARGEST * share * total:
                chosen[name] = split
                filled += seconds[name]
        if not filled:
            chosen[min(free, key=lambda name: seconds[name])] = split
    return {name: chosen.get(name, SPLITS[0]) for name in names}


def _drawn(name: str, seed: int) -> str:
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).hexdigest()


def write_filelists(clips: dict[str, list[str]], chosen: dict[str, str], folder: Path) -> dict[str, int]:
    """train.txt, val.txt and test.txt of `<folder>/<id>` lines; returns the number of clips of each.

    `clips`: of each source; `chosen`: the split of each source.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    for split in SPLITS:
        names = sorted(name for source, ids in clips.items() if chosen.get(source) == split for name in ids)
        write_text_whole(folder / f"{split}.txt", "".join(f"{name}\n" for name in names))
        counts[split] = len(names)
    if not counts["val"]:
        warn("val.txt is empty: training needs two source videos at least, better dozens")
    return counts
