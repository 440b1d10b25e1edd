"""How the scripts fail: one clear line on stderr, an exit status that is not 0, no traceback."""

import errno
import os
import sys
from collections.abc import Callable


class InputError(Exception):
    """Something that the user gave cannot be used. The message says what it is and what to do about it."""


def warn(message: str) -> None:
    """Print one line to stderr about something that the run can live with."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def run_script(main: Callable[[], None]) -> None:
    """Call a script's `main` and turn expected failures into one line and an exit status.

    Exit status: 0 when `main` returns, 1 for an `InputError`, a full disk or missing permission, 130 for Ctrl-C.
    Anything else is a fault of the program and keeps its traceback.
    """
    try:
        main()
    except InputError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted", status=130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        _fail(f"{os.strerror(error.errno)}{where}: free some space or choose another folder")


def _fail(message: str, status: int = 1) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(status)
