"""Learning curves of runs."""

import json

import cv2
import pytest

from errors import InputError
from training import curves


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "expert"
    folder.mkdir()
    lines = [{"step": 10 * k, "split": ("train", "val")[k % 2], "time": k, "loss": 1 / (k + 1)} for k in range(6)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def draw(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["curves", *map(str, words)])
    curves.main()


def test_curves_are_those_of_validation_and_become_a_picture(run, tmp_path, monkeypatch):
    assert curves.read_curves(run) == {"loss": ([10, 30, 50], [1 / 2, 1 / 4, 1 / 6])}
    draw(monkeypatch, run, "--outfile", tmp_path / "curves.png")
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture is not None and picture.min() < 100 < picture.mean()


def test_bad_runs_are_named(run, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"'l1', but loss"):
        draw(monkeypatch, run, "--metrics", "l1")
    with pytest.raises(InputError, match=r"missing.*--checkpoint_dir"):
        draw(monkeypatch, tmp_path)
    log = run / "log.jsonl"
    log.write_text(log.read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match="no validation yet"):
        draw(monkeypatch, run)
    log.write_text("{\n")
    with pytest.raises(InputError, match="damaged"):
        draw(monkeypatch, run)
