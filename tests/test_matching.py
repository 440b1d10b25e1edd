"""References that fit the speech, in training."""

import numpy as np
import pytest
import torch
from test_training import SMALL

from errors import InputError
from hparams import hparams
from models import SyncNet_color
from training.clips import open_clips
from training.data import GeneratorDataset
from training.matching import FittingReferences, check_fitting
from training.stages import GeneratorStage

SIZE = (96, 96)


@pytest.fixture
def clips(toy):
    data, lists = toy
    return open_clips(data, "train", hparams, 1, lists)


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
