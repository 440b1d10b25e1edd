"""What a run made of its sources: tables, histograms and a summary, from the records of all machines."""

import csv
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from preprocessing.records import Record
from whole import write_text_whole, written_whole

COLUMNS = {
    "clip": "<folder>/<id> of a clip that was kept or measured",
    "source": "video, under --raw",
    "start": "seconds",
    "end": "seconds",
    "track": "number of the face in the source; one person",
    "face": "pixels: smaller side of the box, median",
    "sharpness": "variance of the Laplacian, median",
    "turn": "degrees from frontal, median",
    "offset": "frames by which the sound was late, as decided with the neighbours",
    "confidence": "of that",
    "own_offset": "by this clip alone",
    "own_confidence": "of that",
    "result": "kept, or why not",
}
KEPT = "kept"
CLIPS, SOURCES, HISTOGRAMS, LOG = "clips.csv", "sources.csv", "histograms.png", "preprocess.log"


def write_report(records: list[Record], root: Path) -> None:
    """clips.csv, sources.csv, histograms.png and preprocess.log (sources that failed) in `root`."""
    rows = [row for record in records for row in record.rows]
    write_text_whole(root / CLIPS, _table(COLUMNS, rows))
    sources = [_of_source(record) for record in records]
    write_text_whole(root / SOURCES, _table(sources[0] if sources else {}, sources))
    failed = [f"{record.source}: {record.failure}\n" for record in records if record.failure]
    write_text_whole(root / LOG, "".join(failed))
    draw_histograms([row for row in rows if row["result"] == KEPT], root / HISTOGRAMS)


def _of_source(record: Record) -> dict[str, object]:
    seconds = {True: 0.0, False: 0.0}
    for row in record.rows:
        seconds[row["result"] == KEPT] += row["end"] - row["start"]
    offsets = Counter(row["offset"] for row in record.kept if row["offset"] != "")
    return {
        "source": record.source,
        "folder": record.name,
        "seconds": round(record.seconds, 2),
        "clips": len(record.kept),
        "seconds_kept": round(seconds[True], 2),
        "seconds_of_faces_dropped": round(seconds[False], 2),
        "offsets": " ".join(f"{offset:+d}:{count}" for offset, count in offsets.most_common()),
        "failure": record.failure,
    }


def _table(columns: Iterable[str], rows: Iterable[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def draw_histograms(kept: list[dict], path: Path) -> None:
    """Offset, confidence, length and face size of the clips kept, as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    shown = {
        "offset of the sound (frames)": [row["offset"] for row in kept if row["offset"] != ""],
        "confidence (LSE-C)": [row["confidence"] for row in kept if row["confidence"] != ""],
        "length (s)": [row["end"] - row["start"] for row in kept],
        "face (pixels)": [row["face"] for row in kept],
    }
    for axes, (title, values) in zip(figure.subplots(2, 2).flat, shown.items(), strict=True):
        bins = [k - 0.5 for k in range(-15, 17)] if title.startswith("offset") else 30
        axes.hist([round(value, 3) for value in values], bins=bins)  # lengths that are alike but for rounding are alike
        axes.set_title(f"{title}, {len(values)} clips", fontsize=10)
    with written_whole(path) as aside:
        figure.savefig(aside, format="png", dpi=100)


def summary(records: list[Record]) -> list[str]:
    """Lines on clips kept, and on stretches dropped with their reasons."""
    rows = [row for record in records for row in record.rows]
    seconds: dict[str, float] = {}
    for row in rows:
        seconds[row["result"]] = seconds.get(row["result"], 0.0) + row["end"] - row["start"]
    counts = Counter(row["result"] for row in rows)
    lines = [
        f"{counts.pop(KEPT, 0)} clips kept, {seconds.pop(KEPT, 0.0) / 60:.1f} minutes, of "
        f"{sum(record.seconds for record in records) / 60:.1f} minutes of {len(records)} videos"
    ]
    return lines + [
        f"  dropped, {reason}: {count} ({seconds[reason] / 60:.1f} minutes)" for reason, count in counts.most_common()
    ]
