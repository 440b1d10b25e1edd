"""Command lines made from dataclasses of options, so that each flag has one place."""

import argparse
import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, NoReturn, TypeVar, get_args

from errors import InputError

Options = TypeVar("Options")


def parse(kind: type[Options], argv: Sequence[str], description: str, without: Collection[str] = ()) -> Options:
    """Command line -> options of a dataclass: a flag for each field, except for those in `without`.

    Raises InputError; `--help` prints and exits.
    """
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    fields = [field for field in dataclasses.fields(kind) if field.name not in without]
    for field in fields:
        parser.add_argument(f"--{field.name}", **_argument(field))
    return kind(**vars(parser.parse_args(_joined(argv, {f"--{field.name}" for field in fields}))))


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
        return {**settings, "nargs": len(field.default), "type": type(field.default[0])}
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
