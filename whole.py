"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to: it is renamed into place at the end, and removed when anything fails.

    The name is the process' own, so that several may write the same file. An OSError in writing names `path`.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield aside
        aside.replace(path)
    except OSError as error:
        if error.filename is not None and str(error.filename) != str(aside):
            raise  # of another file, such as one that was being read
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        aside.unlink(missing_ok=True)


def write_text_whole(path: Path, text: str) -> None:
    """Write UTF-8 text so that the file appears whole or not at all."""
    with written_whole(path) as aside:
        aside.write_text(text, encoding="utf-8")
