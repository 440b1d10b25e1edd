"""An evaluation from start to end: clips, figures, report."""

from pathlib import Path

from tqdm import tqdm

from errors import InputError
from evaluation import page, report
from evaluation.clips import GENERATED, REAL, Clips
from evaluation.inception import find_inception
from evaluation.inputs import Item, read_items, wrong_speakers
from evaluation.judges import make_judge
from evaluation.options import EvaluationOptions
from lipsync.synthesis import pick_device


def evaluate(options: EvaluationOptions) -> report.Report:
    """Measure every clip and write the report into `options.outdir`.

    Raises InputError for options that cannot be used, and, once the report is written, when no clip could be measured.
    """
    items = read_items(options)
    _make_folder(options.outdir)
    device = str(pick_device(options.device))
    judge = make_judge(options, device)
    inception, which = find_inception(options.inception, device)
    given_wrong_speech = REAL if any(item.real for item in items) else GENERATED
    clips = Clips(options, judge, inception, device, given_wrong_speech)
    others = wrong_speakers([video for item in items if (video := _video(item, given_wrong_speech))], options.seed)
    results = [
        clips.result(item, others.get(_video(item, given_wrong_speech), []))
        for item in tqdm(items, unit="clip", desc="evaluate", dynamic_ncols=True)
    ]
    found = report.make_report(results, options, (judge.name, judge.note), which, inception is not None)
    report.write_json(found, options.outdir / "report.json")
    report.write_clips_csv(found, options.outdir / "clips.csv")
    report.write_summary_csv(found, options.outdir / "summary.csv")
    page.write_page(found, options.outdir / "report.html", options.strips)
    if not any(found.summary.values()):
        name, system, reason = found.failures[0]
        raise InputError(
            f"no clip could be measured, the first ({name}, {system}) since: {reason}; all are listed in "
            f"{options.outdir / 'report.html'}"
        )
    return found


def _video(item: Item, kind: str) -> Path | None:
    return item.real if kind == REAL else item.generated


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--outdir {folder} cannot be used ({error.strerror}): choose another folder") from error
