"""Weights that others have published: files that are known by what they hold."""

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path

from torch import nn

from errors import InputError
from models.checkpoint import save_checkpoint

HINT = "see the first lines of this script"
STORED = {8: "its large layers as bytes", 16: "in half precision as published"}  # weights of so many bits


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_published(path: Path, names: dict[str, str]) -> str:
    """Returns the SHA-256 of a file. Raises InputError unless it is one of those of the published files `names`."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: {HINT}")
    digest = digest_of(path)
    if digest not in names:
        raise InputError(f"{path} is not the published {' or '.join(names.values())}: {HINT}")
    return digest


def convert(read: Callable[[Path], nn.Module], bits: int, option: str, file: str, description: str) -> None:
    """A script that reads a published file, which `option` names, into a checkpoint of `bits` a weight."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(option, type=Path, required=True, help=f"the published {file}", dest="published")
    parser.add_argument("--outfile", type=Path, required=True, help=f"checkpoint, {STORED[bits]}")
    args = parser.parse_args()
    network = read(args.published)
    save_checkpoint(args.outfile, network, bits=bits)
    print(f"{args.outfile}: {sum(value.numel() for value in network.state_dict().values()) / 1e6:.1f} million weights")
