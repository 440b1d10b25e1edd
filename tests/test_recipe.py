"""The recipe of the default weights, tiny, on toy clips: it learns, goes on where it stopped, ends in three files."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from toy import make_data_set

from models.checkpoint import load_expert, load_generator


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    data, lists = make_data_set(tmp_path_factory.mktemp("toy"), clips=20)
    argv = ["-m", "training.recipe", "--data_root", data, "--filelists", lists, "--tiny", "--device", "cpu", "--runs"]
    return [sys.executable, *map(str, argv)]


def curve(folder, name, split="val"):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if line["split"] == split]


def test_tiny_recipe_learns_and_resumes(command, tmp_path):
    first = subprocess.Popen([*command, tmp_path], cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True)
    log = tmp_path / "expert_contrast/log.jsonl"
    while first.poll() is None and not (log.is_file() and log.read_text()):
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGINT)  # as a terminal does: to the recipe and to the script that it runs
    assert first.wait(60) == 130
    assert b"Traceback" not in first.stderr.read()

    done = subprocess.run([*command, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert max(curve(tmp_path / "expert", "pair_accuracy")) > 0.9
    assert min(curve(tmp_path / "expert", "loss")) < 0.4
    assert curve(tmp_path / "generator", "l1")[-1] < 0.8 * curve(tmp_path / "generator_face", "l1")[0]
    lessons = [curve(tmp_path / name, "l1", "train") for name in ("generator_face", "generator")]
    assert lessons[1][-1] < 0.7 * lessons[0][0]
    generators = [load_generator(tmp_path / f"wav2lip_small{name}.pth") for name in ("", "_gan")]
    assert [generator.reference for generator in generators] == ["fitting", "fitting"]
    load_expert(tmp_path / "lipsync_expert_small.pth")

    again = subprocess.run([*command, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert again.stdout.count("done already") == 9


def test_failing_step_ends_in_one_line(command, tmp_path):
    argv = [argument if argument != "cpu" else "nonsense" for argument in command]
    done = subprocess.run([*argv, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "color_syncnet_train.py ended with exit status" in done.stderr.splitlines()[-1]
