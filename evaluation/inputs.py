"""What is evaluated: generated videos, and the real ones that belong to them."""

import csv
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from errors import InputError
from evaluation.options import EvaluationOptions

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv")
GENERATED_FOLDER = "generated"  # in the folder of an evaluation: videos that it makes
SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus")


@dataclass(frozen=True)
class Item:
    """One clip of an evaluation.

    Attributes:
        name: in tables; no two are the same.
        generated: the video that is judged; with `speech` it is made first.
        real: the real video beside it, or None.
        speech: what it is made to say, where it is made here.
        same_words: whether the real video says the same, so that pictures can be compared frame by frame.
        counts_real: whether the real video counts in the rows of real videos: once, however often it is used.
    """

    name: str
    generated: Path | None
    real: Path | None
    speech: Path | None = None
    same_words: bool = True
    counts_real: bool = True


def read_items(options: EvaluationOptions) -> list[Item]:
    """The clips that the options ask for, ordered by name. Raises InputError for what is no folder or list of them."""
    if options.results is not None:
        items = _of_folders(options.results, options.real, options.outdir)
    elif options.pairs is not None:
        items = _of_pairs(options.pairs, options.data_root)
    else:
        items = _of_published_list(options.filelist, options.data_root)
    items, used = sorted(items, key=lambda item: item.name), set()
    for place, item in enumerate(items):
        items[place] = replace(item, counts_real=item.real not in used)
        used.add(item.real)
    return items


def _of_folders(results: Path, real: Path | None, outdir: Path) -> list[Item]:
    generated = _videos(results, "--results", outdir)
    if real is None:
        return [Item(name, path, None) for name, path in generated.items()]
    truth = _videos(real, "--real", outdir)
    items = [Item(name, path, truth.get(name)) for name, path in generated.items()]
    beside = [Item(f"{name} (real)", None, path) for name, path in truth.items() if name not in generated]
    return items + beside


def _videos(folder: Path, flag: str, outdir: Path) -> dict[str, Path]:
    """Name -> path of all videos in a folder and those below it, but for unfinished ones and those made in `outdir`."""
    if not folder.is_dir():
        raise InputError(f"{flag} {folder} is not a folder: give one that holds videos")
    found: dict[str, Path] = {}
    own = (outdir / GENERATED_FOLDER).resolve()
    for path in sorted(folder.rglob("*")):
        finished = not path.name.startswith(".") and not path.resolve().is_relative_to(own)
        if finished and path.suffix.lower() in VIDEO_SUFFIXES:
            found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
    if not found:
        raise InputError(f"{flag} {folder} holds no video: give a folder of {', '.join(VIDEO_SUFFIXES[:4])} files")
    return found


def _of_pairs(path: Path, root: Path) -> list[Item]:
    rows = _lines(path, "generated video, real video")
    pairs = [(_found(a, root, VIDEO_SUFFIXES), _found(b, root, VIDEO_SUFFIXES)) for a, b in rows]
    names = _unique([Path(a).with_suffix("").as_posix() for a, _ in rows])
    return [Item(name, *pair) for name, pair in zip(names, pairs, strict=True)]


def _of_published_list(path: Path, root: Path) -> list[Item]:
    rows = _lines(path, "audio clip, video clip")
    names = _unique([f"{_stem(video)} says {_stem(speech)}" for speech, video in rows])
    items = []
    for name, (speech, video) in zip(names, rows, strict=True):
        said = _found(speech, root, VIDEO_SUFFIXES + SOUND_SUFFIXES)
        seen = _found(video, root, VIDEO_SUFFIXES)
        items.append(Item(name, None, seen, said, same_words=said == seen))
    return items


def _lines(path: Path, what: str) -> list[tuple[str, str]]:
    """The two entries of each line; empty lines, and those that begin with #, are left out."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise InputError(f"list {path} cannot be read ({_reason(error)}): give a text file, '{what}' a line") from error
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            entries = next(csv.reader([line], skipinitialspace=True)) if "," in line else shlex.split(line)
        except ValueError:
            entries = []
        entries = [entry.strip() for entry in entries if entry.strip()]
        if len(entries) != 2:
            raise InputError(
                f"line {number} of {path} is '{line.strip()}': it takes two entries, {what}; put names with spaces "
                "into quotes"
            )
        rows.append((entries[0], entries[1]))
    if rows and [entry.lower() for entry in rows[0]] in (["generated", "real"], ["audio", "video"]):
        rows = rows[1:]  # the heading of a CSV file
    if not rows:
        raise InputError(f"list {path} is empty: it takes '{what}' a line")
    return rows


def _found(entry: str, root: Path, suffixes: tuple[str, ...]) -> Path:
    """The file of a path, or of an LRS2-shaped id `<folder>/<id>`, under `root`; the path itself where there is none.

    What is missing is told when its clip's turn comes, so that one bad line does not stop the rest.
    """
    path = root / entry
    if path.is_file():
        return path
    with_suffix = (path.with_name(path.name + suffix) for suffix in suffixes)
    return next((candidate for candidate in with_suffix if candidate.is_file()), path)


def _stem(entry: str) -> str:
    path = Path(entry)
    known = path.suffix.lower() in VIDEO_SUFFIXES + SOUND_SUFFIXES
    return "/".join((path.with_suffix("") if known else path).parts[-2:])


def _unique(names: list[str]) -> list[str]:
    """The names, those that come again with a number behind."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return unique


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "it is not text"


def wrong_speakers(sources: list[Path], seed: int) -> dict[Path, list[Path]]:
    """For each video, whose speech to give it instead: all others, in the order in which to try them.

    A function of the set of videos and of the seed.
    """
    shuffled = [sorted(set(sources))[k] for k in np.random.default_rng(seed).permutation(len(set(sources)))]
    return {video: shuffled[k + 1 :] + shuffled[:k] for k, video in enumerate(shuffled)}
