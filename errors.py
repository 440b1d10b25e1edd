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
    status = 0
    try:
        main()
    except InputError as error:
        status = _failed(str(error))
    except KeyboardInterrupt:
        status = _failed("interrupted", status=130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        status = _failed(f"{os.strerror(error.errno)}{where}: free some space or choose another folder")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # a thread of the process group that wants the interpreter while it goes down aborts a run that was done
        sys.stdout.flush()
        os._exit(status)
    if status:
        sys.exit(status)


def _failed(message: str, status: int = 1) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return status
