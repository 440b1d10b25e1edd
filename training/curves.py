"""Learning curves of runs, as a picture: what their log.jsonl says of validation.

    python -m training.curves runs/expert runs/expert_augmented --metrics loss pair_accuracy --outfile curves.png

The same figures are in the runs' TensorBoard files.
"""

import argparse
import json
from pathlib import Path

from errors import InputError, run_script
from whole import written_whole

Curve = tuple[list[int], list[float]]  # steps and values
NOT_SHOWN = {"step", "split", "time"}


def read_curves(run: Path) -> dict[str, Curve]:
    """The validation curves of a run's folder by metric. Raises InputError."""
    path = run / "log.jsonl"
    curves: dict[str, Curve] = {}
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        raise InputError(f"{path} is missing: give the --checkpoint_dir of a training run") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise InputError(f"{path} is damaged: a line of it is no JSON") from None
    for line in lines:
        if line.get("split") == "val":
            for metric in line.keys() - NOT_SHOWN:
                steps, values = curves.setdefault(metric, ([], []))
                steps.append(line["step"])
                values.append(line[metric])
    if not curves:
        raise InputError(f"{path} has no validation yet: let the run go on to its --eval_interval")
    return curves


def draw_curves(runs: dict[str, dict[str, Curve]], metrics: list[str], path: Path) -> None:
    """A panel for each metric with a line for each run that has it. `runs`: curves by the run's name and by metric."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for metric, axes in zip(metrics, panels, strict=False):
        for name, curves in runs.items():
            if metric in curves:
                axes.plot(*curves[metric], marker=".", label=name)
        axes.set_title(metric, fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    for axes in panels:
        axes.set_visible(False)
    with written_whole(path) as aside:
        figure.savefig(aside, format="png", dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description="Learning curves of training runs")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs (their --checkpoint_dir)")
    parser.add_argument("--metrics", nargs="+", help="of validation (default: all that the runs have)")
    parser.add_argument("--outfile", type=Path, default=Path("curves.png"), help="default: %(default)s")
    args = parser.parse_args()
    runs = {run.name: read_curves(run) for run in args.runs}
    known = sorted(set().union(*runs.values()))
    for metric in args.metrics or ():
        if metric not in known:
            raise InputError(f"--metrics: no run has '{metric}', but {', '.join(known)}")
    draw_curves(runs, args.metrics or known, args.outfile)
    print(f"wrote {args.outfile}")


if __name__ == "__main__":
    run_script(main)
