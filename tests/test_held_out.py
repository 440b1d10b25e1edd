"""The figures on held-out speakers: on what they are computed, and that they tell good from bad."""

import json
import sys

import pytest
import torch

from evaluation import held_out
from hparams import hparams
from models import SyncNet_color, Wav2Lip
from models.checkpoint import save_checkpoint
from training import initial
from training.data import load_clips


@pytest.fixture(scope="module")
def clips(toy):
    return load_clips(toy[0], "val", hparams, lead=1, filelists=toy[1])


@pytest.fixture
def expert():
    torch.manual_seed(0)
    return SyncNet_color(width=0.125).eval().requires_grad_(False)


def test_expert_that_hears_nothing_is_at_chance(clips, expert):
    expert.audio_encoder[-1].conv_block[1].weight.zero_()
    expert.audio_encoder[-1].conv_block[1].bias.fill_(1)
    figures = held_out.judge_expert(expert, clips, hparams, windows=20, seed=0)
    assert 0.3 < figures["pair_accuracy"] < 0.7
    assert figures["top1"] < 0.3
    assert figures["candidates"] > 10


def test_copying_generator_has_the_figures_of_the_copy(clips, expert):
    generator = Wav2Lip(width=0.5)
    initial.start_as_copy(generator)
    figures = held_out.judge_generator(generator.eval(), expert, clips, hparams, windows=2, seed=0)
    assert figures["psnr_lower"] == pytest.approx(figures["copy_psnr_lower"], abs=5)
    assert figures["ssim_lower"] > 0.4
    assert figures["sync_real"] != figures["sync_wrong"]


def test_command_prints_and_stores_the_same_figures_twice(toy, expert, tmp_path, monkeypatch, capsys):
    save_checkpoint(tmp_path / "expert.pth", expert)
    save_checkpoint(tmp_path / "generator.pth", Wav2Lip(width=0.125))
    argv = ["held_out", "--data_root", toy[0], "--filelists", toy[1], "--windows", "1"]
    argv += ["--expert", tmp_path / "expert.pth", "--generator", tmp_path / "generator.pth"]
    for name in ("a.json", "b.json"):
        monkeypatch.setattr(sys, "argv", [*map(str, argv), "--json", str(tmp_path / name)])
        held_out.main()
    assert "sync_generated" in capsys.readouterr().out
    figures = json.loads((tmp_path / "a.json").read_text())
    assert figures == json.loads((tmp_path / "b.json").read_text())
    assert figures["expert"]["loss"] > 0
