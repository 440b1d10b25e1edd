"""Inference end to end: the published system's numbers, and what this toolkit adds."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import media
import numpy as np
import pytest
import torch
from parity_fill import fill

import audio
import inference
from errors import InputError
from face_detection import FaceAlignment
from lipsync.pipeline import InferenceOptions, mel_windows, run
from lipsync.video import FrameReader, VideoWriter
from models import Wav2Lip
from models.checkpoint import save_checkpoint

BOX = (30, 100, 40, 100)  # top, bottom, left, right


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A small generator that says anything."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    save_checkpoint(path, Wav2Lip(width=0.25))
    return path


@pytest.fixture(scope="session")
def published_weights(tmp_path_factory) -> Path:
    """A generator of the published size, filled as the parity vectors were."""
    network = Wav2Lip()
    network.load_state_dict(fill(network.state_dict()))
    path = tmp_path_factory.mktemp("weights") / "published.pth"
    save_checkpoint(path, network)
    return path


@pytest.fixture(scope="session")
def speech(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    audio.save_wav(media.noise(1.0), path)
    return path


@pytest.fixture(scope="session")
def word(tmp_path_factory) -> Path:
    """Speech of a few frames."""
    path = tmp_path_factory.mktemp("speech") / "word.wav"
    audio.save_wav(media.noise(0.4), path)
    return path


def scene(height: int = 128, width: int = 160, left: int = 30, size: int = 100) -> np.ndarray:
    """A face on a plain ground."""
    frame = np.full((height, width, 3), 90, np.uint8)
    frame[height - size :, left : left + size] = media.portrait(size)
    return frame


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """A face that moves to the right: 30 frames, 25 a second, exact pixels."""
    return write(tmp_path_factory.mktemp("clip") / "clip.mkv", [scene(left=20 + i) for i in range(30)])


def write(path: Path, frames, fps: float = 25) -> Path:
    with VideoWriter(path, frames[0].shape[:2], fps, lossless=path.suffix == ".mkv") as writer:
        for frame in frames:
            writer.write(frame)
    return path


def lossless(tmp_path: Path, **options) -> list[np.ndarray]:
    result = run(InferenceOptions(outfile=tmp_path / "out.mkv", lossless=True, **options))
    frames = list(FrameReader(result.outfile))
    assert len(frames) == result.frames
    return frames


def assert_equal_but_rounding(frames: np.ndarray, expected: np.ndarray) -> None:
    difference = np.abs(frames.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.999


# The published system


@pytest.mark.parametrize(
    "name, options",
    [
        ("frames_box", {"box": (20, 116, 40, 130)}),
        ("frames_cropped", {"box": (4, 60, 6, 70), "resize_factor": 2, "crop": (0, 64, 8, 80)}),
        ("frames_looped", {"box": (20, 116, 40, 130), "audio": "speech_long.wav"}),
    ],
)
def test_frames_equal_the_published_systems(parity, published_weights, tmp_path, name, options):
    options = {**options, "audio": parity / options.get("audio", "speech.wav")}
    frames = lossless(tmp_path, face=parity / "face.mkv", checkpoint_path=published_weights, blend="paste", **options)
    expected = np.load(parity / f"{name}.npz")
    assert len(frames) == int(expected["count"] if "count" in expected else len(expected["frames"]))
    first, step = (int(expected[key]) if key in expected else None for key in ("first", "step"))
    kept = np.stack(frames[first::step][: len(expected["frames"])])
    assert_equal_but_rounding(kept, expected["frames"])


def test_detected_boxes_are_the_published_ones(clip, speech, weights, tmp_path):
    frames = list(FrameReader(clip))
    found = FaceAlignment(face_detector="centerface").get_detections_for_batch(np.stack(frames))
    boxes = np.array(found)
    boxes[:, 3] = np.minimum(boxes[:, 3] + 10, 128)  # --pads 0 10 0 0
    boxes[:, 2] = np.minimum(boxes[:, 2], 160)
    windows = audio.mel_window_starts(audio.melspectrogram(audio.load_wav(speech)).shape[1], 25)
    boxes = boxes[: len(windows)]
    for i in range(len(boxes)):
        boxes[i] = np.mean(boxes[i : i + 5] if i + 5 <= len(boxes) else boxes[len(boxes) - 5 :], axis=0)
    every = {"det_every": 1, "face_detector_size": 0}
    made = lossless(tmp_path, face=clip, audio=speech, checkpoint_path=weights, blend="paste", **every)
    assert len(made) == len(windows)
    for frame, original, (x1, y1, x2, y2) in zip(made, frames, boxes, strict=False):
        changed = np.argwhere((frame != original).any(axis=2))
        assert (changed.min(axis=0) >= (y1, x1)).all()
        assert (changed.max(axis=0) < (y2, x2)).all()
        assert len(changed) > 0.9 * (y2 - y1) * (x2 - x1)


def test_batch_size_changes_rounding_only(clip, word, weights, tmp_path):
    options = {"face": clip, "audio": word, "checkpoint_path": weights, "box": BOX}
    whole = np.stack(lossless(tmp_path, **options))
    parts = np.stack(lossless(tmp_path, wav2lip_batch_size=3, face_det_batch_size=1, **options))
    assert_equal_but_rounding(parts, whole)


# Geometry and time


def test_rotation_turns_clockwise_before_crop_and_box(clip, speech, weights, tmp_path):
    frames = lossless(
        tmp_path,
        face=clip,
        audio=speech,
        checkpoint_path=weights,
        rotate=True,
        crop=(10, -1, 0, 100),
        box=(0, 40, 20, 80),
        blend="paste",
    )
    expected = cv2.rotate(next(iter(FrameReader(clip))), cv2.ROTATE_90_CLOCKWISE)[10:, :100]
    assert frames[0].shape == expected.shape
    assert np.array_equal(frames[0][40:], expected[40:])
    assert not np.array_equal(frames[0][:40, 20:80], expected[:40, 20:80])


def test_result_keeps_rate_and_size_and_lasts_as_long_as_the_speech(speech, weights, tmp_path):
    rate = Fraction(30000, 1001)
    face = write(tmp_path / "odd.mkv", [scene(131, 161)] * 4, rate)
    result = run(
        InferenceOptions(face=face, audio=speech, checkpoint_path=weights, outfile=tmp_path / "a" / "o.mp4", box=BOX)
    )
    reader = FrameReader(result.outfile)
    assert (reader.height, reader.width, reader.fps) == (131, 161, rate)
    mel = audio.melspectrogram(audio.load_wav(speech))
    assert result.frames == sum(1 for _ in reader) == len(audio.mel_window_starts(mel.shape[1], float(rate)))
    with av.open(str(result.outfile)) as container:
        assert container.duration / av.time_base == pytest.approx(1.0, abs=0.05)


def test_rotation_metadata_gives_an_upright_result(speech, weights, tmp_path):
    face = tmp_path / "phone.mp4"
    with av.open(str(face), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.set_display_rotation(90)
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(scene(64, 96, 0, 64), format="bgr24")))
        container.mux(stream.encode())
    options = {"audio": speech, "checkpoint_path": weights, "box": (0, 40, 0, 40)}
    result = run(InferenceOptions(face=face, outfile=tmp_path / "out.mp4", **options))
    reader = FrameReader(result.outfile)
    assert (reader.height, reader.width) == (96, 64)
    with av.open(str(result.outfile)) as container:
        assert not next(container.decode(video=0)).rotation


@pytest.mark.parametrize("words, still", [(["--static"], True), (["--static", "True"], True), ([], False)])
def test_static_uses_the_first_frame_only(clip, speech, weights, tmp_path, words, still):
    out = tmp_path / "out.mkv"
    common = ["--audio", str(speech), "--checkpoint_path", str(weights), "--box", *map(str, BOX)]
    inference.main(["--face", str(clip), "--outfile", str(out), "--lossless", *common, *words])
    frames = list(FrameReader(out))
    outside = np.s_[:, 101:]
    same = all(np.array_equal(frame[outside], frames[0][outside]) for frame in frames)
    assert same == still


def test_a_picture_is_static_at_the_rate_asked_for(speech, weights, tmp_path):
    face = tmp_path / "my.face.v2.PNG"
    cv2.imencode(".png", scene())[1].tofile(face)
    options = {"face": face, "audio": speech, "checkpoint_path": weights, "fps": 12.5}
    result = run(InferenceOptions(outfile=tmp_path / "out.mp4", **options))
    assert FrameReader(result.outfile).fps == 12.5
    assert result.frames == pytest.approx(12.5, abs=2)
    assert result.faceless == ()


def test_video_ignores_fps(clip, speech, weights, tmp_path):
    options = {"face": clip, "audio": speech, "checkpoint_path": weights, "box": BOX, "fps": 12.5}
    assert run(InferenceOptions(outfile=tmp_path / "out.mp4", **options)).fps == 25


def test_audio_shift_moves_the_windows(speech):
    rate = Fraction(25)
    at_once, later, earlier = (mel_windows(audio.load_mel(speech), rate, shift) for shift in (0, 100, -100))
    assert len(at_once) == len(later) == len(earlier)
    mel = audio.melspectrogram(audio.load_wav(speech))
    starts = audio.mel_window_starts(mel.shape[1], 25)
    for i, start in enumerate(starts):
        assert np.array_equal(at_once[i], mel[:, start : start + 16])
        ahead = min(start + 8, mel.shape[1] - 16)
        assert np.array_equal(later[i], mel[:, ahead : ahead + 16])
        behind = max(int(i * 3.2) - 8, 0)  # the last frame too hears what was at its own time
        assert np.array_equal(earlier[i], mel[:, behind : behind + 16])


# Faces that come and go


def test_faceless_spans_keep_frames_and_are_reported(speech, weights, tmp_path, capsys):
    empty = np.full((128, 160, 3), 90, np.uint8)
    face = write(tmp_path / "face.mkv", [scene()] * 4 + [empty] * 2 + [scene()] * 3 + [empty] * 14)
    out = tmp_path / "out.mkv"
    common = ["--face", str(face), "--audio", str(speech), "--checkpoint_path", str(weights)]
    inference.main([*common, "--outfile", str(out), "--lossless"])
    frames = list(FrameReader(out))
    mel_frames = audio.melspectrogram(audio.load_wav(speech)).shape[1]
    assert len(frames) == len(audio.mel_window_starts(mel_frames, 25)) == 22
    for i, frame in enumerate(frames):
        assert np.array_equal(frame, empty if i >= 9 else scene()) == (i >= 9), i  # 4 and 5 are bridged
    told = [line for line in capsys.readouterr().out.splitlines() if "no face" in line]
    assert len(told) == 1
    assert "0.36-0.88 s" in told[0]
    with pytest.raises(InputError, match=r"frame 4 .*--no_face keep"):
        inference.main([*common, "--outfile", str(tmp_path / "strict.mp4"), "--no_face", "error"])
    assert not (tmp_path / "strict.mp4").exists()


@pytest.mark.parametrize("choice, side", [(None, "right"), (0, "left"), (1, "right")])
def test_one_of_two_faces_is_changed_throughout(speech, weights, tmp_path, choice, side):
    frames = []
    for i in range(22):
        frame = np.full((160, 360, 3), 90, np.uint8)
        frame[60:160, 20:120] = media.portrait(100)
        size = 140 - 4 * i  # starts as the larger, ends as the smaller
        frame[160 - size :, 200 : 200 + size] = media.portrait(size)
        frames.append(frame)
    face = write(tmp_path / "face.mkv", frames)
    made = lossless(tmp_path, face=face, audio=speech, checkpoint_path=weights, face_index=choice)
    for frame, original in zip(made, frames, strict=True):
        columns = np.flatnonzero((frame != original).any(axis=(0, 2)))
        assert (columns.max() < 180) if side == "left" else (columns.min() > 180)


def test_face_index_beyond_the_faces_is_told(clip, speech, weights, tmp_path):
    options = {"face": clip, "audio": speech, "checkpoint_path": weights, "face_index": 3}
    with pytest.raises(InputError, match="--face_index 3"):
        run(InferenceOptions(outfile=tmp_path / "out.mp4", **options))
    assert list(tmp_path.iterdir()) == []


# The rest


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near(clip, word, weights, tmp_path, precision):
    options = {"face": clip, "audio": word, "checkpoint_path": weights, "box": BOX}
    exact = np.stack(lossless(tmp_path, **options))
    half = np.stack(lossless(tmp_path, precision=precision, **options))
    assert np.abs(exact.astype(int) - half).max() <= 6


def test_silence_works(clip, weights, tmp_path):
    quiet = tmp_path / "quiet.wav"
    audio.save_wav(np.zeros(16000, np.float32), quiet)
    result = run(
        InferenceOptions(face=clip, audio=quiet, checkpoint_path=weights, outfile=tmp_path / "out.mp4", box=BOX)
    )
    assert result.frames == 22


def test_progress_and_timings(clip, speech, weights, tmp_path):
    calls = []
    options = InferenceOptions(
        face=clip, audio=speech, checkpoint_path=weights, outfile=tmp_path / "out.mp4", face_det_batch_size=8
    )
    result = run(options, lambda *call: calls.append(call))
    assert calls == [(done, 22) for done in range(1, 23)]
    assert result.seconds.keys() == {"load", "decode", "detect", "generate", "composite", "encode", "first frame"}
    assert result.outfile == tmp_path / "out.mp4"
