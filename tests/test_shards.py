"""Shards: what a preprocessed tree gives back after it went through tar files, and what is said of lost ones."""

import importlib
import itertools
import json
import sys
import tarfile

import numpy as np
import pytest
from torch.utils.data import DataLoader
from toy import make_clip, make_data_set

from errors import InputError
from hparams import hparams
from training import shards
from training.data import ExpertPairsDataset, GeneratorDataset, collate, data_fps, load_clips, training_set
from training.shards import clips_of, shard_set, write_shards
from training.stream import ShardStream

SMALL = "generator_width=0.125,syncnet_width=0.125,eval_windows=1,batch_size=2,syncnet_batch_size=4,shard_buffer=3"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """12 clips, 10 of them for training: (data root, file lists)."""
    return make_data_set(tmp_path_factory.mktemp("tree"), clips=12)


@pytest.fixture(scope="module")
def sharded(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    shards.write_splits(tree[0], folder, tree[1], clips_a_shard=2)
    return folder


def stream(folder, overrides="shard_buffer=3", kind=GeneratorDataset, filelists=None):
    return training_set(folder, hparams.override(overrides), filelists, 0, kind)


def copy(folder, target):
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def names_of(sample_stream, count):
    """Clips that `count` samples come from."""
    seen = []
    make = sample_stream._make

    def spying(clips):
        windows = make(clips)
        draw = windows.sample
        windows.sample = lambda at, rng: (seen.append(str(windows.clips[at].folder)), draw(at, rng))[1]
        return windows

    sample_stream._make = spying
    list(itertools.islice(sample_stream, count))
    return seen


def test_shards_give_back_the_clips_exactly(tree, sharded):
    names = {path.name for path in sharded.glob("[!.]*")}
    assert names == {
        "train-shards.json",
        "val-shards.json",
        "val-000000.tar",
        *(f"train-{i:06d}.tar" for i in range(5)),
    }
    before = {clip.folder.parts[-1]: clip for clip in load_clips(tree[0], "train", hparams, 1, tree[1])}
    clips = load_clips(sharded, "train", hparams, 1)
    assert {clip.folder.parts[-1] for clip in clips} == before.keys()
    for clip in clips:
        same = before[clip.folder.parts[-1]]
        assert clip.folder.parts[-2] == same.folder.parts[-2]
        np.testing.assert_array_equal(clip.numbers, same.numbers)
        np.testing.assert_array_equal(clip.mel, same.mel)
        np.testing.assert_array_equal(clip.faces, same.faces)
    assert data_fps(sharded, "train") == 25


def test_members_are_named_as_webdataset_reads_them(tmp_path):
    make_clip(tmp_path / "a/b.c", seed=0, frames=20, missing=(7,))
    (tmp_path / "train.txt").write_text("a/b.c\n")
    write_shards(tmp_path, tmp_path / "out", "train", tmp_path)
    with tarfile.open(tmp_path / "out/train-000000.tar") as tar:
        names = tar.getnames()
    assert names[0] == "a/b_c.000000.jpg" and names[-1] == "a/b_c.mel.npy" and len(names) == 20
    webdataset = pytest.importorskip("webdataset")
    (sample,) = webdataset.WebDataset(str(tmp_path / "out/train-000000.tar"), shardshuffle=False).decode("rgb8")
    assert sample["__key__"] == "a/b_c"
    assert sample["000003.jpg"].shape == (96, 96, 3) and sample["mel.npy"].shape[1] == 80


def test_every_epoch_takes_as_many_samples_of_each_clip(sharded):
    samples = stream(sharded, "shard_buffer=1,shard_visits=2")
    assert isinstance(samples, ShardStream)
    assert samples.epoch_size == 20
    names = names_of(samples, 40)
    for epoch in (names[:20], names[20:]):
        assert {epoch.count(name) for name in epoch} == {2} and len(set(epoch)) == 10
    assert names[:20] != names[20:]  # reshuffled


def test_buffer_mixes_clips(sharded):
    names = names_of(stream(sharded, "shard_buffer=5,shard_visits=4"), 20)
    assert len(set(names[:6])) > 2
    assert any(a != b for a, b in zip(names[::4], names[3::4], strict=True))


def test_samples_are_those_of_the_same_code(sharded):
    for kind, shape in ((GeneratorDataset, (3, 5, 96, 96)), (ExpertPairsDataset, (4, 15, 48, 96))):
        sample = next(iter(stream(sharded, "augment=True,shard_buffer=3", kind)))
        assert sample["target" if kind is GeneratorDataset else "faces"].shape == shape


def test_ranks_and_loader_processes_take_disjoint_shards(sharded):
    taken = []
    for rank in range(2):
        for worker in range(2):
            samples = stream(sharded)
            assert samples.share(0, rank, 2) == 2
            reader = samples._clips(rank * 2 + worker, 4)
            count = 4 if rank * 2 + worker == 0 else 2  # 5 shards of 2 clips for 4 readers
            taken += [str(next(reader).folder) for _ in range(count)]
    assert len(taken) == len(set(taken)) == 10
    with pytest.raises(InputError, match="5 shards are too few for 6 processes"):
        stream(sharded).share(0, 0, 6)


def test_loader_processes_stream(sharded):
    loader = DataLoader(stream(sharded), batch_size=4, num_workers=2, collate_fn=collate)
    batches = list(itertools.islice(loader, 3))
    assert all(batch["target"].shape == (4, 3, 5, 96, 96) for batch in batches)


@pytest.mark.parametrize("damage", ["lost", "cut", "garbage", "empty"])
def test_lost_or_damaged_shard_is_named_and_training_goes_on(sharded, tmp_path, capsys, damage):
    copy(sharded, tmp_path)
    path = tmp_path / "train-000002.tar"
    if damage == "lost":
        path.unlink()
    else:
        content = path.read_bytes()
        half = len(content) // 2
        path.write_bytes({"cut": content[: half + 100], "garbage": content[:half] + b"x" * half, "empty": b""}[damage])
    names = names_of(stream(tmp_path, "shard_buffer=1,shard_visits=1"), 40)
    assert len(set(names)) in (8, 9)
    said = capsys.readouterr().err
    assert "train-000002.tar is " + ("missing" if damage == "lost" else "damaged") in said
    assert "train-000001" not in said


def test_damaged_crop_is_named_and_its_clip_left(sharded, tmp_path, capsys):
    copy(sharded, tmp_path)
    path = tmp_path / "train-000000.tar"
    content = path.read_bytes().replace(b"\xff\xd8\xff", b"\x00\x00\x00", 30)  # the first clip's pictures
    path.write_bytes(content)
    assert len(set(names_of(stream(tmp_path, "shard_buffer=1,shard_visits=1"), 60))) == 10
    assert "cannot be read" in capsys.readouterr().err


def test_no_shard_left_is_an_error(sharded, tmp_path):
    copy(sharded, tmp_path)
    for path in tmp_path.glob("train-*.tar"):
        path.unlink()
    with pytest.raises(InputError, match="holds a usable clip"):
        next(iter(stream(tmp_path)))
    (tmp_path / "train-shards.json").write_text("{}")
    with pytest.raises(InputError, match="is damaged"):
        shard_set(tmp_path, "train")


def test_writing_goes_on_and_takes_in_clips_that_came_since(tmp_path, capsys):
    for i in range(3):
        make_clip(tmp_path / f"a/{i}", seed=i, frames=20)
    make_clip(tmp_path / "a/short", seed=0, frames=10)
    (tmp_path / "train.txt").write_text("a/0\na/1\na/2\na/late\na/short\n")
    out = tmp_path / "out"
    first = write_shards(tmp_path, out, "train", tmp_path, clips_a_shard=2)
    assert first.clips == 3
    assert "1 missing" in capsys.readouterr().out
    written = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    (out / "train-000000.tar").unlink()
    make_clip(tmp_path / "a/late", seed=9, frames=20)
    second = write_shards(tmp_path, out, "train", tmp_path, clips_a_shard=2)
    assert second.clips == sum(len(list(clips_of(shard))) for shard in second.shards) == 4
    assert sum(path.stat().st_mtime_ns == written.get(path.name) for path in out.glob("*.tar")) >= 1
    assert not list(out.glob("*.part"))
    (tmp_path / "train.txt").write_text("a/gone\n")
    with pytest.raises(InputError, match="1 missing"):
        write_shards(tmp_path, tmp_path / "none", "train", tmp_path)


@pytest.mark.parametrize("workers", [2])
def test_training_script_takes_shards_and_resumes(sharded, tmp_path, monkeypatch, workers):
    def train(*more):
        argv = ["--data_root", sharded, "--checkpoint_dir", tmp_path, "--device", "cpu", *more]
        hp = f"{SMALL},num_workers={workers},syncnet_loss=infonce,syncnet_checkpoint_interval=2"
        monkeypatch.setattr(sys, "argv", ["color_syncnet_train", *map(str, argv), "--hparams", hp])
        importlib.import_module("color_syncnet_train").main()

    train("--steps", 2)
    train("--steps", 3, "--checkpoint_path", tmp_path / "checkpoint_step000000002.pth")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "val"] == [2, 3]
