"""Lip-sync a face video to any speech.

    python inference.py --face video.mp4 --audio speech.wav

The result is a video as long as the speech. `lipsync.pipeline` does the same as a function.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, NoReturn, get_args

from errors import InputError, run_script
from lipsync.options import InferenceOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Run inference as the command line says; see `errors.run_script` for how it fails."""
    options = parse(sys.argv[1:] if argv is None else argv)

    from lipsync.pipeline import run  # heavy imports come after --help and wrong flags

    with Bar() as bar:
        result = run(options, bar.update)
    print(f"{result.frames} frames at {float(result.fps):g} a second: {result.outfile}")
    if result.faceless:
        listed = ", ".join(f"{start:.2f}-{end:.2f} s" for start, end in result.faceless)
        print(f"no face found, original frames kept: {listed}")


def parse(argv: Sequence[str]) -> InferenceOptions:
    """Command line -> options. Raises InputError; `--help` prints and exits."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(InferenceOptions):
        parser.add_argument(f"--{field.name}", **_argument(field))
    flags = {f"--{field.name}" for field in dataclasses.fields(InferenceOptions)}
    return InferenceOptions(**vars(parser.parse_args(_joined(argv, flags))))


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}: see --help")


def _argument(field: dataclasses.Field) -> dict[str, Any]:
    """argparse settings of a field: its type, default and help text."""
    settings = dict(field.metadata)
    kind = get_args(field.type)[0] if isinstance(field.type, UnionType) else field.type
    if field.default is dataclasses.MISSING:
        return {**settings, "type": Path, "required": True}
    settings["default"] = field.default
    if field.default is not None:
        shown = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        settings["help"] += f" (default: {'off' if shown is False else shown})"
    if kind is bool:
        return {**settings, "nargs": "?", "const": True, "type": _boolean, "metavar": "True|False"}
    if isinstance(field.default, tuple):
        return {**settings, "nargs": len(field.default), "type": int}
    return {**settings, "type": kind}


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"'{text}' is neither True nor False")


def _joined(argv: Sequence[str], flags: set[str]) -> list[str]:
    """`--face -clip.mp4` as `--face=-clip.mp4`: a file's name may begin with a dash."""
    paths = {f"--{name}" for name in ("face", "audio", "outfile", "checkpoint_path", "cache")}
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] in paths and word.startswith("-") and word.partition("=")[0] not in flags:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


class Bar:
    """A progress bar with rate and time left."""

    def __init__(self) -> None:
        self._bar = None

    def update(self, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="frame", dynamic_ncols=True)
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


if __name__ == "__main__":
    run_script(main)
