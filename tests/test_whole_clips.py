"""Sync of whole clips in validation: the measures of evaluation, of real and of generated faces."""

from functools import partial

import numpy as np
import pytest
import torch

from evaluation import sync
from hparams import hparams
from models import SyncNet_color, Wav2Lip
from training import initial, matching, whole_clips
from training.clips import Clip
from training.data import load_clips


@pytest.fixture(scope="module")
def clips(toy) -> list[Clip]:
    return load_clips(toy[0], "val", hparams, lead=1, filelists=toy[1])


@pytest.fixture(scope="module")
def expert() -> SyncNet_color:
    torch.manual_seed(0)
    return SyncNet_color(width=0.125).eval().requires_grad_(False)


def test_real_clips_have_the_figures_of_evaluation(clips, expert):
    expected = [sync.measure(expert, clip.faces, clip.mel.T, hparams.fps, clip.numbers) for clip in clips]
    found = whole_clips.of_real_clips(expert, clips, hparams.fps)
    assert found["lse_d"] == pytest.approx(np.mean([score.distance for score in expected]), abs=1e-6)
    assert found["lse_c"] == pytest.approx(np.mean([score.confidence for score in expected]), abs=1e-6)
    assert found["in_sync"] == np.mean([abs(score.offset) <= 1 for score in expected])


def test_generated_faces_come_from_their_speech_and_a_reference_half_a_clip_away(clips, expert):
    copying = Wav2Lip(width=0.5)
    initial.start_as_copy(copying)
    with torch.inference_mode():
        away = partial(whole_clips._half_a_clip_away, 0, clips[0])
        faces, numbers = whole_clips._generated(copying.eval(), clips[0], away, hparams.fps)
        found = whole_clips.of_generated_clips(copying, expert, clips, hparams.fps)
    assert numbers[0] == 1 and len(faces) == len(numbers) >= 25
    reference = np.roll(clips[0].faces, len(clips[0].faces) // 2, axis=0)[numbers]
    lower = slice(48, None)
    error = np.abs(faces[:, lower].astype(int) - reference[:, lower])
    others = np.abs(faces[:, lower].astype(int) - clips[0].faces[numbers][:, lower])
    assert error.mean() < others.mean()
    assert found.keys() == {"lse_d", "lse_c", "in_sync"} and np.isfinite(list(found.values())).all()


def test_a_generator_that_asks_for_fitting_references_is_shown_such(clips, expert, monkeypatch):
    copying, shown = Wav2Lip(width=0.125), []
    copying.reference = "fitting"

    def remember(self, clip, targets, places, rng):
        shown.append((self.clips[clip], self._hear is not None, places))
        return targets

    monkeypatch.setattr(matching.FittingReferences, "__call__", remember)
    with torch.inference_mode():
        whole_clips.of_generated_clips(copying.eval(), expert, clips, hparams.fps)
    assert {id(clip) for clip, heard, _ in shown} == set(map(id, clips)) and all(heard for _, heard, _ in shown)


def test_clips_that_cannot_be_measured_are_left_out(clips, expert):
    short = Clip(clips[0].folder, clips[0].numbers[:4], clips[0].mel, clips[0].faces[:4])
    assert whole_clips.of_real_clips(expert, [short], hparams.fps) == {}
    assert whole_clips.of_real_clips(expert, [short, clips[0]], hparams.fps).keys() == {"lse_d", "lse_c", "in_sync"}
