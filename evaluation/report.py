"""Figures of all clips -> means with intervals, JSON and CSV. Nothing here depends on when or where it runs."""

import csv
import dataclasses
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from errors import InputError
from evaluation import metrics
from evaluation.clips import GENERATED, REAL, SYSTEMS, WRONG, ClipResult
from evaluation.options import EvaluationOptions
from evaluation.sync import OFFSETS
from whole import write_text_whole

FEWEST_FEATURES = 2  # in a set, for FID


class Column(NamedTuple):
    """A metric in tables: its name there, the unit, how it is read, decimals."""

    name: str
    title: str
    meaning: str
    decimals: int = 3


COLUMNS = (
    Column("lse_d", "LSE-D", "distance of lips and speech at the best offset; lower is better"),
    Column("lse_c", "LSE-C", "median distance over offsets less the lowest; higher is better"),
    Column("offset", "offset", "frames, 25 a second unless the judge learnt from others; above 0 the sound is late", 2),
    Column("in_sync", "in sync", "share of clips whose offset is at most one frame", 2),
    Column("psnr_lower", "PSNR", "dB, lower half of the face's box, against the real video; higher is better", 2),
    Column("ssim_lower", "SSIM", "of the same; higher is better"),
    Column(
        "motion_silent", "motion in silence",
        "mean absolute difference of the mouth between frames, levels of 255, where the speech is silent for at least "
        "200 ms; movements of the head count too", 2,
    ),
    Column("motion_speech", "motion in speech", "the same elsewhere", 2),
    Column("faceless", "no face", "share of frames without a face, gaps of up to half a second bridged"),
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """All that is written and shown.

    Attributes:
        judge, judge_note: who judged sync, and what those figures may be compared with.
        summary: system -> metric -> interval over clips.
        curves: system -> mean distance at each of `OFFSETS`, over the clips that have it.
        fid: system -> Frechet distance; `fid_note`: of what, or why there is none.
        row_notes: system -> what it is, or why there is no such row.
        clips: by name.
        options: shown with the figures.
    """

    judge: str
    judge_note: str
    summary: dict[str, dict[str, metrics.Interval]]
    curves: dict[str, list[float | None]]
    fid: dict[str, float]
    fid_note: str
    row_notes: dict[str, str]
    clips: list[ClipResult]
    options: dict[str, Any]

    @property
    def failures(self) -> list[tuple[str, str, str]]:
        """(clip, system, reason) of all that could not be measured."""
        return [(clip.name, system, reason) for clip in self.clips for system, reason in clip.failures.items()]


def make_report(
    clips: list[ClipResult], options: EvaluationOptions, judge: tuple[str, str], inception: str, has_inception: bool
) -> Report:
    """Bring all clips together. `judge`: name and note; `inception`: which weights, or why there are none."""
    summary = {
        system: {
            column.name: found
            for column in COLUMNS
            if (found := metrics.interval(_values(clips, system, column.name), options.seed))
        }
        for system in SYSTEMS
    }
    fid, fid_note = _fid(clips, inception) if has_inception else ({}, f"FID was not computed: {inception}.")
    curves = {system: curve for system in SYSTEMS if (curve := _mean_curve(clips, system))}
    return Report(*judge, summary, curves, fid, fid_note, _row_notes(clips), clips, _shown(options))


def _values(clips: list[ClipResult], system: str, metric: str) -> list[float]:
    return [clip.figures[system][metric] for clip in clips if metric in clip.figures.get(system, {})]


def _mean_curve(clips: list[ClipResult], system: str) -> list[float | None]:
    curves = [[np.nan if v is None else v for v in clip.curves[system]] for clip in clips if system in clip.curves]
    if not curves:
        return []
    stacked = np.array(curves)
    there = np.isfinite(stacked)
    sums = np.where(there, stacked, 0).sum(0)
    return [float(s / n) if n else None for s, n in zip(sums, there.sum(0), strict=True)]


def _fid(clips: list[ClipResult], inception: str) -> tuple[dict[str, float], str]:
    """FID of the generated faces against the real ones, beside that of one half of the real clips against the other."""
    generated = [clip.features[GENERATED] for clip in clips if GENERATED in clip.features]
    real = [clip.features[REAL] for clip in clips if REAL in clip.features]
    sets = {GENERATED: (generated, real), REAL: (real[0::2], real[1::2])}
    found, sizes = {}, []
    for system, (a, b) in sets.items():
        a, b = (np.concatenate(part) if part else np.zeros((0, 1)) for part in (a, b))
        if min(len(a), len(b)) >= FEWEST_FEATURES:
            found[system] = metrics.frechet_distance(a, b)
            sizes.append(f"{system}: {len(a)} and {len(b)} faces")
    if not found:
        return {}, "FID was not computed: it needs generated and real faces."
    return found, (
        f"FID by torchvision's Inception v3, {inception}: generated against real faces; in the row of the real "
        f"videos one half of them against the other ({'; '.join(sizes)}). Published FIDs use other weights and many "
        "more pictures: do not compare them with these."
    )


def _row_notes(clips: list[ClipResult]) -> dict[str, str]:
    has_real = any(REAL in clip.figures for clip in clips)
    notes = {GENERATED: "the videos that are judged, with their own sound"}
    notes[REAL] = "real videos with their own sound" if has_real else "no real videos were given: see --real"
    whose = "real videos" if has_real else "generated videos (no real ones were given)"
    if any(WRONG in clip.figures for clip in clips):
        notes[WRONG] = f"{whose} with another clip's speech: what a figure without any sync looks like"
    else:
        notes[WRONG] = "needs two videos with sound or more"
    return notes


def _shown(options: EvaluationOptions) -> dict[str, Any]:
    shown = {}
    for item in dataclasses.fields(options):
        value = getattr(options, item.name)
        if item.name != "outdir" and value is not None:
            shown[item.name] = str(value) if isinstance(value, Path) else value
    return shown


def write_json(report: Report, path: Path) -> None:
    """Everything but pictures and features."""
    left_out = ("strips", "features")
    content = dataclasses.asdict(dataclasses.replace(report, clips=[]))
    content["offsets"] = OFFSETS.tolist()
    content["clips"] = [
        {key.name: getattr(clip, key.name) for key in dataclasses.fields(clip) if key.name not in left_out}
        for clip in report.clips
    ]
    content["columns"] = {column.name: f"{column.title}: {column.meaning}" for column in COLUMNS}
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_clips_csv(report: Report, path: Path) -> None:
    """A row for each clip and system."""
    names = [column.name for column in COLUMNS]
    rows = [["clip", "system", *names, "failure", "sync_judge"]]
    for clip in report.clips:
        for system in SYSTEMS:
            figures, failure = clip.figures.get(system, {}), clip.failures.get(system, "")
            if figures or failure:
                values = [f"{figures[name]:.6g}" if name in figures else "" for name in names]
                rows.append([clip.name, system, *values, failure, report.judge])
    _write_csv(path, rows)


def write_summary_csv(report: Report, path: Path) -> None:
    """A row for each system and metric: mean, ends of the 95 % interval, clips."""
    rows = [["system", "metric", "mean", "low", "high", "clips", "sync_judge"]]
    for system, figures in report.summary.items():
        for name, found in figures.items():
            ends = ["" if end is None else f"{end:.6g}" for end in (found.low, found.high)]
            rows.append([system, name, f"{found.mean:.6g}", *ends, found.count, report.judge])
    rows += [[system, "fid", f"{value:.6g}", "", "", "", report.judge] for system, value in report.fid.items()]
    _write_csv(path, rows)


def _write_csv(path: Path, rows: list[list[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write aside, then rename: the file appears whole or not at all. Raises InputError where it cannot be written."""
    try:
        write_text_whole(path, text)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): choose another --outdir") from error


def summary_lines(report: Report) -> list[str]:
    """The summary as lines of text."""
    shown = [column for column in COLUMNS if any(column.name in report.summary[system] for system in SYSTEMS)]
    lines = [f"sync judged by {report.judge}", " | ".join(["", *(column.title for column in shown)])]
    for system in SYSTEMS:
        cells = [shown_interval(report.summary[system].get(column.name), column.decimals) for column in shown]
        lines.append(" | ".join([f"{system:<11}", *cells]))
    return lines


def shown_interval(found: metrics.Interval | None, decimals: int) -> str:
    """A mean with its interval, or a dash."""
    if found is None:
        return "-"
    if found.low is None:
        return f"{found.mean:.{decimals}f}"
    return f"{found.mean:.{decimals}f} [{found.low:.{decimals}f}, {found.high:.{decimals}f}]"
