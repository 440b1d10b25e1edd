"""Lip-sync a face video to any speech.

    python inference.py --face video.mp4 --audio speech.wav

The result is a video as long as the speech. `lipsync.pipeline` does the same as a function.
"""

import sys
from collections.abc import Sequence

from errors import run_script
from lipsync.command_line import parse
from lipsync.options import InferenceOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Run inference as the command line says; see `errors.run_script` for how it fails."""
    options = parse(InferenceOptions, sys.argv[1:] if argv is None else argv, __doc__)

    from lipsync.pipeline import run  # heavy imports come after --help and wrong flags

    with Bar() as bar:
        result = run(options, bar.update)
    print(f"{result.frames} frames at {float(result.fps):g} a second: {result.outfile}")
    if result.faceless:
        listed = ", ".join(f"{start:.2f}-{end:.2f} s" for start, end in result.faceless)
        print(f"no face found, original frames kept: {listed}")


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
