"""References that fit the speech, in training."""

import shutil

import numpy as np
import pytest
import torch
from test_training import SMALL
from toy import make_data_set, write_labels

from audio import MEL_STEP_SIZE, mel_start
from errors import InputError
from hparams import hparams
from models import SyncNet_color
from models.checkpoint import load_face_mesh
from models.face_mesh import FaceMesh
from mouths.shapes import opening_of
from training.clips import open_clips
from training.data import GeneratorDataset, load_clips
from training.labels import labels_paths
from training.matching import FittingReferences, check_fitting
from training.stages import GeneratorStage

SIZE = (96, 96)


@pytest.fixture
def clips(toy):
    data, lists = toy
    return open_clips(data, "train", hparams, lists)


def test_what_cannot_be_made_to_fit_is_said():
    fitting = hparams.override("fitting_references=True")
    check_fitting(fitting, sharded=False)
    with pytest.raises(InputError, match="shards"):
        check_fitting(fitting, sharded=True)
    with pytest.raises(InputError, match="contrast_wt"):
        check_fitting(fitting.override("contrast_wt=0.1"), sharded=False)


@pytest.mark.parametrize("heard", [False, True])
def test_fitting_references_have_the_targets_pose_and_another_frames_mouth(clips, heard):
    fitting = FittingReferences(clips, 25, SIZE, distance=5, heard=heard)
    places = np.array([8, 9, 10, 11, 12])
    targets = np.stack([clips[0].face(at, SIZE) for at in places])
    references = fitting(0, targets, places, np.random.default_rng(0))
    assert references.shape == targets.shape and references.dtype == np.uint8
    assert np.array_equal(references[:, :40], targets[:, :40])
    with torch.autocast("cpu", torch.bfloat16):  # evaluation is in it
        again = FittingReferences(clips, 25, SIZE, 5, heard)(0, targets, places, np.random.default_rng(0))
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


def test_lips_that_landmarks_found_are_not_looked_for_again(toy, tmp_path, monkeypatch, capsys):
    data, lists = tmp_path / "data", toy[1]
    shutil.copytree(toy[0], data)
    hp = hparams.override("fitting_references=True")
    mesh, lips = load_face_mesh(), labels_paths(data, "train").lips
    unlabelled = load_clips(data, "train", hp, 1, lists)
    found = [mesh.lips_of(clip.face(at, SIZE)) for clip in unlabelled for at in range(len(clip.numbers))]
    found[0] = np.full((11, 2), np.nan)
    np.save(lips, np.array(found, np.float32))
    looked = []
    look = FaceMesh.lips_of
    monkeypatch.setattr(FaceMesh, "lips_of", lambda mesh, face: looked.append(face) or look(mesh, face))
    labelled = load_clips(data, "train", hp, 1, lists)
    shown, before = (FittingReferences(clips, 25, SIZE, 5, False)._look_at(0) for clips in (labelled, unlabelled))
    assert len(looked) == 1 + len(unlabelled[0].numbers), "what has no face for landmarks, and all without them"
    assert np.allclose(shown.lips, before.lips, atol=1e-6) and np.array_equal(shown.poses, before.poses)
    short = labelled[1].folder / "mel.npy"
    enough = mel_start(1, 25) + MEL_STEP_SIZE  # for two windows of an expert and none of a generator
    np.save(short, labelled[1].mel[:enough])
    fewer = load_clips(data, "train", hp, 1, lists)
    assert len(fewer) == len(labelled) - 1 and all(clip.lips is not None for clip in fewer)
    assert f"{len(fewer)} of {len(labelled)} clips" in capsys.readouterr().out
    short.unlink()
    looked.clear()
    FittingReferences(labelled, 25, (128, 128), 5, False)._look_at(0)
    assert len(looked) == len(labelled[0].numbers), "lips of other pixels"
    assert all(clip.lips is None for clip in load_clips(data, "train", hparams, 1, lists)), "lips that are not needed"
    np.save(lips, np.array(found[1:], np.float32))
    assert load_clips(data, "train", hp, 1, lists)[0].lips is None
    assert "looked for anew" in capsys.readouterr().out
    lips.write_bytes(b"no array")
    with pytest.raises(InputError, match="damaged.*again"):
        load_clips(data, "train", hp, 1, lists)


def test_windows_with_open_mouths_are_drawn_as_often_as_is_asked(tmp_path):
    data, lists = make_data_set(tmp_path)
    hp = hparams.override("fitting_references=True,opened_share=0.5")
    with pytest.raises(InputError, match=r"training\.landmarks"):
        GeneratorDataset(load_clips(data, "train", hp, 1, lists), hp, seed=0, train=True)
    write_labels(data, lists)
    clips = load_clips(data, "train", hp, 1, lists)
    dataset = GeneratorDataset(clips, hp, seed=0, train=True)
    openings = {id(clip): np.array([opening_of(lips, SIZE) for lips in clip.lips]) for clip in clips}

    def opening(clip: int, start: int) -> float:
        at = np.searchsorted(clips[clip].numbers, start)
        return openings[id(clips[clip])][at : at + 5].mean()

    rng = np.random.default_rng(0)
    drawn = np.array([opening(*dataset.opened.draw(rng)) for _ in range(2000)])
    every = np.array([opening(at, start) for at in range(len(clips)) for start in dataset.windows.starts[at]])
    assert np.isclose(drawn.mean(), (every**3).sum() / (every**2).sum(), rtol=0.05)
    assert all(np.array_equal(value, dataset[3][name]) for name, value in dataset[3].items())
    assert GeneratorDataset(clips, hp, seed=0, train=False).opened is None
    for clip in clips:
        clip.lips = np.full_like(clip.lips, np.nan)
    with pytest.raises(InputError, match="no mouth"):
        GeneratorDataset(clips, hp, seed=0, train=True)
    with pytest.raises(InputError, match="opened_share"):
        check_fitting(hparams.override("opened_share=0.5"), sharded=False)
