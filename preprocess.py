"""LRS2-shaped clips -> face crops, audio and mels for training.

    python preprocess.py --data_root mvlrs_v1/main --preprocessed_root lrs2_preprocessed

Reads `data_root/<folder>/<id>.mp4` (any container) and writes `preprocessed_root/<folder>/<id>/` with
`<frame number>.jpg`, `audio.wav` (16 kHz mono) and `mel.npy`. A clip's folder appears whole; a clip that has one is
skipped, so that an interrupted run goes on where it was.
"""

import argparse
import errno
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from errors import InputError, run_script
from face_detection.api import DETECTORS
from hparams import hparams

VIDEO_SUFFIXES = {".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".mts"}
LOG_NAME = "preprocess.log"
PART_PREFIX = ".part-"


@dataclass(frozen=True)
class Options:
    """What every worker is told."""

    data_root: Path
    preprocessed_root: Path
    batch_size: int
    ngpu: int
    workers: int
    face_detector: str
    pads: tuple[int, int, int, int]
    smooth: bool
    fps: float
    shards: Path | None
    filelists: Path | None


def main() -> None:
    options = parse_arguments()
    videos = find_videos(options.data_root)
    from training.clips import write_facts

    options.preprocessed_root.mkdir(parents=True, exist_ok=True)
    remove_parts(options.preprocessed_root)
    write_facts(options.preprocessed_root, options.fps)
    todo = {name: path for name, path in videos.items() if not (options.preprocessed_root / name).is_dir()}
    print(f"{len(videos)} clips in {options.data_root}, {len(videos) - len(todo)} of them done already")
    failures = process_clips(todo, options)
    report(failures, len(videos), options.preprocessed_root)
    if options.shards:
        from training.shards import FILELISTS, write_splits

        write_splits(options.preprocessed_root, options.shards, options.filelists or FILELISTS)


def parse_arguments() -> Options:
    parser = argparse.ArgumentParser(description="LRS2-shaped clips -> face crops, audio and mels for training")
    parser.add_argument("--data_root", type=Path, required=True, help="folder of <folder>/<id>.mp4")
    parser.add_argument("--preprocessed_root", type=Path, required=True, help="where the tree is written")
    parser.add_argument("--batch_size", type=int, default=32, help="frames a detector batch (default: %(default)s)")
    parser.add_argument("--ngpu", type=int, default=1, help="GPUs that S3FD uses (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="CPU processes where no GPU is used; 0: all cores")
    parser.add_argument("--face_detector", choices=DETECTORS, default="auto")
    parser.add_argument("--pads", type=int, nargs=4, default=(0, 0, 0, 0), metavar=("T", "B", "L", "R"),
                        help="pixels by which the detected box grows (default: 0 0 0 0, as published)")  # fmt: skip
    parser.add_argument("--smooth", action="store_true", help="smooth boxes over time as inference does")
    parser.add_argument("--fps", type=float, default=hparams.fps,
                        help="frames a second of the crops (default: %(default)s, as published)")  # fmt: skip
    parser.add_argument("--shards", type=Path, metavar="DIR",
                        help="afterwards write the clips of --filelists here, as WebDataset shards")  # fmt: skip
    parser.add_argument("--filelists", type=Path, help="folder of train.txt, val.txt and test.txt (default: filelists)")
    args = parser.parse_args()
    if not 1 <= args.fps <= 480:
        raise InputError("--fps takes frames a second from 1 to 480")
    if args.batch_size < 1 or args.ngpu < 0 or args.workers < 0:
        raise InputError("--batch_size takes a number from 1, --ngpu and --workers from 0")
    if not args.data_root.is_dir():
        raise InputError(f"--data_root {args.data_root} is not a folder: give the one that holds <folder>/<id>.mp4")
    return Options(**{**vars(args), "pads": tuple(args.pads)})


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


def process_clips(videos: dict[str, Path], options: Options) -> dict[str, str]:
    """Process clips in parallel; returns name -> reason of those that failed."""
    from tqdm import tqdm

    if not videos:
        return {}
    devices = worker_devices(options)
    failures: dict[str, str] = {}
    context = get_context("spawn")  # CUDA and OpenCV's threads do not survive a fork
    ranks = context.SimpleQueue()
    for device in devices:
        ranks.put(device)
    pool = ProcessPoolExecutor(len(devices), context, initialize_worker, (options, ranks))
    try:
        jobs = {pool.submit(process_clip, name, path): name for name, path in videos.items()}
        for job in tqdm(as_completed(jobs), total=len(jobs), unit="clip", desc="preprocess"):
            reason = outcome(job)
            if reason:
                failures[jobs[job]] = reason
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return dict(sorted(failures.items()))


def outcome(job: Future) -> str | None:
    try:
        return job.result()
    except BrokenProcessPool:
        return "a worker process died (out of memory?): run again with fewer --workers"


def worker_devices(options: Options) -> list[str]:
    """One process a GPU when S3FD can run on one, else one a CPU core. Raises InputError if S3FD cannot be had."""
    from face_detection.api import make_detector, resolve_detector

    if resolve_detector(options.face_detector) == "sfd":
        import torch

        make_detector("sfd")  # what is wrong with its weights is told here, once

        found = min(options.ngpu, torch.cuda.device_count())
        if found:
            return [f"cuda:{i}" for i in range(found)]
    return ["cpu"] * (options.workers or os.cpu_count() or 1)


# In a worker process

_options: Options
_detector = None


def initialize_worker(options: Options, devices) -> None:
    global _options, _detector
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    import cv2

    from face_detection import FaceAlignment

    cv2.setNumThreads(1)
    device = devices.get()
    if device == "cpu":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
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
    except InputError as error:
        return str(error)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, error.strerror, str(target)) from None  # no clip after this one can be written
        return f"cannot be written: {error.strerror}"
    except Exception as error:  # one clip's surprise must not end the run
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return None


def write_faces(video: Path, folder: Path) -> None:
    """A jpg of the face of each frame that shows one, named by the frame's number."""
    import cv2
    import numpy as np

    from lipsync.faces import smooth_boxes

    frames, boxes = [], []
    for batch in batches(video):
        frames += batch
        boxes += _detector.get_detections_for_batch(np.stack(batch))
    seen = [i for i, box in enumerate(boxes) if box is not None]
    if not seen:
        raise InputError("no face in any frame")
    found = np.array([boxes[i] for i in seen])
    if _options.smooth:
        found = np.concatenate([smooth_boxes(found[run]) for run in consecutive_runs(seen)])
    top, bottom, left, right = _options.pads
    for i, (x1, y1, x2, y2) in zip(seen, found, strict=True):
        crop = frames[i][max(0, y1 - top) : y2 + bottom, max(0, x1 - left) : x2 + right]
        if crop.size:
            (folder / f"{i}.jpg").write_bytes(cv2.imencode(".jpg", crop)[1])


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
    """audio.wav, and the mel of exactly that file as mel.npy: (mel frames, 80) float32."""
    import numpy as np
    from scipy.io import wavfile

    import audio

    wav = np.clip(audio.load_wav(video), -1, 32767 / 32768)
    samples = np.round(wav * 32768).astype(np.int16)
    mel = audio.melspectrogram(samples / np.float32(32768))
    audio.mel_window_starts(mel.shape[1], _options.fps)  # refuses sound shorter than a window
    wavfile.write(folder / "audio.wav", hparams.sample_rate, samples)
    np.save(folder / "mel.npy", mel.T)


def report(failures: dict[str, str], total: int, root: Path) -> None:
    """Print and log the clips that failed. Raises InputError when none came through."""
    lines = [f"{name}: {reason}" for name, reason in failures.items()]
    (root / LOG_NAME).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{total - len(failures)} of {total} clips are in {root}")
    if lines:
        print(f"{len(lines)} bad clips (also in {root / LOG_NAME}):", *lines, sep="\n  ")
    if len(failures) == total:
        raise InputError(f"no clip came through: see {root / LOG_NAME}")


if __name__ == "__main__":
    run_script(main)
