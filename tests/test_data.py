"""Windows and samples of training: what is drawn, from where, and that it is drawn the same again."""

import sys

import numpy as np
import pytest
import torch
from toy import make_clip

import audio
from benchmarks import __main__ as benchmarks
from benchmarks import loader
from errors import InputError
from hparams import hparams
from training.augment import colour_mixing, jitter
from training.clips import Clip, read_filelist
from training.data import (
    ExpertDataset,
    ExpertPairsDataset,
    GeneratorDataset,
    StepSampler,
    WindowSampler,
    load_clips,
)


@pytest.fixture(scope="module")
def clips(toy):
    return load_clips(toy[0], "train", hparams, lead=1, filelists=toy[1])


def test_file_lists_ignore_what_follows_a_space(toy):
    assert read_filelist("train", toy[1]) == ["s0/00002", "s1/00003", "s0/00004", "s1/00005"]


def test_windows_are_5_frames_that_all_exist_and_have_their_mel(tmp_path):
    make_clip(tmp_path / "a/1", seed=0, frames=40, missing=(7, 20))
    (tmp_path / "train.txt").write_text("a/1\n")
    clip = load_clips(tmp_path, "train", hparams, lead=0, filelists=tmp_path)[0]
    starts = clip.window_starts(25)
    assert set(starts) == {0, 1, 2} | set(range(8, 16)) | set(range(21, 36))
    assert clip.window_starts(25, lead=1)[0] == 1  # frame 0 has no mel one frame earlier
    assert all(int(80 * f / 25) + 16 <= len(clip.mel) for f in starts)


def test_mel_that_ends_early_ends_the_windows():
    clip = Clip(folder=None, numbers=np.arange(40), mel=np.zeros((80, 80), np.float32))
    assert clip.window_starts(25).max() == 20  # 80 x 20 / 25 + 16 = 80
    assert clip.window_starts(25, lead=1).max() == 17  # the last frame's mel starts at f + 3


def test_generator_sample_hears_one_frame_earlier(clips):
    dataset = GeneratorDataset(clips, hparams, seed=3, train=True)
    sample = dataset[11]
    assert sample["target"].shape == sample["reference"].shape == (3, 5, 96, 96)
    assert sample["target"].dtype == np.uint8
    assert sample["indiv_mels"].shape == (5, 1, 80, 16)
    np.testing.assert_array_equal(sample["indiv_mels"][1], sample["mel"])  # frame f + 1 hears the mel of f
    clip = clips[dataset.clip_of(11)]
    start, other = dataset.windows.draw(dataset.clip_of(11), np.random.default_rng((3, 11)))
    assert start != other
    np.testing.assert_array_equal(sample["mel"][0], clip.mel[int(80 * start / 25) :][:16].T)
    np.testing.assert_array_equal(sample["target"][:, 2], clip.faces[start + 2].transpose(2, 0, 1))
    np.testing.assert_array_equal(sample["reference"][:, 0], clip.faces[other].transpose(2, 0, 1))


def test_expert_sample_takes_other_faces_against_the_same_mel(clips):
    dataset = ExpertDataset(clips, hparams, seed=0, train=False)
    true, false = dataset[6], dataset[7]
    assert (true["label"], false["label"]) == (1, 0)
    np.testing.assert_array_equal(true["mel"], false["mel"])
    assert (true["faces"] != false["faces"]).any()
    assert true["faces"].shape == (15, 48, 96)
    start, _ = dataset.windows.draw(dataset.clip_of(3), np.random.default_rng((0, 3)))
    lower = clips[dataset.clip_of(3)].faces[start + 1][48:]
    np.testing.assert_array_equal(true["faces"][3:6], lower.transpose(2, 0, 1))  # second frame, time-major


def test_expert_labels_are_a_fair_coin(clips):
    dataset = ExpertDataset(clips, hparams, seed=0, train=True)
    labels = [dataset[i]["label"][0] for i in range(400)]
    assert 160 < sum(labels) < 240


def test_pairs_come_from_one_clip(clips):
    sample = ExpertPairsDataset(clips, hparams, seed=0, train=True)[5]
    assert sample["faces"].shape == (4, 15, 48, 96)
    assert len(set(sample["start"])) == 4
    assert len(set(sample["clip"])) == 1


def test_distance_between_windows_is_kept_where_it_can(clips):
    rng = np.random.default_rng(0)
    sampler = WindowSampler(clips, 25, lead=1, min_distance=8)
    assert all(abs(a - b) >= 8 for a, b in (sampler.draw(0, rng) for _ in range(200)))
    far = WindowSampler(clips, 25, lead=1, min_distance=100)
    assert all(a != b for a, b in (far.draw(0, rng) for _ in range(50)))


def test_samples_depend_on_seed_and_index_alone(clips):
    hp = hparams.override("augment=True")
    first, again = (GeneratorDataset(clips, hp, seed=1, train=True) for _ in range(2))
    again[0]  # another history
    np.testing.assert_array_equal(first[9]["target"], again[9]["target"])
    other = GeneratorDataset(clips, hp, seed=2, train=True)
    assert any((first[i]["mel"] != other[i]["mel"]).any() for i in range(4))


def test_an_epoch_visits_every_clip_once(clips):
    dataset = GeneratorDataset(clips, hparams, seed=0, train=True)
    n = len(clips)
    for epoch in range(3):
        assert sorted(dataset.clip_of(epoch * n + i) for i in range(n)) == list(range(n))


def test_a_resumed_sampler_goes_on_and_ranks_share_a_step():
    batches = iter(StepSampler(4))
    skipped = [next(batches) for _ in range(6)]
    assert next(iter(StepSampler(4, first_sample=16))) == skipped[4]
    ranks = [iter(StepSampler(2, first_sample=16, rank=rank, world_size=2)) for rank in range(2)]
    for batch in skipped[4:]:
        assert next(ranks[0]) + next(ranks[1]) == batch


def test_one_transform_for_a_whole_window(clips):
    hp = hparams.override("augment=True")
    still = Clip(clips[0].folder, clips[0].numbers, clips[0].mel, np.repeat(clips[0].faces[:1], 30, axis=0))
    target = GeneratorDataset([still], hp, seed=0, train=True)[0]["target"]
    assert (target[:, :1] == target).all()  # no false motion
    assert (target[:, 0] != still.faces[0].transpose(2, 0, 1)).any()


def test_colours_vary_alike_in_target_and_reference(clips):
    hp = hparams.override("augment=True,vary_colours=True")
    still = Clip(clips[0].folder, clips[0].numbers, clips[0].mel, np.repeat(clips[0].faces[:1], 30, axis=0))
    samples = [GeneratorDataset([still], hp, seed=0, train=True)[i] for i in range(6)]
    assert all(np.array_equal(sample["target"], sample["reference"]) for sample in samples)
    plain = GeneratorDataset([still], hparams.override("augment=True"), seed=0, train=True)
    assert all((sample["target"] != plain[i]["target"]).any() for i, sample in enumerate(samples))


def test_mixed_colours_keep_greys():
    np.testing.assert_allclose(colour_mixing(1, 0), np.eye(3), atol=1e-12)
    for saturation, hue in ((0.2, 25), (1.8, -25), (0, 10)):
        mixing = colour_mixing(saturation, hue)
        np.testing.assert_allclose(mixing.sum(1), 1)
        colour = mixing @ (30, 60, 90)
        assert (np.ptp(colour) > 60) == (saturation > 1) and np.ptp(colour) < 60 * saturation * 1.3 + 1e-9


def test_crops_are_decoded_on_demand_when_memory_is_short(toy, clips):
    lean = load_clips(toy[0], "train", hparams.override("cache_gb=0"), lead=1, filelists=toy[1])
    assert lean[0].faces is None
    np.testing.assert_array_equal(lean[0].window(3, (96, 96)), clips[0].window(3, (96, 96)))


@pytest.mark.parametrize("kind", [GeneratorDataset, ExpertDataset])
def test_samples_are_those_made_from_the_files_each_time(clips, kind):
    hp = hparams.override("contrast_wt=1")
    dataset = kind(clips, hp, loader.SEED, train=True)
    for index in (0, 5, 9):
        fast, slow = dataset[index], loader.PublishedWay(dataset)[index]
        assert fast.keys() == slow.keys()
        for name in fast:
            np.testing.assert_array_equal(fast[name], slow[name], err_msg=name)


def test_reference_is_heard_only_by_losses_that_need_it(clips):
    quiet = GeneratorDataset(clips, hparams, seed=0, train=True)[4]
    assert not any(name.startswith("reference_") for name in quiet)
    for need in ("contrast_wt=0.1", "spoken_over_share=0.5"):
        sample = GeneratorDataset(clips, hparams.override(need), seed=0, train=True)[4]
        assert sample["reference_indiv_mels"].shape == (5, 1, 80, 16)
        assert sample["reference_mel"].shape == (1, 80, 16)
        np.testing.assert_array_equal(sample["mel"], quiet["mel"])


def test_loader_benchmark_compares_three_ways(toy, monkeypatch, capsys):
    argv = ["benchmarks", "loader", "--data_root", toy[0], "--filelists", toy[1], "--samples", "16", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    benchmarks.main()
    shown = capsys.readouterr().out
    for line in ("generator: 2 clips", "expert: 2 clips", "on demand", "in memory", "times the published way"):
        assert line in shown


def test_stored_mel_is_used_and_a_missing_one_computed(toy, tmp_path):
    make_clip(tmp_path / "a/1", seed=0)
    (tmp_path / "train.txt").write_text("a/1\n")
    computed = load_clips(tmp_path, "train", hparams, lead=0, filelists=tmp_path)[0].mel
    np.testing.assert_array_equal(computed, audio.melspectrogram(audio.load_wav(tmp_path / "a/1/audio.wav")).T)
    np.save(tmp_path / "a/1/mel.npy", computed + 1)
    stored = load_clips(tmp_path, "train", hparams, lead=0, filelists=tmp_path)[0].mel
    np.testing.assert_array_equal(stored, computed + 1)


def test_no_usable_clip_is_told_with_reasons(tmp_path):
    make_clip(tmp_path / "a/short", seed=0, frames=15)
    make_clip(tmp_path / "a/gaps", seed=0, frames=40, missing=tuple(range(4, 40, 4)))
    make_clip(tmp_path / "a/mute", seed=0)
    (tmp_path / "a/mute/audio.wav").write_text("no sound")
    (tmp_path / "train.txt").write_text("a/short\na/gaps\na/mute\na/gone\n")
    with pytest.raises(InputError) as error:
        load_clips(tmp_path, "train", hparams, lead=0, filelists=tmp_path)
    for reason in ("1 with under 16 frames", "1 with under 2 windows", "1 without readable audio", "1 missing"):
        assert reason in str(error.value)


def test_bad_roots_and_lists_are_named(toy, tmp_path):
    with pytest.raises(InputError, match=r"train\.txt does not exist"):
        load_clips(toy[0], "train", hparams, lead=0, filelists=tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        load_clips(tmp_path / "none", "train", hparams, lead=0, filelists=toy[1])
    (tmp_path / "train.txt").write_text("\n")
    with pytest.raises(InputError, match="empty"):
        read_filelist("train", tmp_path)


def test_hparams_overrides():
    hp = hparams.override("batch_size=2, augment=true,initial_learning_rate=1e-3")
    assert (hp.batch_size, hp.augment, hp.initial_learning_rate) == (2, True, 1e-3)
    assert hparams.batch_size == 16
    for bad in ("batch_sise=2", "batch_size", "batch_size=two", "augment=maybe"):
        with pytest.raises(InputError):
            hparams.override(bad)


def test_jitter_moves_a_window_as_one_and_lets_gradients_through():
    torch.manual_seed(0)
    faces = torch.rand(3, 3, 1, 24, 24).expand(3, 3, 5, 24, 24).clone().requires_grad_()
    moved = jitter(faces, torch.rand(3, 5) * 2 - 1)
    assert moved.shape == faces.shape
    torch.testing.assert_close(moved[:, :, :1].expand_as(moved), moved)  # frames that were equal still are
    assert not torch.allclose(moved, faces, atol=0.05)
    moved.mean().backward()
    assert faces.grad.count_nonzero() > 0.5 * faces.numel()


def test_jitter_is_small():
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 96).view(1, 1, 1, 96, 1).expand(64, 3, 5, 96, 96)
    assert (jitter(ramp, torch.rand(64, 5) * 2 - 1) - ramp)[..., 20:-20, 20:-20].abs().max() < 0.2
