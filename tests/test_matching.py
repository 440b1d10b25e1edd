"""Samples whose speech fits the mouth, the loss on them, and an audio encoder that hears openings."""

import numpy as np
import pytest
import torch
from test_training import SMALL

from errors import InputError
from hparams import hparams
from models import SyncNet_color, Wav2Lip
from models.checkpoint import load_generator, save_checkpoint
from training import hearing, losses, matching
from training.clips import open_clips
from training.data import GeneratorDataset, collate
from training.matching import (
    ANY,
    CLOSED,
    OPEN,
    REFERENCES,
    TARGETS,
    FittingReferences,
    Matches,
    check_matched,
)
from training.memory import to_device
from training.stages import GeneratorStage

SIZE = (96, 96)


@pytest.fixture
def clips(toy, monkeypatch):
    monkeypatch.setattr(matching, "MIN_RANGE", 0.0)  # drawn mouths need not look open to a network that knows real ones
    data, lists = toy
    return open_clips(data, "train", hparams, 1, lists)


def matches(clips, seed=3):
    return Matches(clips, [clip.window_starts(25, 1) for clip in clips], 25, SIZE, seed)


def test_speech_fits_the_mouth_and_never_the_reference_alone(clips):
    found = matches(clips)
    closed, opened = [], []
    for draw in range(20):
        targets, references, mels = found.sample(0, np.random.default_rng(draw))
        assert targets.shape == references.shape == (5, *SIZE, 3) and mels.shape == (5, 80, 16)
        heard = [int((found._speech == mel).all((1, 2)).argmax()) for mel in mels]  # places among all, by openness
        for a, b in ((0, 2), (1, 3)):  # the same is wanted and said, whatever the reference
            assert np.array_equal(targets[a], targets[b]) and heard[a] == heard[b]
        assert np.array_equal(references[0], targets[0]) and np.array_equal(references[3], targets[3])
        assert np.array_equal(references[0], references[1]) and np.array_equal(references[2], references[3])
        assert (targets[:, :40] == targets[0, :40]).all()  # nothing above says which mouth it is
        closed.append(heard[0])
        opened.append(heard[1])
    assert max(closed) < min(opened)
    assert sorted(zip(REFERENCES, TARGETS, strict=True))[:4] == [(r, t) for r in (CLOSED, OPEN) for t in (CLOSED, OPEN)]
    assert REFERENCES[4] == TARGETS[4] == ANY


def test_draws_repeat(clips):
    first, again = (matches(clips).sample(0, np.random.default_rng(7)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_still_mouths_teach_nothing(clips, monkeypatch):
    monkeypatch.setattr(matching, "MIN_RANGE", 1.0)
    assert matches(clips).sample(0, np.random.default_rng(0)) is None


def test_loss_wants_the_speech_obeyed_and_the_reference_not_copied():
    torch.manual_seed(0)
    closed, opened = torch.full((2, 2, 3, 96, 96), 0.6)
    opened = opened.clone()
    opened[..., 66:84, 34:62] = 0.1
    mouths = {CLOSED: closed, OPEN: opened, ANY: closed}
    truth, copied = (torch.stack([mouths[mouth] for mouth in row], dim=2) for row in (TARGETS, REFERENCES))
    between = (truth + copied) / 2
    at_truth, at_mean, at_copy = (losses.matched_loss(faces, truth) for faces in (truth, between, copied))
    assert at_truth == 0 < at_mean < at_copy
    noise = truth.clone()
    noise[..., :40, :] = torch.rand(2, 3, 5, 40, 96)
    assert losses.matched_loss(noise, truth) < 0.05 * at_copy  # far from the mouth


def test_stage_learns_from_matched_samples_with_the_decoder_alone(clips):
    hp = hparams.override(
        f"{SMALL},matched_share=0.5,matched_wt=3,augment=True,hold_statistics=True,decoder_only=True,"
        "syncnet_wt=0.1,contrast_wt=0.1,lips_wt=0.1,spoken_over_share=0.5"
    )
    dataset = GeneratorDataset(clips, hp, seed=0, train=True)
    samples = [dataset[i] for i in range(6)]
    matched = [bool(sample["matched"]) for sample in samples]
    assert 0 < sum(matched) < 6
    assert all(np.array_equal(dataset[0][name], samples[0][name]) for name in samples[0])
    stage = GeneratorStage(hp, SyncNet_color(width=0.125))
    stage.train_mode()
    batch = to_device(stage.prepare(collate(samples)), torch.device("cpu"))
    assert not (batch["spoken_over"] & batch["matched"]).any()
    shown = stage.step(batch, lambda prefix, loss: loss.backward())
    assert {"matched", "sync", "contrast", "lips"} <= set(shown)
    network = stage.networks[""]
    assert all(weight.grad is None for weight in network.audio_encoder.parameters())
    assert all(weight.grad is None for weight in network.face_encoder_blocks.parameters())
    assert all(weight.grad is not None for weight in network.face_decoder_blocks.parameters())
    only = hp.override("matched_share=1")
    only_matched = collate([GeneratorDataset(clips, only, seed=0, train=True)[i] for i in range(2)])
    shown = stage.step(to_device(stage.prepare(only_matched), torch.device("cpu")), lambda prefix, loss: None)
    assert "sync" not in shown and torch.isfinite(shown["loss"])
    assert "matched" not in GeneratorDataset(clips, hp, seed=0, train=False)[0]


def test_what_cannot_be_matched_is_said():
    half = hparams.override("matched_share=0.5")
    check_matched(half, sharded=False)
    with pytest.raises(InputError, match="shards"):
        check_matched(half, sharded=True)
    with pytest.raises(InputError, match="shards"):
        check_matched(hparams.override("fitting_references=True"), sharded=True)
    with pytest.raises(InputError, match="0 to 1"):
        check_matched(hparams.override("matched_share=1.5"), sharded=False)
    with pytest.raises(InputError, match="contrast_wt"):
        check_matched(hparams.override("fitting_references=True,contrast_wt=0.1"), sharded=False)


@pytest.mark.parametrize("heard", [False, True])
def test_fitting_references_have_the_targets_pose_and_another_frames_mouth(clips, heard):
    fitting = FittingReferences(clips, 25, SIZE, distance=5, heard=heard)
    places = np.array([8, 9, 10, 11, 12])
    targets = np.stack([clips[0].face(at, SIZE) for at in places])
    references = fitting(0, targets, places, np.random.default_rng(0))
    assert references.shape == targets.shape and references.dtype == np.uint8
    assert np.array_equal(references[:, :40], targets[:, :40])
    again = fitting(0, targets, places, np.random.default_rng(0))
    assert np.array_equal(references, again)


def test_generators_that_learn_from_fitting_references_ask_for_them(clips):
    hp = hparams.override(f"{SMALL},fitting_references=True")
    generator = GeneratorStage(hp, SyncNet_color(width=0.125)).networks[""]
    assert generator.reference == "fitting"
    dataset = GeneratorDataset(clips, hp, seed=0, train=True)
    sample = dataset[0]
    assert np.array_equal(sample["reference"][:, :, :40], sample["target"][:, :, :40])
    plain = hparams.override(SMALL)
    assert GeneratorStage(plain, SyncNet_color(width=0.125)).networks[""].reference == "own"


def test_hearing_teaches_the_audio_encoder_alone(toy, tmp_path, monkeypatch, capsys):
    data, lists = toy
    monkeypatch.setattr(hearing, "BATCH", 32)
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "before.pth", Wav2Lip(width=0.125))
    words = ["hearing", "--data_root", data, "--filelists", lists, "--generator", tmp_path / "before.pth"]
    monkeypatch.setattr("sys.argv", [*map(str, [*words, "--outfile", tmp_path / "after.pth", "--steps", 8])])
    hearing.main()
    assert "correlation" in capsys.readouterr().out
    before, after = (load_generator(tmp_path / name) for name in ("before.pth", "after.pth"))
    changed = {
        name.split(".")[0]
        for (name, a), b in zip(before.state_dict().items(), after.state_dict().values(), strict=True)
        if not torch.equal(a, b)
    }
    assert changed == {"audio_encoder"}
