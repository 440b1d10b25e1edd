"""Latency of a live stream, paced by a real clock: from a sound to the encoded frame of its time."""

import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np

import audio
from benchmarks.material import make_clip, make_speech
from lipsync.broadcast import TransportStream
from lipsync.live import SAMPLE_RATE, LipSyncStream

CHUNK = 320  # samples: 20 ms, as a microphone gives them


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--height", type=int, default=480, help="of the clip (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=600, help="how long to stream (default: %(default)s)")


def main(args: Namespace, folder: Path) -> None:
    clip = make_clip(args.face, folder / "clip.mp4", args.height, 10)
    sound = audio.load_wav(make_speech(args.audio, folder / "speech.wav", args.seconds))
    settings = {"checkpoint_path": args.checkpoint_path} if args.checkpoint_path else {}
    stream = LipSyncStream(clip, **settings)
    latencies = []
    with (folder / "stream.ts").open("wb", buffering=0) as file:
        out = TransportStream(file, stream, crf=18, preset="veryfast")
        begun = time.monotonic()
        for end in range(CHUNK, len(sound) + 1, CHUNK):  # a chunk is there once its last sample has been spoken
            time.sleep(max(0, begun + end / SAMPLE_RATE - time.monotonic()))
            chunk = sound[end - CHUNK : end]
            stream.push(chunk)
            out.write_sound((chunk * 32767).astype(np.int16))
            for frame in stream.frames():
                index = len(latencies)
                out.write_frame(frame, index)
                latencies.append(time.monotonic() - begun - float(index / stream.fps))
        out.close()
    milliseconds = 1000 * np.array(latencies)
    tenth = max(1, len(milliseconds) // 10)
    drift = np.median(milliseconds[-tenth:]) - np.median(milliseconds[:tenth])
    ahead = 1000 * stream.lookahead
    print(f"{args.seconds:g} s of {args.height}p, {len(latencies)} frames, each with {ahead:.0f} ms of sound ahead")
    print(
        f"latency: median {np.median(milliseconds):.0f} ms, 95 % within {np.percentile(milliseconds, 95):.0f} ms, "
        f"at most {milliseconds.max():.0f} ms; the last tenth against the first {drift:+.1f} ms"
    )
