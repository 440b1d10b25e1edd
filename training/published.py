"""Weights that others have published: files that are known by what they hold."""

import hashlib
from pathlib import Path

from errors import InputError

HINT = "see the first lines of this script"


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_published(path: Path, name: str, digest: str) -> None:
    """Raises InputError unless a file has the SHA-256 of the published one of some name."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: {HINT}")
    if digest_of(path) != digest:
        raise InputError(f"{path} is not the published {name}: {HINT}")
