"""What users get wrong: one clear line, exit status 1, no traceback, no half-made result."""

import os
import subprocess
import sys
from pathlib import Path

import av
import cv2
import media
import numpy as np
import pytest
import torch

import audio
import inference
from errors import run_script
from lipsync.video import FrameReader, VideoWriter
from models import SyncNet_color, Wav2Lip
from models.checkpoint import save_checkpoint

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with a face (clip.mp4), speech (speech.wav) and weights (small.pth) that work together."""
    folder = tmp_path_factory.mktemp("inputs")
    write(folder / "clip.mp4", [media.portrait(96)] * 5)
    audio.save_wav(media.noise(0.5), folder / "speech.wav")
    torch.manual_seed(0)
    save_checkpoint(folder / "small.pth", Wav2Lip(width=0.25))
    return folder


def write(path: Path, frames) -> Path:
    with VideoWriter(path, frames[0].shape[:2], 25, lossless=path.suffix == ".mkv") as writer:
        for frame in frames:
            writer.write(frame)
    return path


def words(inputs: Path, outfile: Path, **options) -> list[str]:
    """A command line that works, with some of its words changed; None leaves a flag out."""
    options = {
        "face": inputs / "clip.mp4",
        "audio": inputs / "speech.wav",
        "checkpoint_path": inputs / "small.pth",
        "outfile": outfile,
        "box": "10 80 10 80",
        **options,
    }
    line = []
    for name, value in options.items():
        if value is not None:
            line += [f"--{name}", *(str(value).split() if name in ("box", "crop", "pads") else [str(value)])]
    return line


@pytest.fixture
def refused(inputs, tmp_path, capsys):
    """Calls the script with a changed command line, which must fail in one line; returns that line."""

    def call(outfile: Path = tmp_path / "out.mp4", **options) -> str:
        with pytest.raises(SystemExit) as caught:
            run_script(lambda: inference.main(words(inputs, outfile, **options)))
        assert caught.value.code == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1
        assert not list(tmp_path.glob("**/.*part*"))
        return lines[0]

    return call


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("missing.mp4", None, "does not exist"),
        ("empty.mp4", b"", "is empty"),
        ("text.mp4", b"this is no video\n" * 50, "cannot be read as a video"),
        ("text.jpg", b"this is no picture\n" * 50, "cannot be read as a picture"),
        ("folder.mp4", "folder", "is a folder"),
        ("sound.mp4", "sound", "no video stream"),
    ],
)
def test_unusable_face(refused, tmp_path, name, content, told):
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content == "sound":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=16000, layout="mono")
            samples = av.AudioFrame.from_ndarray(media.noise(0.5)[None], format="fltp", layout="mono")
            samples.sample_rate = 16000
            container.mux([*stream.encode(samples), *stream.encode()])
    elif content is not None:
        path.write_bytes(content)
    line = refused(face=path)
    assert told in line
    assert name in line


def test_no_face_anywhere(refused, tmp_path):
    face = write(tmp_path / "wall.mp4", [np.full((96, 96, 3), 120, np.uint8)] * 5)
    for answer in ("keep", "error"):
        assert "no face" in refused(face=face, box=None, no_face=answer)
    assert not (tmp_path / "out.mp4").exists()


def test_truncated_video_is_used_with_a_warning(inputs, tmp_path, capsys):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (96, 96, 3), dtype=np.uint8) for _ in range(20)]
    content = write(tmp_path / "whole.mp4", frames).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 6 // 10])
    inference.main(words(inputs, tmp_path / "out.mp4", face=tmp_path / "cut.mp4"))
    assert (tmp_path / "out.mp4").exists()
    assert capsys.readouterr().err.count("cut short") == 1


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("missing.wav", None, "does not exist"),
        ("empty.wav", b"", "empty.wav"),
        ("text.wav", b"this is no sound\n" * 50, "cannot be read as audio"),
        ("silent.mp4", "no stream", "no audio stream"),
        ("short.wav", "10 ms", "at least 200 ms"),
        ("almost.wav", "180 ms", "at least 200 ms"),
        ("nan.wav", "nan", "NaN"),
        ("infinite.wav", "inf", "NaN or infinite"),
        ("folder", "folder", "not a file"),
    ],
)
def test_unusable_audio(refused, inputs, tmp_path, name, content, told):
    from scipy.io import wavfile

    path = tmp_path / name
    if content == "no stream":
        path.write_bytes((inputs / "clip.mp4").read_bytes())
    elif isinstance(content, str) and content.endswith("ms"):
        audio.save_wav(media.noise(int(content.split()[0]) / 1000), path)
    elif content == "folder":
        path.mkdir()
    elif content in ("nan", "inf"):
        sound = media.noise(1.0)
        sound[5000] = float(content)
        wavfile.write(path, 16000, sound)
    elif content is not None:
        path.write_bytes(content)
    assert told in refused(audio=path)


class Code:
    """What unpickles to a call."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return (os.mkdir, (str(self.folder),))


@pytest.mark.parametrize(
    "kind, told",
    [
        ("missing", "does not exist"),
        ("html", "web page"),
        ("cut", "damaged"),
        ("another network", "another network"),
        ("code", "pickled code"),
    ],
)
def test_unusable_checkpoint(refused, inputs, tmp_path, kind, told):
    path = tmp_path / "weights.pth"
    if kind == "html":
        path.write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    elif kind == "cut":
        path.write_bytes((inputs / "small.pth").read_bytes()[:5000])
    elif kind == "another network":
        save_checkpoint(path, SyncNet_color(width=0.25))
    elif kind == "code":
        torch.save({"state_dict": {"weight": Code(tmp_path / "made")}}, path)
    assert told in refused(checkpoint_path=path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"box": "10 200 10 80"},
        {"box": "10 80 10 97"},
        {"box": "80 10 10 80"},
        {"box": "10 80 50 50"},
        {"box": "-5 80 10 80"},
        {"box": "10 80 10 -1"},
        {"crop": "0 97 0 -1"},
        {"crop": "50 20 0 -1"},
        {"crop": "0 -1 96 -1"},
        {"crop": "-3 -1 0 -1"},
        {"crop": "0 70 0 70"},  # the box lies outside what is left
    ],
)
def test_box_and_crop_outside_or_inverted(refused, options):
    line = refused(**options)
    assert "--box" in line or "--crop" in line
    assert "96" in line or "70" in line  # the size that it has to fit into


@pytest.mark.parametrize(
    "options, told",
    [
        ({"resize_factor": 0}, "--resize_factor"),
        ({"resize_factor": 500}, "--resize_factor"),
        ({"wav2lip_batch_size": 0}, "--wav2lip_batch_size"),
        ({"face_det_batch_size": -1}, "--face_det_batch_size"),
        ({"fps": 0}, "--fps"),
        ({"fps": "nan"}, "--fps"),
        ({"crf": 99}, "--crf"),
        ({"preset": "warp"}, "--preset"),
        ({"det_every": 0}, "--det_every"),
        ({"face_detector_size": 31}, "--face_detector_size"),
        ({"face_detector_size": -1}, "--face_detector_size"),
        ({"cache": "/dev/null", "box": None}, "--cache /dev/null"),
        ({"device": "cuda:77"}, "--device"),
        ({"device": "toaster"}, "--device"),
        ({"face_index": 5, "box": None}, "--face_index 5"),
        ({"pads": "-60 -60 0 0", "box": None}, "--pads"),
        ({"face_index": -1, "box": None}, "--face_index"),
        ({"face_detector": "sfd", "box": None}, "s3fd"),
    ],
)
def test_values_out_of_range(refused, options, told):
    assert told in refused(**options)


@pytest.mark.parametrize(
    "line, told",
    [
        ([], "--face"),
        (["--face", "x"], "--audio"),
        (["--face", "x", "--audio", "y", "--blend", "glue"], "glue"),
        (["--face", "x", "--audio", "y", "--static", "perhaps"], "perhaps"),
        (["--face", "x", "--audio", "y", "--box", "1", "2", "3"], "--box"),
        (["--face", "x", "--audio", "y", "--colour"], "--colour"),
    ],
)
def test_command_lines_that_make_no_sense(capsys, line, told):
    with pytest.raises(SystemExit) as caught:
        run_script(lambda: inference.main(line))
    assert caught.value.code in (1, 2)
    message = capsys.readouterr().err.splitlines()
    assert len(message) == 1
    assert told in message[0]


def test_output_folder_is_made(inputs, tmp_path):
    inference.main(words(inputs, tmp_path / "new" / "er" / "out.mp4"))
    assert (tmp_path / "new" / "er" / "out.mp4").exists()


def test_unwritable_output(refused, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "cannot be written" in refused(outfile=tmp_path / "file" / "out.mp4")
    assert "folder" in refused(outfile=tmp_path)
    assert "/proc" in refused(outfile=Path("/proc/out.mp4"))
    assert "too long" in refused(outfile=tmp_path / ("x" * 300 + ".mp4"))
    assert "use .mp4" in refused(outfile=tmp_path / "out.txt")
    assert "use .mp4" in refused(outfile=tmp_path / "out.mp3")


@pytest.mark.parametrize("flag", ["face", "audio", "checkpoint_path"])
@pytest.mark.parametrize("link", [None, "symbolic", "hard"])
def test_output_equal_to_an_input_is_refused(refused, inputs, tmp_path, flag, link):
    name = {"face": "clip.mp4", "audio": "speech.wav", "checkpoint_path": "small.pth"}[flag]
    given = tmp_path / name
    content = (inputs / name).read_bytes()
    given.write_bytes(content)
    outfile = given
    if link == "symbolic":
        outfile = tmp_path / "out.mp4"
        outfile.symlink_to(given)
    elif link == "hard":
        outfile = tmp_path / "out.mp4"
        outfile.hardlink_to(given)
    assert f"--{flag}" in refused(outfile=outfile, **{flag: given})
    assert given.read_bytes() == content


def test_existing_result_survives_a_failure(refused, tmp_path):
    outfile = tmp_path / "out.mp4"
    outfile.write_text("old")
    refused(outfile=outfile, audio=tmp_path / "missing.wav")
    refused(outfile=outfile, box="10 500 10 80")
    assert outfile.read_text() == "old"


def test_full_disk_is_one_line(refused, tmp_path, monkeypatch):
    """The device that is always full takes the place of the unfinished file."""
    monkeypatch.setattr("lipsync.video_writer._make_empty", lambda aside, path: aside.symlink_to("/dev/full"))
    (tmp_path / "out.mkv").write_text("old")
    line = refused(outfile=tmp_path / "out.mkv")
    assert "No space left on device" in line
    assert "out.mkv" in line
    assert (tmp_path / "out.mkv").read_text() == "old"


@pytest.mark.parametrize("folder", ["sp ace", 'quo\'te "s"', "ünïcödé 口", "dots.v1.2", "a:b", "$HOME `x` ;&"])
def test_awkward_paths(inputs, tmp_path, folder):
    place = tmp_path / folder
    place.mkdir()
    for name in ("clip.mp4", "speech.wav", "small.pth"):
        (place / name).write_bytes((inputs / name).read_bytes())
    inference.main(words(place, place / f"out {folder}.mp4"))
    assert len(list(FrameReader(place / f"out {folder}.mp4"))) > 5


def test_leading_dash_and_the_script_itself(inputs, tmp_path):
    """Run as users run it: another folder, names that begin with a dash, a picture with an upper-case suffix."""
    encoded = cv2.imencode(".jpg", media.portrait(96))[1]
    encoded.tofile(tmp_path / "-face.v1.JPG")
    (tmp_path / "-speech.wav").write_bytes((inputs / "speech.wav").read_bytes())
    command = [sys.executable, ROOT / "inference.py", "--face", "-face.v1.JPG", "--audio=-speech.wav"]
    command += ["--checkpoint_path", inputs / "small.pth", "--outfile", "-out.mp4", "--static", "False"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "-out.mp4" in done.stdout
    assert len(list(FrameReader(tmp_path / "-out.mp4"))) > 5
    failed = subprocess.run(
        [*map(str, command[:2]), "--face", "nothing.mp4", "--audio=-speech.wav"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert failed.returncode == 1
    assert [line for line in failed.stderr.splitlines() if line] == [failed.stderr.strip()]
    assert failed.stderr.startswith("error: nothing.mp4 does not exist")


def test_help_is_quick_and_names_every_flag():
    published = "checkpoint_path face audio outfile static fps pads face_det_batch_size wav2lip_batch_size "
    published += "resize_factor crop box rotate nosmooth"
    added = "blend lossless crf no_face face_index audio_shift device precision seed face_detector "
    added += "preset det_every face_detector_size cache"
    script = "import sys, inference\ntry: inference.main(['--help'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"
    for flag in (published + " " + added).split():
        assert f"--{flag} " in done.stdout
