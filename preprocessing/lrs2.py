"""LRS2-shaped clips -> face crops, audio and mels, a clip a job."""

import errno
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errors import InputError
from face_detection.api import DETECTORS
from hparams import FASTEST, SLOWEST, hparams
from preprocessing.workers import (
    IMG_SIZE_FLAG,
    SHARDS_HELP,
    check_shards,
    check_size,
    check_workers,
    run_jobs,
    worker_devices,
)

VIDEO_SUFFIXES = {".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".mts"}
LOG_NAME = "preprocess.log"
PART_PREFIX = ".part-"


@dataclass(frozen=True)
class Lrs2Options:
    """Of `preprocess.py --data_root`; the help texts are those of its flags.

    Raises InputError for values out of range.
    """

    data_root: Path = field(metadata={"help": "folder of <folder>/<id>.mp4"})
    preprocessed_root: Path = field(metadata={"help": "where the tree is written"})
    batch_size: int = field(default=32, metadata={"help": "frames a detector batch"})
    ngpu: int = field(default=1, metadata={"help": "GPUs that S3FD uses"})
    workers: int = field(default=0, metadata={"help": "CPU processes where no GPU is used; 0: all cores"})
    face_detector: str = field(default="auto", metadata={"choices": DETECTORS, "help": "face detector"})
    pads: tuple[int, int, int, int] = field(
        default=(0, 0, 0, 0),
        metadata={"metavar": ("T", "B", "L", "R"), "help": "pixels by which the detected box grows, as published"},
    )
    smooth: bool = field(default=False, metadata={"help": "smooth boxes over time as inference does"})
    img_size: str | None = field(default=None, metadata=IMG_SIZE_FLAG)
    fps: float = field(default=hparams.fps, metadata={"help": "frames a second of the crops, as published"})
    shards: Path | None = field(default=None, metadata={"help": SHARDS_HELP})
    filelists: Path | None = field(default=None, metadata={"help": "the splits of --shards; by default filelists/"})

    def __post_init__(self) -> None:
        if not SLOWEST <= self.fps <= FASTEST:
            raise InputError(f"--fps takes frames a second from {SLOWEST} to {FASTEST}")
        check_size(self.img_size)
        check_workers(self.batch_size, self.ngpu, self.workers)
        check_shards(self.shards)
        if not self.data_root.is_dir():
            raise InputError(f"--data_root {self.data_root} is not a folder: give the one that holds <folder>/<id>.mp4")


def preprocess_clips(options: Lrs2Options) -> None:
    """The whole of `data_root`. Raises InputError when there is no clip or none comes through."""
    from training.clips import write_facts

    videos = find_videos(options.data_root)
    options.preprocessed_root.mkdir(parents=True, exist_ok=True)
    remove_parts(options.preprocessed_root)
    write_facts(options.preprocessed_root, options.fps)
    todo = {name: path for name, path in videos.items() if not (options.preprocessed_root / name).is_dir()}
    print(f"{len(videos)} clips in {options.data_root}, {len(videos) - len(todo)} of them done already")
    failures = process_clips(todo, options)
    report(failures, len(videos), options.preprocessed_root)


def find_videos(data_root: Path) -> dict[str, Path]:
    """`<folder>/<id>` -> file, of all videos two levels deep, in order. Raises InputError when there are none."""
    files = sorted(path for path in data_root.glob("*/*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise InputError(f"no video lies in {data_root}/<folder>/: give the folder above the folders of clips")
    videos: dict[str, Path] = {}
    for path in files:
        videos.setdefault(f"{path.parent.name}/{path.stem}", path)
    return videos


def remove_parts(root: Path) -> None:
    """Clips that an earlier run left half done."""
    for part in root.glob(f"*/{PART_PREFIX}*"):
        shutil.rmtree(part, ignore_errors=True)


def process_clips(videos: dict[str, Path], options: Lrs2Options) -> dict[str, str]:
    """Process clips in parallel; returns name -> reason of those that failed."""
    from tqdm import tqdm

    if not videos:
        return {}
    devices = worker_devices(options.face_detector, options.ngpu, options.workers)
    outcomes = run_jobs(process_clip, list(videos.items()), devices, prepare, options)
    with tqdm(total=len(videos), unit="clip", desc="preprocess") as bar:
        failures = {}
        for name, reason in outcomes:
            bar.update()
            if reason:
                failures[name] = reason
    return dict(sorted(failures.items()))


def report(failures: dict[str, str], total: int, root: Path) -> None:
    """Print and log the clips that failed. Raises InputError when none came through."""
    lines = [f"{name}: {reason}" for name, reason in failures.items()]
    (root / LOG_NAME).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{total - len(failures)} of {total} clips are in {root}")
    if lines:
        print(f"{len(lines)} bad clips (also in {root / LOG_NAME}):", *lines, sep="\n  ")
    if len(failures) == total:
        raise InputError(f"no clip came through: see {root / LOG_NAME}")


# In a worker process

_options: Lrs2Options
_detector: Any = None


def prepare(options: Lrs2Options, device: str) -> None:
    global _options, _detector
    from face_detection import FaceAlignment

    _options = options
    _detector = FaceAlignment(device=device, face_detector=options.face_detector)


def process_clip(name: str, video: Path) -> str | None:
    """Write a clip's folder, whole. Returns the reason when it cannot be done."""
    target = _options.preprocessed_root / name
    part = target.with_name(f"{PART_PREFIX}{target.name}")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write_faces(video, part)
        write_audio(video, part)
        part.rename(target)
    except Exception as error:  # one clip's surprise must not end the run
        return reason_of(error, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return None


def reason_of(error: Exception, target: Path) -> str:
    """One line on why something failed. A full disk is raised again: nothing after it can be written either."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(error.errno, error.strerror, str(target)) from None
        return f"cannot be written: {error.strerror}"
    return f"{type(error).__name__}: {error}"


def write_faces(video: Path, folder: Path) -> None:
    """A jpg of the face of each frame that shows one, named by the frame's number.

    The video is read twice, once to find the faces and once to cut them out, so that no frames are held.
    """
    import numpy as np

    from lipsync.faces import smooth_boxes
    from lipsync.video import FrameReader
    from models.conv import size_of
    from preprocessing.crops import write_crop

    boxes = [box for batch in batches(video) for box in _detector.get_detections_for_batch(np.stack(batch))]
    seen = [i for i, box in enumerate(boxes) if box is not None]
    if not seen:
        raise InputError("no face in any frame")
    found = np.array([boxes[i] for i in seen])
    if _options.smooth:
        found = np.concatenate([smooth_boxes(found[run]) for run in consecutive_runs(seen)])
    found = dict(zip(seen, found, strict=True))
    img_size = size_of(_options.img_size) if _options.img_size else None
    for i, frame in enumerate(FrameReader(video, fps=_options.fps)):
        if i in found:
            write_crop(frame, found[i], _options.pads, folder / f"{i}.jpg", img_size)


def consecutive_runs(numbers: list[int]) -> list[slice]:
    """Slices of `numbers` in which each is one more than the one before."""
    cuts = [k for k in range(1, len(numbers)) if numbers[k] != numbers[k - 1] + 1]
    return [slice(a, b) for a, b in zip([0, *cuts], [*cuts, len(numbers)], strict=True)]


def batches(video: Path) -> Iterator[list]:
    """Lists of `--batch_size` frames at `--fps`."""
    from lipsync.video import FrameReader

    batch = []
    for frame in FrameReader(video, fps=_options.fps):
        batch.append(frame)
        if len(batch) == _options.batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def write_audio(video: Path, folder: Path) -> None:
    """The clip's sound as `preprocessing.sound.write_sound` stores it."""
    import audio
    from preprocessing.sound import as_int16, write_sound

    write_sound(as_int16(audio.load_wav(video)), folder, _options.fps)
