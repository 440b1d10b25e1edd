"""Peak memory of runs of different lengths, each in a process of its own."""

import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from benchmarks import material
from benchmarks.material import make_clip, make_speech

RUN = (
    "import resource, sys\n"
    "from lipsync.pipeline import InferenceOptions, run\n"
    "face, speech, checkpoint, outfile = sys.argv[1:]\n"
    "run(InferenceOptions(face, speech, checkpoint or None, outfile))\n"
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
)


def add_arguments(parser: ArgumentParser) -> None:
    material.add_arguments(parser)
    parser.add_argument("--height", type=int, default=720, help="of the clips (default: %(default)s)")
    parser.add_argument("--lengths", type=float, nargs="+", default=[10, 600], help="seconds (default: 10 600)")


def main(args: Namespace, folder: Path) -> None:
    first = None
    for seconds in args.lengths:
        clip = make_clip(args.face, folder / "clip.mp4", args.height, seconds)
        speech = make_speech(args.audio, folder / "speech.wav", seconds)
        words = [clip, speech, args.checkpoint_path or "", folder / "out.mp4"]
        command = [sys.executable, "-c", RUN, *map(str, words)]
        kibibytes = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        first = first or kibibytes
        growth = 100 * (kibibytes / first - 1)
        print(f"{seconds:6g} s of {args.height}p: at most {kibibytes / 1024:.0f} MiB ({growth:+.1f} %)", flush=True)
