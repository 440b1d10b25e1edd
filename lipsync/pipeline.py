"""Inference end to end: face video + speech -> lip-synced video (paper section 4), as stages side by side.

Frames are decoded, detected in, given a generated face and encoded in one pass; the stages run in threads with bounded
queues between them, so that memory does not grow with the length of the video. The first faces are found while torch
is imported, which takes about as long: what comes before the generator imports nothing of it.

    from lipsync.pipeline import InferenceOptions, run
    result = run(InferenceOptions(face="face.mp4", audio="speech.wav", outfile="out.mp4"))
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import audio
from crops import Box, cut, with_aspect
from errors import InputError
from lipsync.batching import Batches
from lipsync.compositing import compositor
from lipsync.faces import spans
from lipsync.heap import give_back_freed
from lipsync.locating import Located, frame_limit, located_frames
from lipsync.options import InferenceOptions
from lipsync.source import FrameSource
from lipsync.stages import StageClock, Threads, ahead, in_parallel
from lipsync.video_writer import VideoWriter, result_path

if TYPE_CHECKING:
    from lipsync.reference import Shape
    from lipsync.synthesis import Synthesizer

__all__ = ["InferenceOptions", "InferenceResult", "run"]

# Frame i gets the mel window that starts at its own time, plus this. In training a frame gets the window that starts
# one frame (40 ms) earlier; published checkpoints are used with 0 all the same, those trained here as they learnt
# (`Wav2Lip.mel_lead_ms`).
WINDOW_START_OFFSET_MS = 0.0
LOCATED_AHEAD = 8  # frames, so that the first batches are there when the generator is
FIRST_BATCH = 2  # frames, so that the first one comes soon
TIDIED_EVERY = 200  # frames: it takes some 40 ms

Progress = Callable[[int, int], None]
"""Called after each frame with the frames done and how many there are."""


@dataclass(frozen=True)
class InferenceResult:
    """What a run did.

    Attributes:
        outfile: the finished video.
        frames: its number of frames.
        fps: its frames a second.
        faceless: spans (start, end) in seconds of the result in which frames are the original ones.
        seconds: time spent per stage, of all threads together ("load", "decode", "detect", "generate", "composite",
            "encode"), and "first frame": from the start of the run until it was with the encoder.
    """

    outfile: Path
    frames: int
    fps: Fraction
    faceless: tuple[tuple[float, float], ...]
    seconds: dict[str, float]


class Task(NamedTuple):
    """A frame on its way through the stages."""

    frame: np.ndarray  # (H, W, 3) uint8 BGR
    box: Box | None
    mel_window: np.ndarray  # (80, 16)
    reference: tuple[np.ndarray, ...] = ()  # (h, w, 3) of the face, of about its size in the frame, if not its own


def run(options: InferenceOptions, progress: Progress | None = None, workers: int | None = None) -> InferenceResult:
    """Make a lip-synced video as the options say.

    Args:
        progress: see `Progress`.
        workers: threads that generate; 0 runs one stage after the other in the caller's thread. By default as many
            as suit the machine. The same number gives the same result; another one, with its share of the cores, may
            round a value in a million the other way.

    Raises InputError for anything in the options that cannot be used, and when the disk is full or not writable; an
    existing result is then left as it was.
    """
    started = time.perf_counter()
    outfile = check_outfile(options)
    clock = StageClock()
    with clock("load"):
        source = FrameSource(options)
        wav = audio.load_wav(options.audio)
        mel = audio.melspectrogram(wav)
        count = len(audio.mel_window_starts(mel.shape[1], float(source.fps)))
    faceless = []  # one entry a frame of the result
    with (
        Threads(workers, options.device) as threads,
        VideoWriter(
            outfile,
            (source.height, source.width),
            source.fps,
            options.audio,
            crf=options.crf,
            preset=options.preset,
            colour=source.colour,
            pixel_aspect=source.pixel_aspect,
            lossless=options.lossless,
        ) as writer,
        closing(found_ahead(options, source, count, threads, clock)) as located,
    ):
        with clock("load"):
            synthesizer = load_synthesizer(options, threads)
            windows = mel_windows(mel, source.fps, options.audio_shift - synthesizer.mel_lead_ms)
            shapes = heard_shapes(options, wav, count, source.fps, synthesizer)
            del wav
        with closing(synced(options, source, located, windows, shapes, synthesizer, threads, clock)) as tasks:
            for task in tasks:
                with clock("encode"):
                    writer.write(task.frame)
                clock.seconds.setdefault("first frame", time.perf_counter() - started)
                faceless.append(task.box is None)
                if len(faceless) % TIDIED_EVERY == 0:
                    give_back_freed()
                if progress:
                    progress(len(faceless), count)
    stretches = spans(np.where(faceless, 0, -1))
    return InferenceResult(
        writer.path,
        len(faceless),
        source.fps,
        tuple((float(first / source.fps), float(end / source.fps)) for first, end in stretches),
        dict(clock.seconds),
    )


def found_ahead(
    options: InferenceOptions, source: FrameSource, count: int, threads: Threads, clock: StageClock
) -> Iterator[Located]:
    """`located_frames`, begun at once where stages have threads."""
    depth = frame_limit(LOCATED_AHEAD, source, shares=8) if threads.side_by_side else 0
    return ahead(located_frames(options, source, count, threads, clock), depth)


def load_synthesizer(options: InferenceOptions, threads: Threads) -> Synthesizer:
    """The generator. Imports torch. Raises InputError for a device or a checkpoint that cannot be used."""
    with importing_torch():
        import torch

        from lipsync.synthesis import Synthesizer

        torch.manual_seed(options.seed)
        threads.limit()  # faces are being found on the other cores
        return Synthesizer(options.checkpoint_path, threads.device, options.precision)


@contextmanager
def importing_torch() -> Iterator[None]:
    """A context in which Python looks for no garbage, nor ever among what there is at its end, if torch is new to it.

    A module's objects are no garbage, and there are so many of them that looking takes a fifth of the import's time.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def heard_shapes(
    options: InferenceOptions, wav: np.ndarray, count: int, fps: Fraction, synthesizer: Synthesizer
) -> Iterator[Shape] | None:
    """How open and wide the mouth of each frame of the result shall be; None where faces are their own references."""
    from lipsync.reference import HeardShapes, wants_fitting  # these import torch

    if not wants_fitting(options.reference, synthesizer.reference):
        return None
    speech = audio.speech_spectrogram(wav).astype(np.float16)  # there are hours of sound
    places = audio.speech_places(np.arange(count), float(fps), options.audio_shift).clip(0, speech.shape[1] - 1)
    return HeardShapes()(speech, places)


def mel_windows(mel: np.ndarray, fps: Fraction, shift_ms: float = 0.0) -> list[np.ndarray]:
    """The mel window (80, 16) of each frame of the result; views of the speech's spectrogram (80, T).

    With a positive `shift_ms` the lips say what the sound says that much later: the speech is heard later than seen.
    """
    count = len(audio.mel_window_starts(mel.shape[1], float(fps)))
    starts = [audio.mel_window_start(i, float(fps), shift_ms + WINDOW_START_OFFSET_MS) for i in range(count)]
    starts = np.clip(starts, 0, mel.shape[1] - audio.MEL_STEP_SIZE)
    return [mel[:, start : start + audio.MEL_STEP_SIZE] for start in starts]


def synced(
    options: InferenceOptions,
    source: FrameSource,
    located: Iterator[Located],
    windows: list[np.ndarray],
    shapes: Iterator[Shape] | None,
    synthesizer: Synthesizer,
    threads: Threads,
    clock: StageClock,
) -> Iterator[Task]:
    """The frames of the result, in order: a generated face in each that has a box."""
    from lipsync.synthesis import cpu_batch  # this imports torch

    most = options.wav2lip_batch_size
    if threads.device.type == "cpu":
        most = min(most, cpu_batch(synthesizer.face_size))
    batch_size = frame_limit(most, source, shares=threads.workers + 4)
    generate = Batches(synthesizer, batch_size, "--wav2lip_batch_size")
    put = compositor(options.blend, options.enhance, fitting=shapes is not None)

    def say(batch: list[Task]) -> list[Task]:
        with_face = [task for task in batch if task.box]
        with clock("generate"):
            faces = generate([
                (synthesizer.fit(cut(task.frame, task.box)), task.mel_window, *map(synthesizer.fit, task.reference))
                for task in with_face
            ])  # fmt: skip
        with clock("composite"):
            for task, face in zip(with_face, faces, strict=True):
                put(task.frame, face, task.box, *task.reference)
        return batch

    def gathered() -> Iterator[list[Task]]:
        threads.limit()  # the networks of references are so small that threads would only wait for one another
        tasks = tasks_of(located, windows, synthesizer.face_size)
        if shapes is not None:
            tasks = with_references(tasks, shapes, synthesizer)
        yield from batched(tasks, batch_size)

    with closing(in_parallel(say, gathered(), threads.workers, threads.limit)) as batches:
        for batch in batches:
            while batch:
                yield batch.pop(0)


def tasks_of(located: Iterator[Located], windows: list[np.ndarray], face_size: tuple[int, int]) -> Iterator[Task]:
    """The frames and their windows; boxes as networks of `face_size` take them."""
    with closing(located):
        for (frame, box), window in zip(located, windows, strict=True):
            yield Task(frame, box and with_aspect(box, face_size), window)


def with_references(tasks: Iterator[Task], shapes: Iterator[Shape], synthesizer: Synthesizer) -> Iterator[Task]:
    """The same with a reference for each face; `shapes`: how its mouth shall be."""
    from lipsync.reference import ShownMouths  # this imports torch

    mouths = ShownMouths(synthesizer.face_size)
    with closing(tasks):
        for task, shape in zip(tasks, shapes, strict=True):
            if task.box is None:
                yield task
                continue
            crop = cut(task.frame, task.box)
            mouths.add(crop)
            yield task._replace(reference=(mouths.of(crop, shape),))


def batched(tasks: Iterator[Task], size: int) -> Iterator[list[Task]]:
    """Tasks `size` at a time; the last list may be shorter. The first ones are: `FIRST_BATCH` tasks, then as many as
    there were before."""
    with closing(tasks):
        done = 0
        while batch := list(islice(tasks, min(size, max(FIRST_BATCH, done)))):
            done += len(batch)
            yield batch
            del batch


def check_outfile(options: InferenceOptions) -> Path:
    """The result's path. Raises InputError when it is a folder or one of the inputs (by another name, too)."""
    outfile = result_path(options.outfile, options.lossless)
    try:
        if outfile.is_dir():
            raise InputError(f"--outfile {outfile} is a folder: give the name of a file in it")
        for flag in ("face", "audio", "checkpoint_path"):
            given = getattr(options, flag)
            if given is not None and outfile.exists() and given.exists() and outfile.samefile(given):
                raise InputError(f"--outfile {outfile} is the file of --{flag} and would replace it: use another name")
    except OSError as error:
        raise InputError(f"--outfile {outfile} cannot be used ({error.strerror}): choose another name") from error
    return outfile
