"""Time of each stage by itself, and of whole runs, beside the machine's limit and the published procedure."""

import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from itertools import islice
from pathlib import Path

import torch

from audio import load_mel
from benchmarks import material
from benchmarks.material import FPS, make_clip, make_speech
from benchmarks.measure import Spread, beside_products, operations, repeated
from benchmarks.published import published_procedure
from crops import cut, inside, with_aspect
from lipsync.batching import Batches
from lipsync.compositing import feather
from lipsync.detection import Glance, find_faces
from lipsync.options import InferenceOptions
from lipsync.pipeline import mel_windows, run
from lipsync.source import FrameSource
from lipsync.stages import Threads, in_parallel
from lipsync.synthesis import Synthesizer, cpu_batch
from lipsync.tracking import follow
from lipsync.video import VideoWriter
from models.checkpoint import DEFAULT_GENERATOR, load_generator

STAGE_FRAMES = 64  # on which single stages are timed
CPU = torch.device("cpu")
FIRST_FRAME = (
    "import sys, time\n"
    "from lipsync.options import InferenceOptions\n"
    "face, speech, checkpoint, outfile, started = sys.argv[1:]\n"
    "def seen(done, total):\n"
    "    if done == 1: print(time.monotonic() - float(started), flush=True)\n"
    "from lipsync.pipeline import run\n"
    "run(InferenceOptions(face, speech, checkpoint or None, outfile), seen)\n"
)


def add_arguments(parser: ArgumentParser) -> None:
    material.add_arguments(parser)
    parser.add_argument("--heights", type=int, nargs="+", default=[480, 720], help="of the clips (default: 480 720)")
    parser.add_argument("--seconds", type=float, default=10, help="length of the clips (default: %(default)s)")
    parser.add_argument("--published", type=int, default=0, metavar="N", help="compare with the published procedure")


def main(args: Namespace, folder: Path) -> None:
    speech = make_speech(args.audio, folder / "speech.wav", args.seconds)
    print(f"{torch.get_num_threads()} cores; milliseconds a frame: median (least to most) of {args.repeats}")
    for height in args.heights:
        clip = make_clip(args.face, folder / f"{height}.mp4", height, args.seconds)
        options = InferenceOptions(clip, speech, args.checkpoint_path, folder / "out.mp4")
        print(f"\n{args.seconds:g} s of {height}p at {FPS} frames a second")
        for name, seconds, remark in stages(options, args.repeats, folder):
            print(f"{name:12} {show(seconds)}{remark}", flush=True)
        whole = whole_runs(options, args.repeats)
        print(
            f"{'end to end':12} {show(whole)}: {Spread(tuple(1 / value for value in whole.values)).show()} frames a s"
        )
        print(
            f"{'first frame':12} {first_frames(options, args.repeats).show(2)} s after the program's start", flush=True
        )
        if args.published:
            call = published_procedure(clip, speech, args.checkpoint_path, folder, args.published)
            start = time.perf_counter()
            call()
            slow = (time.perf_counter() - start) / args.published
            ratio = slow / whole.median
            print(f"{'published':12} {1000 * slow:.0f}, on {args.published} frames: {ratio:.1f} times as long")


def show(seconds: Spread) -> str:
    return Spread(tuple(1000 * value for value in seconds.values)).show()


def share_of(limits: Spread, seconds: Spread, gflop: float) -> str:
    """`limits`: GFLOP/s that the machine did at the time of each of `seconds` a frame of `gflop` GFLOP."""
    pairs = zip(limits.values, seconds.values, strict=True)
    shares = Spread(tuple(100 * gflop / value / limit for limit, value in pairs))
    return (
        f", {gflop:.2f} GFLOP a frame as direct convolution: {shares.show(0)} % of the rate of large float32 matrix"
        f" products in between, {limits.show(0)} GFLOP/s"
    )


def stages(options: InferenceOptions, repeats: int, folder: Path):
    """Name, seconds a frame, and what else there is to say, of each stage by itself on all cores."""
    source = FrameSource(options)
    frames = list(islice(source.frames(), STAGE_FRAMES))
    count = len(frames)

    def decode() -> None:
        for _ in islice(source.frames(), count):
            pass

    yield "decode", repeated(decode, repeats, count), ""

    glance = Batches(Glance(options.face_detector_size, "cpu", options.face_detector), 16, "")
    found: list = []

    def detect() -> None:
        found[:] = find_faces(iter(frames), glance, options.det_every, 16)

    yield "detect", repeated(detect, repeats, count), ""

    synthesizer = Synthesizer(options.checkpoint_path, CPU)
    boxes = [tuple(map(int, sighting.box)) for sighting in follow(found, count) if sighting.box is not None]
    boxes = [with_aspect(inside(box, frames[0].shape[:2]), synthesizer.face_size) for box in boxes]
    windows = mel_windows(load_mel(options.audio), source.fps)
    inputs = [
        (synthesizer.fit(cut(frame, box)), window) for frame, window, box in zip(frames, windows, boxes, strict=False)
    ]
    most = cpu_batch(synthesizer.face_size)
    batches = [inputs[start : start + most] for start in range(0, len(inputs), most)]
    network = load_generator(options.checkpoint_path or DEFAULT_GENERATOR)
    gflop = operations(network, torch.zeros(1, 1, 80, 16), torch.zeros(1, 6, *network.img_size))
    faces: list = []
    with Threads(None, str(CPU)) as threads:

        def generate() -> None:
            faces[:] = [
                face
                for part in in_parallel(synthesizer, iter(batches), threads.workers, threads.limit)
                for face in part
            ]

        seconds, limits = beside_products(generate, repeats, len(inputs))
    yield "generate", seconds, share_of(limits, seconds, gflop)

    def composite() -> None:
        for frame, face, box in zip(frames, faces, boxes, strict=False):
            feather(frame, face, box)

    yield "composite", repeated(composite, repeats, len(faces)), ""

    def encode() -> None:
        with VideoWriter(folder / "encoded.mp4", (source.height, source.width), source.fps) as writer:
            for frame in frames:
                writer.write(frame)

    yield "encode", repeated(encode, repeats, count), ""


def whole_runs(options: InferenceOptions, repeats: int) -> Spread:
    """Seconds a frame of whole runs, with all loading but Python's imports."""
    values = []
    for _ in range(repeats):
        start = time.perf_counter()
        frames = run(options).frames
        values.append((time.perf_counter() - start) / frames)
    return Spread(tuple(values))


def first_frames(options: InferenceOptions, repeats: int) -> Spread:
    """Seconds from the start of a new process to its first finished frame, imports and all."""
    values = []
    for _ in range(repeats):
        words = [options.face, options.audio, options.checkpoint_path or "", options.outfile, time.monotonic()]
        command = [sys.executable, "-c", FIRST_FRAME, *map(str, words)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            values.append(float(process.stdout.readline()))
            process.kill()
    return Spread(tuple(values))
