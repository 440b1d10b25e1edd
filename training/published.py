"""Weights that others have published: files that are known by what they hold."""

import hashlib
from pathlib import Path

from errors import InputError

HINT = "see the first lines of this script"


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
