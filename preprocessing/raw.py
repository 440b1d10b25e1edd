"""Raw videos -> the tree that LRS2-shaped clips give: a source a job, on any number of processes and machines."""

import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from errors import InputError, warn
from hparams import hparams
from preprocessing.lrs2 import PART_PREFIX, reason_of
from preprocessing.options import RawOptions
from preprocessing.records import Record, read_record, record_path, write_record
from preprocessing.report import KEPT, LOG, summary, write_report
from preprocessing.sources import Source, find_sources
from preprocessing.splits import split_sources, write_filelists
from preprocessing.workers import DIED, Stopped, run_jobs, share_of_rank, tell, worker_devices

MARK = ".raw-video"  # file that says of a folder of clips that it was made here, and from which video
TELL_EVERY = 50  # calls


def preprocess_raw(options: RawOptions) -> None:
    """All videos of `options.raw`, or this rank's share of them under torchrun; then the reports and file lists.

    Raises InputError when there is no video, or no clip comes out of any.
    """
    sources = find_sources(options.raw)
    root = options.preprocessed_root
    if root.exists() and not root.is_dir():
        raise InputError(f"--preprocessed_root {root} is a file: give a folder")
    if options.sync != "off":
        from models.checkpoint import load_expert

        load_expert(options.syncnet_checkpoint_path)  # what is wrong with it is told here, once
    from training.clips import write_facts

    root.mkdir(parents=True, exist_ok=True)
    write_facts(root, hparams.fps)
    mine = share_of_rank(sources)
    todo = [source for source in mine if not is_done(source, options)]
    print(f"{len(mine)} videos of {options.raw} to do here, {len(mine) - len(todo)} of them done already")
    warn_of_other_options(mine, options)
    process_sources(todo, options)
    merge(sources, options)


def is_done(source: Source, options: RawOptions) -> bool:
    """Whether an earlier run made this very file; its record is removed if it only says why that failed."""
    record = read_record(options.preprocessed_root, source.name)
    if record is None or record.source != source.relative or record.size != source.path.stat().st_size:
        return False
    if record.failure:
        record_path(options.preprocessed_root, source.name).unlink(missing_ok=True)
        return False
    return True


def warn_of_other_options(sources: list[Source], options: RawOptions) -> None:
    """Say so once where sources that are done would come out otherwise now."""
    records = _records(sources, options.preprocessed_root)
    others = [record for record in records if record.options != options.what_clips_depend_on()]
    if others:
        path = record_path(options.preprocessed_root, others[0].name)
        warn(
            f"{len(others)} videos, such as {others[0].source}, were done with other options and stay as they are: "
            f"delete {path} and its like to do them again"
        )


def process_sources(sources: list[Source], options: RawOptions) -> None:
    """Sources in parallel; each leaves a record."""
    if not sources:
        return
    devices = worker_devices(options.face_detector, options.ngpu, options.workers)[: len(sources)]
    by_name = {source.name: source for source in sources}
    with tqdm(total=len(sources), unit="video", desc="preprocess") as bar:
        frames = 0

        def heard(amount: int) -> None:
            nonlocal frames
            frames += amount
            bar.set_postfix(frames_read=frames)

        for name, outcome in run_jobs(process_source, list(by_name.items()), devices, prepare, options, heard):
            if outcome == DIED:
                _record_failure(by_name[name], options, DIED)
            bar.update()


def merge(sources: list[Source], options: RawOptions) -> None:
    """Reports and file lists of all sources that have a record, whichever machine made it.

    Every rank does it at its end. Who finds more records after writing than before does it again, so that the last to
    write has seen them all. Raises InputError when all are done and there is no clip.
    """
    root = options.preprocessed_root
    seen, found = None, _records(sources, root)
    while seen != found:
        seen = found
        write_report(seen, root)
        counts = {}
        if options.filelists:
            seconds = {record.name: sum(row["end"] - row["start"] for row in record.kept) for record in seen}
            clips = {record.name: [row["clip"] for row in record.kept] for record in seen}
            counts = write_filelists(clips, split_sources(seconds, options.split, options.seed), options.filelists)
        found = _records(sources, root)
    if len(seen) < len(sources):
        print(f"{len(seen)} of {len(sources)} videos are done; the others are still being made elsewhere")
        return
    print(*summary(seen), f"tables and histograms: {root}", sep="\n")
    if counts:
        print(f"file lists in {options.filelists}:", ", ".join(f"{count} {split}" for split, count in counts.items()))
    failed = [f"{record.source}: {record.failure}" for record in seen if record.failure]
    if failed:
        print(f"{len(failed)} bad videos (also in {root / LOG}):", *failed, sep="\n  ")
    if not any(record.kept for record in seen):
        raise InputError(f"no clip came out of any video: see {root / LOG} and {root / 'clips.csv'}")


def _records(sources: list[Source], root: Path) -> list[Record]:
    records = (read_record(root, source.name) for source in sources)
    return [record for record in records if record is not None]


def _record_failure(source: Source, options: RawOptions, reason: str) -> None:
    size = source.path.stat().st_size if source.path.is_file() else 0
    record = Record(source.name, source.relative, size, options.what_clips_depend_on(), failure=reason)
    write_record(options.preprocessed_root, record)


# In a worker process

_options: RawOptions
_detector: Any = None
_expert: Any = None


def prepare(options: RawOptions, device: str) -> None:
    global _options, _detector, _expert
    import torch

    from models.checkpoint import load_expert
    from preprocessing.watching import RawFaces

    _options = options
    if device == "cpu":
        torch.set_num_threads(1)
    _detector = RawFaces(options.min_face, device, options.face_detector)
    _expert = load_expert(options.syncnet_checkpoint_path, device) if options.sync != "off" else None


def process_source(name: str, source: Source) -> None:
    """Write a source's clips, whole, and then its record. What goes wrong stands in the record."""
    target = _options.preprocessed_root / name
    part = target.with_name(f"{PART_PREFIX}{name}")
    try:
        if target.exists() and not (target / MARK).is_file():
            raise InputError(f"{target} exists and was not made from a raw video: use another --preprocessed_root")
        for left_over in (part, target):  # clips without a record are of a run that did not come to its end
            shutil.rmtree(left_over, ignore_errors=True)
        part.mkdir(parents=True)
        (part / MARK).write_text(f"{source.relative}\n", encoding="utf-8")
        seconds, rows = make_clips(source, part)
        if any(row["result"] == KEPT for row in rows):
            part.rename(target)
        size = source.path.stat().st_size
        write_record(
            _options.preprocessed_root,
            Record(name, source.relative, size, _options.what_clips_depend_on(), seconds, rows),
        )
    except Stopped:
        return
    except Exception as error:  # one source's surprise must not end the run
        _record_failure(source, _options, reason_of(error, target))
    finally:
        shutil.rmtree(part, ignore_errors=True)


def make_clips(source: Source, folder: Path) -> tuple[float, list[dict]]:
    """Clips as `folder/<id>/`; returns the source's length in seconds and the rows of its record."""
    from lipsync.video import FrameReader
    from preprocessing.cutting import cut, settle
    from preprocessing.sound import extract
    from preprocessing.tracks import plan
    from preprocessing.watching import watch

    fps = hparams.fps
    reader = FrameReader(source.path, fps=fps)
    sound_file = folder / "sound.s16"
    sound = extract(source.path, reader.start, sound_file, Progress())
    watched = watch(reader, _detector, _options.batch_size, _options.shots == "detect", Progress())
    stretches = plan(watched, fps, _options)
    good = [stretch for stretch in stretches if not stretch.reason]
    clips = cut(reader, good, sound, folder, _options, _expert, Progress())
    settle(clips, sound, fps, _options)
    sound_file.unlink()
    rows = [row_of(stretch, source, stretch.reason, fps) for stretch in stretches if stretch.reason]
    rows += [row_of(clip.stretch, source, clip.reason or KEPT, fps, clip) for clip in clips]
    return watched.count / fps, sorted(rows, key=lambda row: (row["start"], row["track"]))


class Progress:
    """Tells the parent of frames, some calls at once, and hears whether the run was interrupted."""

    def __init__(self) -> None:
        self._calls, self._untold = 0, 0

    def __call__(self, frames: int) -> None:
        self._calls += 1
        self._untold += frames
        if self._calls % TELL_EVERY == 0:
            tell(self._untold)
            self._untold = 0


def row_of(stretch, source: Source, result: str, fps: float, clip=None) -> dict:
    """A row of clips.csv; see `report.COLUMNS`."""
    names = ("offset", "confidence", "own_offset", "own_confidence")
    verdict = clip.verdict if clip else None
    measured = {name: round(getattr(verdict, name), 4) if verdict else "" for name in names}
    return {
        "clip": f"{source.name}/{clip.folder.name}" if clip else "",
        "source": source.relative,
        "start": round(stretch.first / fps, 3),
        "end": round(stretch.end / fps, 3),
        "track": stretch.track,
        "face": round(stretch.face, 1),
        "sharpness": round(float(_median(stretch.sharpness)), 1),
        "turn": round(float(_median(stretch.turn)), 1),
        **measured,
        "result": result,
    }


def _median(values) -> float:
    import numpy as np

    return float(np.median(values))
