"""Frame rates other than 25: what a frame hears, which frames an expert sees, what data and checkpoints say."""

import importlib
import json
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from conftest import ROOT
from inference_setup import Painter, scene, stand_in
from media import noise, portrait, write_clip
from toy import make_clip

import audio
from errors import InputError
from evaluation import sync
from hparams import hparams
from lipsync.options import InferenceOptions
from lipsync.pipeline import mel_windows, run
from models import SyncNet_color, Wav2Lip
from models.checkpoint import load_expert, load_generator, save_checkpoint
from models.syncnet import window_frames
from training import pack
from training.clips import Clip, open_clips, stored_fps, write_facts
from training.data import GeneratorDataset, data_fps, load_clips

RATES = {"23.976": Fraction(24000, 1001), "29.97": Fraction(30000, 1001), "24": 24, "25": 25, "30": 30, "50": 50}
RATES |= {"60": 60}
MEL_FRAME = 1 / 80  # seconds


# Inference


@pytest.mark.parametrize("rate", RATES)
def test_5_minutes_of_windows_are_never_half_a_frame_off(rate):
    fps = float(RATES[rate])
    starts = np.array(audio.mel_window_starts(300 * 80 + 1, fps))
    assert len(starts) == pytest.approx(300 * fps, abs=fps / 4)
    off = starts / 80 - np.arange(len(starts)) / fps
    assert np.abs(off[:-1]).max() <= 0.5 / fps + 1e-9  # the last one is moved so that it fits
    early, late = off[: len(off) // 10], off[-len(off) // 10 : -1]
    assert early.mean() == pytest.approx(late.mean(), abs=1e-3)  # seconds: no drift


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("lead", [40.0, 20.0, 1000 / 30])
def test_what_a_frame_heard_in_training_it_hears_at_every_rate(rate, lead):
    fps = float(RATES[rate])
    frames = np.arange(round(300 * fps))
    starts = np.array([audio.mel_window_start(i, fps, -lead) for i in frames])
    off = starts / 80 - (frames / fps - lead / 1000)
    assert off.min() > -MEL_FRAME and off.max() <= 1e-6  # rounded down to the mel's grid, as in training


@pytest.mark.parametrize("fps", [24, 25, 30, 50, 60])
def test_at_its_own_rate_a_generator_hears_exactly_what_it_learnt_with(fps):
    frames = np.arange(1, 300 * fps)
    heard = [audio.mel_window_start(i, fps, -1000 / fps) for i in frames]
    np.testing.assert_array_equal(heard, audio.mel_starts(frames - 1, fps))


@pytest.mark.parametrize("fps", [24, 30, 60])
def test_time_stamps_of_a_result_are_in_step(tmp_path, monkeypatch, fps):
    painter = stand_in(monkeypatch, painter=Painter())
    write_clip(tmp_path / "face.mp4", [scene(i) for i in range(20)], fps=fps)
    sound = noise(4)
    audio.save_wav(sound, tmp_path / "speech.wav")
    options = InferenceOptions(
        tmp_path / "face.mp4",
        tmp_path / "speech.wav",
        outfile=tmp_path / "o.mp4",
        box=(20, 140, 60, 160),
        checkpoint_path=tmp_path / "none.pth",
    )
    result = run(options, workers=0)  # of several threads any may ask the painter first
    with av.open(str(result.outfile)) as container:
        stamps = np.array([float(frame.pts * frame.time_base) for frame in container.decode(video=0)])
    with av.open(str(result.outfile)) as container:
        heard = [float(frame.pts * frame.time_base) for frame in container.decode(audio=0)]
    assert np.abs(stamps - np.arange(result.frames) / fps).max() < 1e-4
    assert abs(heard[0]) <= 0.03  # an AAC frame at most
    assert stamps[-1] == pytest.approx(4 - 0.2, abs=2 / fps + MEL_FRAME)
    windows = mel_windows(audio.load_mel(tmp_path / "speech.wav"), Fraction(fps))
    assert all(np.array_equal(a, b) for a, b in zip(painter.mel_windows, windows, strict=True))


# The expert's five frames


def test_an_expert_takes_its_frames_by_time():
    assert window_frames(25, 25) == window_frames(50, 50) == (0, 1, 2, 3, 4)
    assert window_frames(50, 25) == (0, 2, 4, 6, 8)
    assert window_frames(60, 25) == (0, 2, 5, 7, 10)
    assert window_frames(25, 50) == (0, 1, 1, 2, 2)
    for fps in (24, 29.97, 50, 60):
        assert np.abs(np.array(window_frames(fps, 25)) / fps - np.arange(5) / 25).max() <= 0.5 / fps


def test_sync_metrics_at_twice_the_rate_are_those_of_every_other_frame():
    torch.manual_seed(0)
    expert = SyncNet_color(width=0.125).eval()
    mel = audio.melspectrogram(noise(1.2))
    faces = np.random.default_rng(0).integers(0, 255, (60, 96, 96, 3)).astype(np.uint8)
    fast = sync.distances(expert, faces, mel, 50)
    slow = sync.distances(expert, faces[::2], mel, 25)
    np.testing.assert_allclose(fast[::2, 15], slow[:, 15], atol=1e-5)  # offset 0


@pytest.fixture
def clip():
    faces = np.arange(80, dtype=np.uint8)[:, None, None, None] * np.ones((1, 96, 96, 3), np.uint8)
    mel = np.arange(200, dtype=np.float32)[:, None] * np.ones((1, 80), np.float32)
    return Clip(folder=None, numbers=np.arange(80), mel=mel, faces=faces)


def test_windows_and_their_sound_by_time(clip):
    hp = hparams.override("fps=50,contrast_wt=1,min_negative_distance=5")
    steps = window_frames(50, 25)
    dataset = GeneratorDataset([clip], hp, 0, True, steps)
    assert dataset.windows.starts[0].tolist() == list(range(1, 72))
    sample = dataset[3]
    shown = sample["target"][0, :, 0, 0].astype(int)
    assert np.diff(shown).tolist() == [2, 2, 2, 2]
    assert sample["mel"][0, 0, 0] == audio.mel_start(shown[0], 50)
    np.testing.assert_array_equal(sample["indiv_mels"][:, 0, 0, 0], audio.mel_starts(shown - 1, 50))
    other = int(sample["reference"][0, 0, 0, 0])
    assert abs(other - shown[0]) >= 10  # 200 ms


# What data and checkpoints say


def test_checkpoints_say_their_rate_where_it_is_not_the_published_one(tmp_path):
    for network, load in ((SyncNet_color(width=0.125), load_expert), (Wav2Lip(width=0.125), load_generator)):
        save_checkpoint(tmp_path / "published.pth", network)
        assert load(tmp_path / "published.pth").fps == 25
        network.fps = 30.0
        save_checkpoint(tmp_path / "other.pth", network)
        assert load(tmp_path / "other.pth").fps == 30


def test_training_at_another_rate(tmp_path, monkeypatch):
    data, runs = tmp_path / "data", tmp_path / "runs"
    data.mkdir()
    write_facts(data, 50)
    for i in range(2):
        make_clip(data / f"a/{i}", seed=i, frames=40)
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text("a/0\na/1\n")
    small = "batch_size=2,syncnet_batch_size=2,generator_width=0.125,syncnet_width=0.125,num_workers=0,eval_windows=1"

    def train(script, *argv, fps):
        argv = ["--data_root", data, "--filelists", tmp_path, "--device", "cpu", "--steps", 1, *argv]
        monkeypatch.setattr(sys, "argv", [script, *map(str, argv), "--hparams", f"{small},fps={fps}"])
        importlib.import_module(script).main()

    with pytest.raises(InputError, match="has 50 frames a second, not 25: use --hparams fps=50"):
        train("color_syncnet_train", "--checkpoint_dir", runs / "expert", fps=25)
    train("color_syncnet_train", "--checkpoint_dir", runs / "expert", fps=50)
    expert = runs / "expert/checkpoint_step000000001.pth"
    assert load_expert(expert).fps == 50
    train("wav2lip_train", "--checkpoint_dir", runs / "gen", "--syncnet_checkpoint_path", expert, fps=50)
    generator = load_generator(runs / "gen/checkpoint_step000000001.pth")
    assert (generator.fps, generator.mel_lead_ms) == (50, 20)
    with pytest.raises(InputError, match="fps must be frames a second from 1 to 480"):
        train("color_syncnet_train", "--checkpoint_dir", runs / "x", fps=0)


def test_packs_say_their_rate(tmp_path):
    make_clip(tmp_path / "a/1", seed=0, frames=40)
    (tmp_path / "train.txt").write_text("a/1\n")
    hp = hparams.override("fps=50")
    clips = open_clips(tmp_path, "train", hp, filelists=tmp_path)
    pack.write_pack(clips, tmp_path / "packed", "train", hp)
    assert data_fps(tmp_path / "packed", "train") == 50
    assert data_fps(tmp_path, "train") == 25  # it does not say
    with pytest.raises(InputError, match="use --hparams fps=50"):
        load_clips(tmp_path / "packed", "train", hparams, lead=1)


def test_preprocessing_to_another_rate(tmp_path):
    write_clip(tmp_path / "data/a/1.mp4", [portrait()] * 8, noise(0.4))
    command = [sys.executable, str(ROOT / "preprocess.py"), "--data_root", tmp_path / "data"]
    command += ["--preprocessed_root", tmp_path / "out", "--workers", 1, "--fps", 50]
    subprocess.run(list(map(str, command)), capture_output=True, check=True)
    assert sorted(int(path.stem) for path in (tmp_path / "out/a/1").glob("*.jpg")) == list(range(16))
    assert stored_fps(tmp_path / "out") == 50
    with pytest.raises(InputError, match="begun at 50 frames a second"):
        write_facts(tmp_path / "out", 25)


def test_damaged_facts_of_a_tree_are_named(tmp_path):
    (tmp_path / "data.json").write_text(json.dumps({"rate": 3}))
    with pytest.raises(InputError, match=r"data\.json is damaged"):
        stored_fps(tmp_path)
    make_clip(tmp_path / "older/a/1", seed=0)
    with pytest.raises(InputError, match="begun at 25"):
        write_facts(tmp_path / "older", 30)
