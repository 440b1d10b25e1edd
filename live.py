"""Let a face say sound while it is being spoken.

    ffmpeg -f pulse -i default -f s16le -ar 16000 -ac 1 - | python live.py --face video.mp4 --audio - | ffplay -

Samples (s16le, 16 kHz, mono) come from standard input, an MPEG-TS with picture and sound leaves on standard output.
`lipsync.live` does the same as a class.
"""

import errno
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

from errors import InputError, run_script
from lipsync.command_line import parse
from lipsync.options import LIVE_PRESET, PRESETS, InferenceOptions, option

FORMATS = ("mpegts", "rawvideo")
STANDARD = Path("-")
FILES_ONLY = ("lossless", "no_face", "wav2lip_batch_size", "seed")  # options that make no sense here


@dataclass(frozen=True)
class LiveOptions(InferenceOptions):
    """Every option of `live.py`: those of `inference.py` that bear on faces and frames, and where the stream goes."""

    audio: Path = option(STANDARD, "raw sound, s16le at 16 kHz, mono: a pipe or file; - is standard input")
    outfile: Path = option(STANDARD, "where the stream goes: a pipe or file; - is standard output")
    preset: str = option(LIVE_PRESET, "speed of the H.264 encoder: slower ones make smaller streams", choices=PRESETS)
    format: str = option(
        "mpegts", "mpegts has picture and sound; rawvideo has BGR frames alone, one after the other", choices=FORMATS
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Stream as the command line says, until the sound ends or the player leaves."""
    options = parse(LiveOptions, sys.argv[1:] if argv is None else argv, __doc__, without=FILES_ONLY)

    from lipsync.broadcast import InBackground, RawStream, SoundPipe, TransportStream, broadcast  # heavy
    from lipsync.live import LipSyncStream

    used = {field.name for field in fields(InferenceOptions)} - {"face", "audio", "outfile", *FILES_ONLY}
    stream = LipSyncStream(options.face, **{name: getattr(options, name) for name in used})
    print(
        f"{stream.width} x {stream.height} pixels, {float(stream.fps):g} frames a second; "
        f"a frame needs {1000 * stream.lookahead:.0f} ms of sound after its own time",
        file=sys.stderr,
    )
    with opened(options.audio, "rb", sys.stdin) as source, opened(options.outfile, "wb", sys.stdout) as target:
        try:
            raw = options.format == "rawvideo"
            out = RawStream(target) if raw else TransportStream(target, stream, options.crf, options.preset)
            broadcast(stream, SoundPipe(source), InBackground(out))
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            print("the player has left", file=sys.stderr)


def opened(path: Path, mode: str, standard) -> BinaryIO:
    """A file without buffering, or a standard stream. Raises InputError."""
    if path == STANDARD:
        return nullcontext(open(standard.fileno(), mode, buffering=0, closefd=False))  # noqa: SIM115, PTH123
    try:
        return path.open(mode, buffering=0)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}): give a file, a pipe or -") from error


if __name__ == "__main__":
    run_script(main)
