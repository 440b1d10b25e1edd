"""Teachers of the expert: what they see and hear, what they learn, and an expert that learns from them."""

import importlib
import sys

import numpy as np
import pytest
import torch
from test_training import assert_same_weights, records
from toy import LIPS, make_data_set, write_labels

from errors import InputError
from hparams import hparams
from models.checkpoint import load_expert
from models.face_mesh import MIRRORED
from training import shards, teachers
from training import taught as taught_file
from training.labels import labels_paths
from training.losses import TeachersHeads

EXPERT = (
    "syncnet_width=0.125,syncnet_batch_size=8,syncnet_windows=4,num_workers=0,syncnet_loss=bce_pairs,eval_windows=1,"
    "syncnet_checkpoint_interval=1,syncnet_eval_interval=2"
)


def run(module, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", [module, *map(str, words)])
    importlib.import_module(module).main()


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A toy set with labels and what teachers make of it: (data root, file lists)."""
    data, lists = make_data_set(tmp_path_factory.mktemp("taught"), clips=10)
    write_labels(data, lists)
    with pytest.MonkeyPatch.context() as patch:
        run("training.teachers", patch, "--data_root", data, "--filelists", lists, "--steps", 60, "--device", "cpu")
    return data, lists


def test_lips_are_described_alike_wherever_they_are_and_in_a_mirror():
    lips = torch.from_numpy(LIPS).float()[None]
    angle = torch.tensor(0.4)
    turn = torch.tensor([[angle.cos(), angle.sin()], [-angle.sin(), angle.cos()]])
    moved = (lips - 0.5) @ turn + torch.tensor([0.55, 0.52])
    gaps = torch.tensor([0.1]), torch.tensor([0.2])
    first, second = (teachers.described(each, *gaps)[0] for each in (lips, moved))
    torch.testing.assert_close(first[:24], second[:24], rtol=0, atol=1e-4)
    assert first.shape == (teachers.SEEN,) and first[22:24].tolist() == pytest.approx([2, 4])
    assert (first[24:] - second[24:]).abs().max() > 0.05  # where the mouth is does differ
    uneven = lips.clone()
    uneven[:, 2] += torch.tensor([0.03, -0.05])
    mirrored = uneven * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
    points = teachers.described(mirrored[:, MIRRORED], *gaps)[0, :22].view(11, 2)
    expected = teachers.described(uneven, *gaps)[0, :22].view(11, 2)[MIRRORED, :] * torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(points, expected, rtol=0, atol=1e-4)
    assert teachers.described(lips, gaps[0], torch.tensor([float("nan")])).isnan().any()


def test_pairs_of_a_clip_are_told_apart_where_embeddings_say_so():
    class Data:
        first = start = torch.arange(20) * 5
        clip = torch.arange(20) // 10

    same = torch.eye(20)
    assert teachers.pair_accuracy(same, same, Data) == 1
    assert teachers.pair_accuracy(same, -same, Data) == 0
    Data.start = torch.zeros(20)  # all at one time: no pair is far enough apart
    assert np.isnan(teachers.pair_accuracy(same, same, Data))


def test_teachers_learn_and_say_what_they_make_of_every_window(taught):
    data, lists = taught
    clips = teachers.read_labelled(data, "train", lists, hparams)[0]
    of_clips = taught_file.read_taught(data, [len(clip.numbers) for clip in clips])
    assert [len(heard) for heard, _ in of_clips] == [30] * len(clips)
    heard, seen = (np.concatenate(rows) for rows in zip(*of_clips, strict=True))
    first = np.concatenate([30 * at + clip.window_starts(25, 0) for at, clip in enumerate(clips)])
    known = ~np.isnan(heard).any(1)
    assert np.array_equal(np.flatnonzero(known), first) and np.array_equal(~np.isnan(seen).any(1), known)
    assert np.linalg.norm(heard[known].astype(float), axis=1) == pytest.approx(1, abs=0.01)

    class Data:
        start, clip = torch.from_numpy(first), torch.from_numpy(first // 30)

    assert teachers.pair_accuracy(*(torch.from_numpy(rows[known]).float() for rows in (heard, seen)), Data) > 0.7


def test_expert_learns_from_teachers_and_resumes_exactly(taught, tmp_path, monkeypatch):
    def train(folder, *more):
        words = ["--data_root", taught[0], "--filelists", taught[1], "--checkpoint_dir", tmp_path / folder]
        hp = f"{EXPERT},teachers_wt=1,vary_voices=True,augment=True"
        run("color_syncnet_train", monkeypatch, *words, "--device", "cpu", "--hparams", hp, *more)

    train("a", "--steps", 2)
    first = tmp_path / "a/checkpoint_step000000001.pth"
    heads = first.with_name(f"heads_{first.name}")
    train("b", "--steps", 2, "--checkpoint_path", first, "--heads_checkpoint_path", heads)
    for prefix in ("", "heads_"):
        assert_same_weights(*(tmp_path / f"{run_}/{prefix}checkpoint_step000000002.pth" for run_ in "ab"))
    load_expert(tmp_path / "a/checkpoint_best.pth")
    assert records(tmp_path / "a", "val")


def test_heads_pull_embeddings_to_their_teachers_and_leave_out_what_is_unknown():
    torch.manual_seed(0)
    seen = torch.nn.functional.normalize(torch.randn(8, 16), dim=1)
    heads = TeachersHeads(16, 16)
    with torch.no_grad():
        for layer in (heads.to_seen, heads.to_heard, heads.as_heard):
            layer.weight.copy_(torch.eye(16))
    windows = torch.zeros(8, dtype=torch.long), 10 * torch.arange(8), 5
    agreed, wrong = (heads(made, seen, seen, seen, *windows).item() for made in (seen, seen.roll(1, 0)))
    assert agreed < 0.2 * wrong
    unknown = seen.clone()
    unknown[3:] = float("nan")
    made = seen.clone().requires_grad_()
    heads(made, seen, unknown, seen, *windows).backward()
    assert made.grad[:3].abs().sum() > 0 and made.grad[3:].abs().sum() == 0
    assert heads(seen, seen, torch.full_like(seen, float("nan")), seen, *windows).item() == 0


def test_what_is_missing_or_does_not_fit_is_said(taught, toy, tmp_path, monkeypatch):
    def train(data, lists, hp, *more):
        words = ["--data_root", data, "--filelists", lists, "--checkpoint_dir", tmp_path / "run", "--device", "cpu"]
        run("color_syncnet_train", monkeypatch, *words, "--steps", 1, "--hparams", f"{EXPERT},{hp}", *more)

    with pytest.raises(InputError, match=r"teachers_train.npz is missing.*training\.teachers"):
        train(*toy, "teachers_wt=1")
    with pytest.raises(InputError, match=r"training\.landmarks"):
        run("training.teachers", monkeypatch, "--data_root", toy[0], "--filelists", toy[1])
    with pytest.raises(InputError, match="--steps takes"):
        run("training.teachers", monkeypatch, "--data_root", taught[0], "--filelists", taught[1], "--steps", 1)
    for hp in ("syncnet_loss=bce,teachers_wt=1", "syncnet_loss=bce,vary_voices=True"):
        with pytest.raises(InputError, match="bce_pairs or infonce"):
            train(*taught, hp)
    for hp in ("augment=True", "teachers_wt=0"):
        with pytest.raises(InputError, match="goes with --hparams teachers_wt"):
            train(*taught, hp, "--heads_checkpoint_path", tmp_path / "x.pth")
    with pytest.raises(InputError, match="not of these 3 crops"):
        taught_file.read_taught(taught[0], [1, 2])
    shards.write_splits(taught[0], tmp_path / "shards", taught[1])
    with pytest.raises(InputError, match="shards"):
        train(tmp_path / "shards", taught[1], "teachers_wt=1")
    (tmp_path / "teachers_train.npz").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match="damaged.*again"):
        taught_file.read_taught(tmp_path, [3])


def test_nothing_is_learnt_where_no_lips_are_known(tmp_path, monkeypatch):
    data, lists = make_data_set(tmp_path)
    write_labels(data, lists)
    path = labels_paths(data, "train").lips
    np.save(path, np.full_like(np.load(path), np.nan))
    with pytest.raises(InputError, match="too few clips"):
        run("training.teachers", monkeypatch, "--data_root", data, "--filelists", lists, "--device", "cpu")
