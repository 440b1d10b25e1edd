"""What experts say of right and of wrong sound."""

import sys

import numpy as np
import pytest

import audio
from errors import InputError
from evaluation import chance
from evaluation.sync import MAX_OFFSET, OFFSETS
from hparams import hparams
from models import SyncNet_color
from models.checkpoint import save_checkpoint
from training.data import load_clips


def distances(offset: int | None, windows: int, seed: int = 0) -> np.ndarray:
    """Of windows that are nearest at an offset, or nowhere."""
    noise = np.random.default_rng(seed).normal(1.0, 0.1, (windows, len(OFFSETS)))
    if offset is not None:
        noise[:, offset + MAX_OFFSET] -= 0.3
    return noise.astype(np.float32)


def test_pieces_are_told_by_where_they_are_nearest():
    right = chance.found_in([distances(0, 130), distances(1, 60, 1)], frames=50)
    assert len(right.confidence) == 3 and right.in_step.all()
    late = chance.found_in([distances(6, 100)], frames=50)
    assert not late.in_step.any()
    assert (late.anywhere > 10).all() and (late.there < 5).all()
    assert late.confidence == pytest.approx(0.3, abs=0.05)
    wrong = chance.found_in([distances(None, 400)], frames=50)
    assert wrong.anywhere.max() < 0.3 * late.anywhere.min()


def test_speakers_are_put_together_with_their_sound_in_step(toy):
    clips = load_clips(toy[0], "train", hparams, 0, toy[1])
    spoken = chance.tracks(clips, hparams.fps, (96, 96), seconds=60)
    assert sorted(spoken) == ["s0", "s1"]
    track = spoken["s0"]
    first, second = (clip for clip in clips if clip.folder.parts[-2] == "s0")
    assert len(track.faces) == len(first.numbers) + len(second.numbers)
    assert track.mel.shape[1] == audio.mel_start(len(track.faces), hparams.fps)
    at = len(first.numbers)
    assert (track.faces[at] == second.face(0, (96, 96))).all()
    start = audio.mel_start(at, hparams.fps)
    np.testing.assert_array_equal(track.mel[:, start : start + 60], second.mel[:60].T)
    assert len(chance.tracks(clips, hparams.fps, (96, 96), seconds=1)["s0"].faces) == at


def test_command_prints_right_and_wrong_and_says_what_it_cannot_do(toy, tmp_path, monkeypatch, capsys):
    save_checkpoint(tmp_path / "expert.pth", SyncNet_color(width=0.125))
    argv = ["chance", "--data_root", toy[0], "--filelists", toy[1], "--split", "train"]
    argv += ["--expert", tmp_path / "expert.pth"]

    def run(*more: object) -> str:
        monkeypatch.setattr(sys, "argv", list(map(str, [*argv, *more])))
        chance.main()
        return capsys.readouterr().out

    printed = run("--seconds", 0.4, 1)
    assert "right sound of 0.4 s" in printed and "wrong sound of 1 s: 4 pieces" in printed
    assert printed == run("--seconds", 0.4, 1)
    with pytest.raises(InputError, match="shorter --seconds"):
        run("--seconds", 10)
    with pytest.raises(InputError, match="there are s0 s1"):
        run("--speakers", "nobody")
