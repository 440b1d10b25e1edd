"""The raw videos of a folder, each with a name that is safe as a folder and in a file list."""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from errors import InputError
from preprocessing.lrs2 import VIDEO_SUFFIXES

LONGEST_NAME = 80  # characters


@dataclass(frozen=True)
class Source:
    """One raw video: the name of its folder in the tree, its path, and that under `--raw`."""

    name: str
    path: Path
    relative: str


def find_sources(raw: Path) -> list[Source]:
    """All videos in a folder and the folders in it, in order; hidden files do not count. Raises InputError.

    A name is the file's, without its ending. Where anything in that had to be changed, the video lies in a folder, or
    two would be the same, eight digits made of its path follow.
    """
    if not raw.is_dir():
        raise InputError(f"--raw {raw} is not a folder: give the one that holds the videos")
    files = sorted(path for path in raw.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    relative = [path.relative_to(raw) for path in files]
    visible = [path for path in relative if not any(part.startswith(".") for part in path.parts)]
    if not visible:
        raise InputError(f"no video lies in {raw}: it takes files such as {', '.join(sorted(VIDEO_SUFFIXES)[:6])}")
    plain = {path: re.sub(r"[^\w-]+", "_", "_".join(path.with_suffix("").parts)).strip("_-") for path in visible}
    often = Counter(name.lower() for name in plain.values())
    return [Source(_name(path, plain[path], often), raw / path, path.as_posix()) for path in visible]


def _name(path: Path, plain: str, often: Counter) -> str:
    if plain == path.with_suffix("").as_posix() and often[plain.lower()] == 1 and len(plain) <= LONGEST_NAME:
        return plain
    digits = hashlib.blake2b(path.as_posix().encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    return f"{plain[:LONGEST_NAME]}-{digits}"
