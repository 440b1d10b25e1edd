"""The report as one HTML page that needs nothing beside it: tables, plots, faces over time."""

import io
from collections.abc import Iterable
from html import escape
from pathlib import Path

import numpy as np

from evaluation.clips import GENERATED, REAL, SYSTEMS, WRONG, ClipResult
from evaluation.report import COLUMNS, Column, Report, shown_interval, write_text
from evaluation.sync import MAX_OFFSET, OFFSETS

COLOURS = {GENERATED: "#1f6fb2", REAL: "#2a7f4f", WRONG: "#c25b12"}
LINES = {GENERATED: "-", REAL: "--", WRONG: ":"}
PLOT_INCHES = (5.6, 3.2)

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; background: #fff; max-width: 1180px; margin: 2rem auto;
       padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p { margin: .4rem 0; max-width: 78ch; } .quiet { color: #5b6675; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid #e3e7ec; white-space: nowrap; }
th { font-weight: 600; border-bottom: 2px solid #b9c2cd; vertical-align: bottom; }
td:first-child, th:first-child, td.text, th.text { text-align: left; }
td.reason { white-space: normal; max-width: 60ch; }
td .ends { display: block; color: #5b6675; font-size: 12px; }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .45em; }
.plots { display: flex; flex-wrap: wrap; gap: 1.2rem; } .plots figure { margin: 0; flex: 1 1 480px; max-width: 570px; }
.plots svg { width: 100%; height: auto; } figcaption { color: #5b6675; font-size: 13px; }
.strip { display: grid; grid-template-columns: 7.5rem minmax(0, 770px); gap: .2rem .6rem; align-items: center;
         margin: .3rem 0 1rem; }
.strip b { grid-column: 1 / -1; overflow-wrap: anywhere; } .strip img { width: 100%; display: block; }
.strip span { font-size: 13px; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem 1rem; font-size: 13.5px; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
"""


def write_page(report: Report, path: Path, strips: int) -> None:
    """Write the report as `path`, with the faces of the first `strips` clips that have any."""
    measured = sum(1 for clip in report.clips if clip.figures)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Lip sync evaluation</title><style>{STYLE}</style></head><body>",
        "<h1>Lip sync evaluation</h1>",
        f"<p>{measured} of {len(report.clips)} clips measured.</p>",
        f"<p><b>Sync judged by {escape(report.judge)}.</b> {escape(report.judge_note)}</p>",
        "<h2>Summary</h2>",
        *_summary(report),
        *_plots(report),
        *_strips(report.clips, strips),
        *_clips(report),
        *_failures(report),
        "<h2>What the figures mean</h2>",
        _terms((column.title, column.meaning) for column in COLUMNS),
        f"<p>{escape(report.fid_note)}</p>",
        "<h2>Options</h2>",
        _terms((name, _plain(value)) for name, value in report.options.items()),
        "</body></html>",
    ]
    write_text(path, "\n".join(parts) + "\n")


def _summary(report: Report) -> list[str]:
    columns = [column for column in COLUMNS if any(column.name in report.summary[system] for system in SYSTEMS)]
    head = ["", *(column.title for column in columns), "FID"]
    rows = []
    for system in SYSTEMS:
        cells = [_interval(report, system, column) for column in columns]
        fid = report.fid.get(system)
        rows.append([_name(system), *cells, "–" if fid is None else f"{fid:.1f}"])
    without = [column.title for column in COLUMNS if column not in columns]
    absent = f" Not in these clips: {', '.join(without)}." if without else ""
    notes = "; ".join(f"{system}: {report.row_notes[system]}" for system in SYSTEMS)
    return [
        _table(head, rows),
        f'<p class="quiet">Means over clips with 95 % bootstrap intervals. Rows: {escape(notes)}. '
        f"Sync judge: {escape(report.judge)}.{absent}</p>",
        f'<p class="quiet">{escape(report.fid_note)}</p>' if not report.fid else "",
    ]


def _interval(report: Report, system: str, column: Column) -> str:
    found = report.summary[system].get(column.name)
    mean, _, ends = shown_interval(found, column.decimals).partition(" ")
    if found is None:
        return "–"
    return f'{mean}<span class="ends">{ends or "one clip"}</span>'


def _name(system: str) -> str:
    return f'<span class="dot" style="background:{COLOURS[system]}"></span>{system}'


def _table(head: list[str], rows: list[list[str]], text_columns: int = 1) -> str:
    """Cells are HTML already."""

    def cells(kind: str, row: list[str]) -> str:
        classes = [' class="text"' if place < text_columns else "" for place in range(len(row))]
        return "".join(f"<{kind}{kept}>{cell}</{kind}>" for kept, cell in zip(classes, row, strict=True))

    body = "<tbody>" + "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows) + "</tbody>"
    return (
        f'<div class="scroll"><table><thead><tr>{cells("th", head)}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    )


def _terms(pairs: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in pairs) + "</dl>"


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _clips(report: Report) -> list[str]:
    columns = [column for column in COLUMNS if any(column.name in report.summary[system] for system in SYSTEMS)]
    rows = []
    for clip in report.clips:
        for system in SYSTEMS:
            figures = clip.figures.get(system)
            if figures:
                values = [f"{figures[c.name]:.{c.decimals}f}" if c.name in figures else "–" for c in columns]
                said = f" ({escape(clip.wrong_speech)})" if system == WRONG and clip.wrong_speech else ""
                rows.append([escape(clip.name), _name(system) + said, *values])
    head = ["clip", "", *(column.title for column in columns)]
    return ["<h2>Clips</h2>", f'<p class="quiet">Sync judge: {escape(report.judge)}.</p>', _table(head, rows, 2)]


def _failures(report: Report) -> list[str]:
    if not report.failures:
        return []
    rows = "\n".join(
        f'<tr><td>{escape(name)}</td><td class="text">{escape(system)}</td>'
        f'<td class="text reason">{escape(reason)}</td></tr>'
        for name, system, reason in report.failures
    )
    head = '<tr><th class="text">clip</th><th class="text"></th><th class="text">reason</th></tr>'
    return [
        "<h2>Not measured</h2>",
        f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>',
    ]


def _strips(clips: list[ClipResult], most: int) -> list[str]:
    shown = [clip for clip in clips if clip.strips][:most]
    if not shown:
        return []
    parts = ["<h2>Faces</h2>", '<p class="quiet">As the metrics see them, evenly over each clip.</p>']
    for clip in shown:
        rows = "".join(
            f'<span>{_name(system)}</span><img alt="{system}" src="data:image/jpeg;base64,{clip.strips[system]}">'
            for system in (GENERATED, REAL)
            if system in clip.strips
        )
        parts.append(f'<div class="strip"><b>{escape(clip.name)}</b>{rows}</div>')
    return parts


def _plots(report: Report) -> list[str]:
    """The offset curve of each system, and where the offsets of single clips lie, as SVG inside the page."""
    offsets = {
        system: values
        for system in SYSTEMS
        if (values := [clip.figures[system]["offset"] for clip in report.clips if _has_offset(clip, system)])
    }
    figures = []
    if report.curves:
        caption = "Mean distance of lips and speech at each offset; in sync, a valley lies at 0."
        figures.append((_curve_plot(report.curves), caption))
    if offsets:
        figures.append((_offset_plot(offsets), "Offsets of single clips: the share of clips at each."))
    if not figures:
        return []
    inside = "".join(f"<figure>{svg}<figcaption>{caption}</figcaption></figure>" for svg, caption in figures)
    return ["<h2>Offsets</h2>", f'<div class="plots">{inside}</div>']


def _has_offset(clip: ClipResult, system: str) -> bool:
    return "offset" in clip.figures.get(system, {})


def _curve_plot(curves: dict[str, list[float | None]]) -> str:
    figure, axes = _axes("offset of the sound, frames (above 0: late)", "mean distance")
    for system, curve in curves.items():
        values = [np.nan if value is None else value for value in curve]
        axes.plot(OFFSETS, values, LINES[system], color=COLOURS[system], label=system, linewidth=2)
    axes.axvline(0, color="#9aa5b1", linewidth=0.8)
    axes.legend(frameon=False)
    return _svg(figure, "curves")


def _offset_plot(offsets: dict[str, list[float]]) -> str:
    figure, axes = _axes("offset, frames", "share of clips")
    width = 0.8 / len(offsets)
    for place, (system, values) in enumerate(offsets.items()):
        shares = [np.mean(np.array(values) == offset) for offset in OFFSETS]
        at = OFFSETS + (place - (len(offsets) - 1) / 2) * width
        axes.bar(at, shares, width, color=COLOURS[system], label=system)
    axes.set_xlim(-MAX_OFFSET - 1, MAX_OFFSET + 1)
    axes.legend(frameon=False)
    return _svg(figure, "offsets")


def _axes(x: str, y: str) -> tuple:
    from matplotlib.figure import Figure

    figure = Figure(figsize=PLOT_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: object, salt: str) -> str:
    """The same figure gives the same text: no date in it, and names within it from `salt`."""
    import matplotlib as mpl

    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
