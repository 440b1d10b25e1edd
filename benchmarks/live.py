"""Latency of a live stream, paced by a real clock: from a sound to the encoded frame of its time."""

import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import BinaryIO

import numpy as np

import audio
from benchmarks import material
from benchmarks.material import make_clip, make_speech
from lipsync.broadcast import LATE_SECONDS, InBackground, TransportStream
from lipsync.live import SAMPLE_RATE, LipSyncStream
from lipsync.options import LIVE_PRESET, InferenceOptions

CHUNK = 320  # samples: 20 ms, as a microphone gives them


class Timed(TransportStream):
    """Notes how long after its own time each frame has been encoded and written."""

    begun = 0.0

    def __init__(self, out: BinaryIO, stream: LipSyncStream, preset: str, latencies: list[float]):
        super().__init__(out, stream, InferenceOptions.crf, preset)
        self._latencies, self._frame_seconds = latencies, float(1 / stream.fps)

    def write_frame(self, frame: np.ndarray, index: int) -> None:
        super().write_frame(frame, index)
        self._latencies.append(time.monotonic() - self.begun - index * self._frame_seconds)


def add_arguments(parser: ArgumentParser) -> None:
    material.add_arguments(parser)
    parser.add_argument("--height", type=int, default=480, help="of the clip (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=600, help="how long to stream (default: %(default)s)")


def main(args: Namespace, folder: Path) -> None:
    clip = make_clip(args.face, folder / "clip.mp4", args.height, 10)
    sound = audio.load_wav(make_speech(args.audio, folder / "speech.wav", args.seconds))
    settings = {"checkpoint_path": args.checkpoint_path} if args.checkpoint_path else {}
    stream = LipSyncStream(clip, **settings)
    latencies: list[float] = []
    with (folder / "stream.ts").open("wb", buffering=0) as file:
        transport = Timed(file, stream, LIVE_PRESET, latencies)
        out = InBackground(transport)
        transport.begun = begun = time.monotonic()
        index, shown, again = 0, None, 0
        for end in range(CHUNK, len(sound) + 1, CHUNK):  # a chunk is there once its last sample has been spoken
            time.sleep(max(0, begun + end / SAMPLE_RATE - time.monotonic()))
            chunk = sound[end - CHUNK : end]
            stream.push(chunk)
            out.write_sound((chunk * 32767).astype(np.int16))
            while not stream.missing():
                late = time.monotonic() - begun - float(index / stream.fps) - stream.lookahead
                if shown is not None and late > LATE_SECONDS:  # as `lipsync.broadcast` does
                    stream.skip()
                    out.write_frame(shown, index)
                    index, again = index + 1, again + 1
                    continue
                for shown in stream.frames():
                    out.write_frame(shown, index)
                    index += 1
        out.close()
    milliseconds = 1000 * np.array(latencies)
    tenth = max(1, len(milliseconds) // 10)
    drift = np.median(milliseconds[-tenth:]) - np.median(milliseconds[:tenth])
    ahead = 1000 * stream.lookahead
    print(
        f"{args.seconds:g} s of {args.height}p, {len(latencies)} frames, each with {ahead:.0f} ms of sound ahead; "
        f"{again} show the picture before, since the machine was too slow"
    )
    print(
        f"latency: median {np.median(milliseconds):.0f} ms, 95 % within {np.percentile(milliseconds, 95):.0f} ms, "
        f"at most {milliseconds.max():.0f} ms; the last tenth against the first {drift:+.1f} ms"
    )
