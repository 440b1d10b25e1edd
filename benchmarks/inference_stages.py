"""Time per frame and stage of a run of inference, end to end.

Run as `python -m benchmarks.inference_stages --face video.mp4 --audio speech.wav`.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

from errors import run_script
from lipsync.pipeline import InferenceOptions, run


def main() -> None:
    parser = argparse.ArgumentParser(description="Milliseconds a frame of each stage of inference")
    parser.add_argument("--face", type=Path, required=True)
    parser.add_argument("--audio", type=Path, required=True)
    parser.add_argument("--checkpoint_path", type=Path, help="generator weights (default: the shipped ones)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options = InferenceOptions(args.face, args.audio, args.checkpoint_path)
        started = time.perf_counter()
        result = run(dataclasses.replace(options, outfile=Path(folder) / "result.mp4"))
        total = time.perf_counter() - started
    print(f"{result.frames} frames at {float(result.fps):g} a second, in {total:.1f} s")
    for stage, seconds in result.seconds.items():
        if stage == "load":
            print(f"{stage:10} {seconds:7.1f} s, once")
        else:
            print(f"{stage:10} {1000 * seconds / result.frames:7.1f} ms a frame")
    print(f"{'all':10} {1000 * (total - result.seconds['load']) / result.frames:7.1f} ms a frame without loading")


if __name__ == "__main__":
    run_script(main)
