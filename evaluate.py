"""Judge lip-synced videos: sync, pictures, motion, each beside real videos and wrong speech.

    python evaluate.py --results results/ --real originals/
    python evaluate.py --pairs pairs.csv
    python evaluate.py --filelist test_filelist.txt --data_root mvlrs_v1/main --checkpoint_path wav2lip.pth

The report (report.html, report.json, clips.csv, summary.csv) goes to --outdir. An interrupted run goes on where it was.
"""

import sys
from collections.abc import Sequence

from errors import run_script
from evaluation.options import EvaluationOptions
from lipsync.command_line import parse


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate as the command line says; see `errors.run_script` for how it fails."""
    options = parse(EvaluationOptions, sys.argv[1:] if argv is None else argv, __doc__)

    from evaluation.report import summary_lines  # heavy imports come after --help and wrong flags
    from evaluation.run import evaluate

    report = evaluate(options)
    print(*summary_lines(report), report.fid_note, sep="\n")
    for clip, system, reason in report.failures:
        print(f"not measured: {clip}, {system}: {reason}", file=sys.stderr)
    print(f"report: {options.outdir / 'report.html'}")


if __name__ == "__main__":
    run_script(main)
