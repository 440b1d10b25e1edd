"""The cache of detections: a second run looks at no frame and gives the same; what bears on faces has its own file."""

from pathlib import Path

import numpy as np
import pytest
from inference_setup import make_inputs, options, scene, stand_in
from media import noise, write_clip

from audio import save_wav
from errors import InputError
from lipsync import detection
from lipsync.pipeline import run
from lipsync.video import FrameReader


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = make_inputs(tmp_path_factory.mktemp("inputs"))
    write_clip(folder / "long.mp4", [scene(i) for i in range(40)])
    save_wav(noise(1.2), folder / "longer.wav")
    return folder


@pytest.fixture
def cached(inputs, tmp_path, monkeypatch):
    """Runs with a cache; returns how many frames the detector was shown, and the result's frames."""
    stand_in(monkeypatch, lambda i: [] if i == 3 else [(60 + i, 20, 160 + i, 140, 0.9)] * (1 + i % 2))

    def call(**changes) -> tuple[int, list[np.ndarray]]:
        detection.FaceAlignment.seen = 0
        changes = {"cache": tmp_path / "cache", "lossless": True, **changes}
        result = run(options(inputs, tmp_path / "out.mkv", **changes))
        return detection.FaceAlignment.seen, list(FrameReader(result.outfile))

    return call


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").iterdir())


def test_a_second_run_detects_nothing_and_gives_the_same(cached, tmp_path):
    seen, first = cached()
    again, second = cached()
    assert (seen, again) == (12, 0)
    assert np.array_equal(first, second)
    assert len(files(tmp_path)) == 1


def test_off_by_default(cached, tmp_path):
    assert cached(cache=None)[0] == cached(cache=None)[0] == 12
    assert not (tmp_path / "cache").exists()


def test_a_longer_speech_adds_frames(cached, inputs, tmp_path):
    assert cached(face=inputs / "long.mp4")[0] == 15
    assert cached(face=inputs / "long.mp4", audio=inputs / "longer.wav")[0] == 27 - 15
    assert cached(face=inputs / "long.mp4", audio=inputs / "longer.wav")[0] == 0
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"resize_factor": 2},
        {"crop": (0, 150, 0, -1)},
        {"rotate": True},
        {"det_every": 2},
        {"face_detector_size": 64},
        {"face_index": 0},
        {"static": True},
    ],
)
def test_options_that_bear_on_faces_are_part_of_the_key(cached, tmp_path, changes):
    cached()
    assert cached(**changes)[0] > 0
    assert len(files(tmp_path)) == 2


def test_options_that_do_not_are_not(cached, tmp_path):
    cached()
    assert cached(pads=(0, 5, 5, 5), nosmooth=True, blend="paste", crf=30)[0] == 0


def test_the_content_counts_and_not_the_name(cached, inputs, tmp_path):
    cached()
    copy = tmp_path / "copy.mp4"
    copy.write_bytes((inputs / "face.mp4").read_bytes())
    assert cached(face=copy)[0] == 0
    write_clip(copy, [scene(i + 1) for i in range(12)])
    assert cached(face=copy)[0] == 12


@pytest.mark.parametrize("damage", [b"", b"no numbers", "cut", "shapes"])
def test_a_damaged_file_is_told_ignored_and_written_again(cached, tmp_path, capsys, damage):
    cached()
    (path,) = files(tmp_path)
    if damage == "shapes":
        with path.open("wb") as file:
            np.savez(file, counts=np.array([3]), faces=np.zeros((1, 5), np.float32))
    else:
        path.write_bytes(path.read_bytes()[:200] if damage == "cut" else damage)
    assert cached()[0] == 12
    told = [line for line in capsys.readouterr().err.splitlines() if "cache" in line]
    assert len(told) == 1 and told[0].startswith("warning:")
    assert cached()[0] == 0
    assert files(tmp_path) == [path]


def test_a_folder_that_cannot_be_used_is_told(cached, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--cache .*file.* cannot be used"):
        cached(cache=tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
