"""Inference end to end: face video + speech -> lip-synced video (paper section 4), in two streaming passes.

The first pass decodes and detects and keeps nothing but boxes; the second decodes again, generates, composites and
writes. Memory does not grow with the length of the video.

    from lipsync.pipeline import InferenceOptions, run
    result = run(InferenceOptions(face="face.mp4", audio="speech.wav", outfile="out.mp4"))
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import audio
from errors import InputError
from face_detection import FaceAlignment, LandmarksType
from lipsync import compositing
from lipsync.batching import Batches
from lipsync.faces import GAP_SECONDS, Box, boxes_over_time, spans
from lipsync.options import InferenceOptions
from lipsync.source import FrameSource, constant_box
from lipsync.synthesis import Synthesizer, pick_device
from lipsync.tracking import follow
from lipsync.video_writer import VideoWriter, result_path

__all__ = ["InferenceOptions", "InferenceResult", "run"]

# Frame i gets the mel window that starts at its own time, plus this. In training a frame gets the window that starts
# one frame (40 ms) earlier; published checkpoints are used with 0 all the same.
WINDOW_START_OFFSET_MS = 0.0
HELD_BYTES = 256 * 2**20  # of frames waiting for a batch; large pictures make smaller batches
BLENDS = {"feather": compositing.feather, "paste": compositing.paste}

Progress = Callable[[str, int, int | None], None]
"""Called after each batch with the stage ("faces" or "lips"), the frames done, and how many there are if known."""


@dataclass(frozen=True)
class InferenceResult:
    """What a run did.

    Attributes:
        outfile: the finished video.
        frames: its number of frames.
        fps: its frames a second.
        faceless: spans (start, end) in seconds of the result in which frames are the original ones.
        seconds: time spent per stage.
    """

    outfile: Path
    frames: int
    fps: Fraction
    faceless: tuple[tuple[float, float], ...]
    seconds: dict[str, float]


class Task(NamedTuple):
    """A frame on its way through the second pass."""

    frame: np.ndarray  # (H, W, 3) uint8 BGR
    box: Box | None
    mel_window: np.ndarray  # (80, 16)


def run(options: InferenceOptions, progress: Progress | None = None) -> InferenceResult:
    """Make a lip-synced video as the options say.

    Raises InputError for anything in the options that cannot be used, and when the disk is full or not writable; an
    existing result is then left as it was.
    """
    torch.manual_seed(options.seed)
    progress = progress or (lambda stage, done, total: None)
    outfile = check_outfile(options)
    device = pick_device(options.device)
    clock = StageClock()
    with clock("load"):
        source = FrameSource(options)
        windows = mel_windows(options.audio, source.fps, options.audio_shift)
        box = constant_box(options.box, source.height, source.width)
        synthesizer = Synthesizer(options.checkpoint_path, device, options.precision)
    faceless = []  # one entry a frame of the result
    with VideoWriter(
        outfile,
        (source.height, source.width),
        source.fps,
        options.audio,
        crf=options.crf,
        colour=source.colour,
        pixel_aspect=source.pixel_aspect,
        lossless=options.lossless,
    ) as writer:
        boxes = [box] if box else find_boxes(options, source, len(windows), str(device), clock, progress)
        frames = clock.each("decode", source.repeated(len(windows)))
        tasks = (
            Task(frame, boxes[place % len(boxes)], window)
            for (place, frame), window in zip(frames, windows, strict=True)
        )
        for task in synced(tasks, synthesizer, options, frame_limit(options.wav2lip_batch_size, source), clock):
            with clock("encode"):
                writer.write(task.frame)
            faceless.append(task.box is None)
            progress("lips", len(faceless), len(windows))
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


def find_boxes(
    options: InferenceOptions,
    source: FrameSource,
    frame_count: int,
    device: str,
    clock: "StageClock",
    progress: Progress,
) -> list[Box | None]:
    """The first pass: one box for each of the first `frame_count` frames, or for as many as the video has."""
    aligner = FaceAlignment(LandmarksType._2D, device=device, face_detector=options.face_detector)
    detect = Batches(aligner.detect_faces, options.face_det_batch_size, "--face_det_batch_size")
    detections: list[np.ndarray] = []
    frames = clock.each("decode", islice(source.frames(), frame_count))
    total = min(frame_count, source.frame_count) if source.frame_count else None
    while batch := list(islice(frames, frame_limit(options.face_det_batch_size, source))):
        with clock("detect"):
            detections += detect(batch)
        progress("faces", len(detections), total)
    longest_gap = int(GAP_SECONDS * source.fps)
    followed = follow(detections, longest_gap, options.face_index)
    if options.no_face == "error" and not followed.present.all():
        first = int(np.argmin(followed.present))
        seconds = float(first / source.fps)
        raise InputError(
            f"no face in frame {first} ({seconds:.2f} s): use --no_face keep to leave such frames as they are"
        )
    boxes = boxes_over_time(followed, (source.height, source.width), options.pads, not options.nosmooth, longest_gap)
    if not any(boxes):
        raise InputError(f"--pads {' '.join(map(str, options.pads))} leave nothing of the face: use larger numbers")
    return boxes


def synced(
    tasks: Iterator[Task], synthesizer: Synthesizer, options: InferenceOptions, batch_size: int, clock: "StageClock"
) -> Iterator[Task]:
    """The tasks again, in order, with a generated face in each frame that has a box."""
    generate = Batches(synthesizer, batch_size, "--wav2lip_batch_size")
    put = BLENDS[options.blend]
    while batch := list(islice(tasks, generate.size)):
        with clock("generate"):
            with_face = [task for task in batch if task.box]
            faces = generate([(synthesizer.fit(crop_of(task)), task.mel_window) for task in with_face])
        with clock("composite"):
            for task, face in zip(with_face, faces, strict=True):
                put(task.frame, face, task.box)
        yield from batch


def crop_of(task: Task) -> np.ndarray:
    """The face in a task's frame, (h, w, 3)."""
    x1, y1, x2, y2 = task.box
    return task.frame[y1:y2, x1:x2]


def frame_limit(batch_size: int, source: FrameSource) -> int:
    """How many frames of a batch of `batch_size` may wait in memory at once."""
    return min(batch_size, max(1, HELD_BYTES // (source.height * source.width * 3)))


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


class StageClock:
    """Adds up the time spent in each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def each(self, stage: str, items: Iterator) -> Iterator:
        """The items, the time to make each counted."""
        items = iter(items)
        while True:
            with self(stage):
                item = next(items, self)
            if item is self:
                return
            yield item
