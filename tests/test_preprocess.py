"""preprocess.py as a user runs it: a tree of clips, good and bad, in, and a tree that training reads, out."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import ROOT
from media import noise, portrait, write_clip

import audio
from face_detection import FaceAlignment
from hparams import hparams
from lipsync.video import FrameReader
from training.data import load_clips


def preprocess(data_root, target, *more):
    command = [
        sys.executable,
        str(ROOT / "preprocess.py"),
        "--data_root",
        data_root,
        "--preprocessed_root",
        target,
        *more,
    ]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A tree with two good clips and six bad ones, preprocessed: (data root, target, finished process)."""
    root = tmp_path_factory.mktemp("pre process")
    data, target = root / "data", root / "out"
    face, nothing = portrait(), np.zeros((128, 128, 3), np.uint8)
    shown = [face] * 10 + [nothing] * 2 + [face] * 18
    write_clip(data / "a/00001.mp4", shown, noise(1.2))
    write_clip(data / "b/it's.a clip.mkv", [face] * 20, noise(0.8))
    write_clip(data / "bad/faceless.mp4", [nothing] * 8, noise(0.5))
    write_clip(data / "bad/mute.mp4", [face] * 8)
    write_clip(data / "bad/short.mp4", [face] * 8, noise(0.01))
    (data / "bad/empty.mp4").touch()
    (data / "bad/text.mp4").write_text("not a video")
    (data / "bad/notes.txt").write_text("no clip")
    half_done = target / "a/.part-00001"
    half_done.mkdir(parents=True)
    (half_done / "0.jpg").touch()
    return data, target, preprocess(data, target)


def test_good_clips_come_through_and_bad_ones_are_named(done):
    data, target, process = done
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    assert sorted(str(path.relative_to(target)) for path in target.glob("*/*")) == ["a/00001", "b/it's.a clip"]
    log = (target / "preprocess.log").read_text()
    for name, reason in {
        "bad/faceless": "no face in any frame",
        "bad/mute": "no audio stream",
        "bad/short": "200 ms",
        "bad/empty": "empty",
        "bad/text": "cannot be read as a video",
    }.items():
        (line,) = [line for line in log.splitlines() if line.startswith(name)]
        assert reason in line
        assert line in process.stdout


def test_crops_are_the_detected_faces_by_frame_number(done):
    data, target, _ = done
    numbers = sorted(int(path.stem) for path in (target / "a/00001").glob("*.jpg"))
    assert numbers == [*range(10), *range(12, 30)]  # frames without a face are left out
    frame = list(FrameReader(data / "a/00001.mp4"))[4]
    x1, y1, x2, y2 = FaceAlignment(face_detector="centerface").get_detections_for_batch(frame[None])[0]
    crop = cv2.imread(str(target / "a/00001/4.jpg"))
    assert crop.shape == (y2 - y1, x2 - x1, 3)
    assert np.abs(crop.astype(int) - frame[y1:y2, x1:x2]).mean() < 4


def test_mel_is_the_one_of_the_stored_audio(done):
    folder = done[1] / "a/00001"
    wav = audio.load_wav(folder / "audio.wav")
    assert abs(len(wav) / hparams.sample_rate - 1.2) < 0.1
    np.testing.assert_allclose(np.load(folder / "mel.npy").T, audio.melspectrogram(wav), atol=1e-4)


def test_training_reads_what_was_written(done, tmp_path):
    (tmp_path / "train.txt").write_text("a/00001\n")
    (clip,) = load_clips(done[1], "train", hparams, lead=1, filelists=tmp_path)
    assert clip.faces.shape == (28, 96, 96, 3)


def test_clips_done_are_skipped_and_missing_ones_made_again(done):
    data, target, _ = done
    untouched = (target / "a/00001/0.jpg").stat().st_mtime_ns
    for path in (target / "b/it's.a clip").iterdir():
        path.unlink()
    (target / "b/it's.a clip").rmdir()
    lists, shards = target.parent / "lists", target.parent / "shards"
    lists.mkdir()
    (lists / "train.txt").write_text("a/00001\n")
    more = ("--workers", 1, "--smooth", "--pads", 0, 5, 0, 0, "--shards", shards, "--filelists", lists)
    process = preprocess(data, target, *more)
    assert process.returncode == 0
    assert "train: 1 clips in 1 shards" in process.stdout
    (clip,) = load_clips(shards, "train", hparams, lead=1)
    assert clip.faces.shape == (28, 96, 96, 3)
    assert "1 of them done already" in process.stdout
    assert (target / "a/00001/0.jpg").stat().st_mtime_ns == untouched
    assert (target / "b/it's.a clip/audio.wav").is_file()


def test_nothing_usable_is_an_error(tmp_path):
    write_clip(tmp_path / "data/a/1.mp4", [np.zeros((64, 64, 3), np.uint8)] * 3, noise(0.5))
    process = preprocess(tmp_path / "data", tmp_path / "out")
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("error: no clip came through")
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize("data_root", ["missing", "empty"])
def test_bad_data_root_is_named(tmp_path, data_root):
    (tmp_path / "empty").mkdir()
    process = preprocess(tmp_path / data_root, tmp_path / "out")
    assert process.returncode == 1
    assert process.stderr.startswith("error: ")
    assert len(process.stderr.splitlines()) == 1


def test_s3fd_without_weights_is_told_before_any_work(done, tmp_path):
    if FaceAlignment(face_detector="auto").face_detector.__class__.__name__ == "SFDDetector":
        pytest.skip("S3FD's weights are installed here")
    process = preprocess(done[0], tmp_path / "out", "--face_detector", "sfd")
    assert process.returncode == 1
    assert "s3fd.pth" in process.stderr
    assert "Traceback" not in process.stderr
