"""Inference end to end: face video + speech -> lip-synced video (paper section 4), as stages side by side.

Frames are decoded, detected in, given a generated face and encoded in one pass; the stages run in threads with bounded
queues between them, so that memory does not grow with the length of the video.

    from lipsync.pipeline import InferenceOptions, run
    result = run(InferenceOptions(face="face.mp4", audio="speech.wav", outfile="out.mp4"))
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import audio
from errors import InputError
from face_detection.api import Box
from lipsync import compositing
from lipsync.batching import Batches
from lipsync.detection import Glance, find_faces
from lipsync.faces import GAP_SECONDS, boxes_over_time, spans
from lipsync.options import InferenceOptions
from lipsync.source import FrameSource, constant_box
from lipsync.stages import StageClock, Threads, ahead, in_parallel
from lipsync.synthesis import Synthesizer, pick_device
from lipsync.tracking import Sighting, follow
from lipsync.video_writer import VideoWriter, result_path

__all__ = ["InferenceOptions", "InferenceResult", "run"]

# Frame i gets the mel window that starts at its own time, plus this. In training a frame gets the window that starts
# one frame (40 ms) earlier; published checkpoints are used with 0 all the same.
WINDOW_START_OFFSET_MS = 0.0
HELD_BYTES = 512 * 2**20  # of frames on their way; large pictures make smaller batches
DECODED_AHEAD = 4  # frames
CPU_BATCH = 8  # frames a generator batch on the CPU: larger ones are no faster and only come later
BLENDS = {"feather": compositing.feather, "paste": compositing.paste}

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


def run(options: InferenceOptions, progress: Progress | None = None, workers: int | None = None) -> InferenceResult:
    """Make a lip-synced video as the options say.

    Args:
        progress: see `Progress`.
        workers: threads that generate; 0 runs one stage after the other in the caller's thread, with the same result.
            By default as many as suit the machine.

    Raises InputError for anything in the options that cannot be used, and when the disk is full or not writable; an
    existing result is then left as it was.
    """
    started = time.perf_counter()
    torch.manual_seed(options.seed)
    outfile = check_outfile(options)
    device = pick_device(options.device)
    clock = StageClock()
    with clock("load"):
        source = FrameSource(options)
        windows = mel_windows(options.audio, source.fps, options.audio_shift)
        box = constant_box(options.box, source.height, source.width)
        synthesizer = Synthesizer(options.checkpoint_path, device, options.precision)
    faceless = []  # one entry a frame of the result
    with (
        Threads(workers, device) as threads,
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
        closing(synced(options, source, windows, box, synthesizer, threads, clock)) as tasks,
    ):
        for task in tasks:
            with clock("encode"):
                writer.write(task.frame)
            clock.seconds.setdefault("first frame", time.perf_counter() - started)
            faceless.append(task.box is None)
            if progress:
                progress(len(faceless), len(windows))
    stretches = spans(np.where(faceless, 0, -1))
    return InferenceResult(
        writer.path,
        len(faceless),
        source.fps,
        tuple((float(first / source.fps), float(end / source.fps)) for first, end in stretches),
        dict(clock.seconds),
    )


def mel_windows(speech: Path, fps: Fraction, shift_ms: float = 0.0) -> list[np.ndarray]:
    """The mel window (80, 16) of each frame of the result; views of one spectrogram.

    With a positive `shift_ms` the lips say what the sound says that much later: the speech is heard later than seen.
    """
    mel = audio.melspectrogram(audio.load_wav(speech))
    last = mel.shape[1] - audio.MEL_STEP_SIZE
    offset = round((WINDOW_START_OFFSET_MS + shift_ms) / 1000 * audio.MEL_FRAMES_PER_SECOND)
    starts = np.clip(np.array(audio.mel_window_starts(mel.shape[1], float(fps))) + offset, 0, last)
    return [mel[:, start : start + audio.MEL_STEP_SIZE] for start in starts]


def synced(
    options: InferenceOptions,
    source: FrameSource,
    windows: list[np.ndarray],
    box: Box | None,
    synthesizer: Synthesizer,
    threads: Threads,
    clock: StageClock,
) -> Iterator[Task]:
    """The frames of the result, in order: a generated face in each that has a box."""
    most = min(options.wav2lip_batch_size, CPU_BATCH) if threads.device.type == "cpu" else options.wav2lip_batch_size
    batch_size = frame_limit(most, source, shares=threads.workers + 4)
    generate = Batches(synthesizer, batch_size, "--wav2lip_batch_size")
    put = BLENDS[options.blend]

    def say(batch: list[Task]) -> list[Task]:
        with_face = [task for task in batch if task.box]
        with clock("generate"):
            faces = generate([(synthesizer.fit(crop_of(task)), task.mel_window) for task in with_face])
        with clock("composite"):
            for task, face in zip(with_face, faces, strict=True):
                put(task.frame, face, task.box)
        return batch

    located = (
        with_constant_box(source, windows, box) if box else with_found_boxes(options, source, windows, threads, clock)
    )
    with closing(in_parallel(say, batched(located, batch_size), threads.workers, threads.limit)) as batches:
        for batch in batches:
            while batch:
                yield batch.pop(0)


def with_constant_box(source: FrameSource, windows: list[np.ndarray], box: Box) -> Iterator[Task]:
    """A task for each window, all with one box."""
    for (_, frame), window in zip(source.repeated(len(windows)), windows, strict=True):
        yield Task(frame, box, window)


def with_found_boxes(
    options: InferenceOptions, source: FrameSource, windows: list[np.ndarray], threads: Threads, clock: StageClock
) -> Iterator[Task]:
    """A task for each window, with the box of the face that is followed. Boxes repeat as the frames do.

    Raises InputError where the options do not fit the faces that there are.
    """
    threads.use_all()
    every_face = options.face_index is not None
    glance = Glance(options.face_detector_size, str(threads.device), options.face_detector, every_face)
    detect = Batches(clock.timed("detect", glance), options.face_det_batch_size, "--face_det_batch_size")
    boxes: list[Box | None] = []
    waiting: deque[np.ndarray] = deque()  # for their boxes
    decoded = ahead(clock.each("decode", source.frames()), DECODED_AHEAD if threads.workers else 0)
    with closing(decoded):
        frames = (waiting.append(frame) or frame for frame in islice(decoded, len(windows)))
        batch_size = frame_limit(options.face_det_batch_size, source, shares=4)
        faces = find_faces(frames, detect, options.det_every, batch_size, every_face)
        longest_gap = int(GAP_SECONDS * source.fps)
        followed = follow(faces, longest_gap, options.face_index)
        if options.no_face == "error":
            followed = insisting(followed, source.fps)
        size = (source.height, source.width)
        for box in boxes_over_time(followed, size, options.pads, not options.nosmooth, longest_gap):
            yield Task(waiting.popleft(), box, windows[len(boxes)])
            boxes.append(box)
    if not any(boxes):
        raise InputError(f"--pads {' '.join(map(str, options.pads))} leave nothing of the face: use larger numbers")
    rest = windows[len(boxes) :]
    for (place, frame), window in zip(clock.each("decode", source.repeated(len(rest))), rest, strict=True):
        yield Task(frame, boxes[place % len(boxes)], window)


def insisting(followed: Iterable[Sighting], fps: Fraction) -> Iterator[Sighting]:
    """The same sightings. Raises InputError at the first frame without the face."""
    for i, sighting in enumerate(followed):
        if sighting.box is None:
            raise InputError(
                f"no face in frame {i} ({float(i / fps):.2f} s): use --no_face keep to leave such frames as they are"
            )
        yield sighting


def batched(tasks: Iterator[Task], size: int) -> Iterator[list[Task]]:
    """Lists of `size` tasks; the last one may be shorter."""
    with closing(tasks):
        while batch := list(islice(tasks, size)):
            yield batch
            del batch


def crop_of(task: Task) -> np.ndarray:
    """The face in a task's frame, (h, w, 3)."""
    x1, y1, x2, y2 = task.box
    return task.frame[y1:y2, x1:x2]


def frame_limit(batch_size: int, source: FrameSource, shares: int) -> int:
    """How many frames of a batch of `batch_size` may be held at once, when `shares` such batches may be."""
    return min(batch_size, max(1, HELD_BYTES // (source.height * source.width * 3 * shares)))


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
