"""Run as `python -m benchmarks speed --face video.mp4 --audio speech.wav` or `... training`; `--help` tells more."""

import argparse
import tempfile
from pathlib import Path

from benchmarks import live, loader, memory, speed, training
from errors import run_script

KINDS = {"speed": speed, "memory": memory, "live": live, "loader": loader, "training": training}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What the toolkit costs on this machine")
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name, module in KINDS.items():
        kind = kinds.add_parser(name, help=module.__doc__, description=module.__doc__)
        kind.add_argument("--repeats", type=int, default=3, help="of each measurement (default: %(default)s)")
        module.add_arguments(kind)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        KINDS[args.kind].main(args, Path(folder))


if __name__ == "__main__":
    run_script(main)
