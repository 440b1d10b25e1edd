"""Runs of inference with stand-ins for detector and generator: the command line, bookkeeping of frames, resources."""

import itertools
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from inference_setup import FRAME_SIZE, Painter, make_inputs, options, scene, stand_in
from media import noise, write_clip

from audio import load_mel, save_wav
from errors import InputError
from inference import main
from lipsync import detection, locating, pipeline, synthesis
from lipsync.command_line import parse as parse_options
from lipsync.faces import SMOOTHING_FRAMES
from lipsync.options import InferenceOptions
from lipsync.pipeline import mel_windows, run
from lipsync.source import FrameSource
from lipsync.video import FrameReader

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def parse(argv: list[str]) -> InferenceOptions:
    return parse_options(InferenceOptions, argv, "")


def frames_of(path: Path) -> list[np.ndarray]:
    return list(FrameReader(path))


def painted(frame: np.ndarray) -> np.ndarray:
    """Where a frame is pure green."""
    return (frame == Painter.colour).all(axis=-1)


class TestCommandLine:
    def test_published_flags_and_defaults(self):
        given = parse(["--face", "a.mp4", "--audio", "b.wav"])
        assert given == InferenceOptions(face="a.mp4", audio="b.wav")
        published = {
            "checkpoint_path": None, "outfile": Path("results/result_voice.mp4"), "static": False, "fps": 25,
            "pads": (0, 10, 0, 0), "face_det_batch_size": 16, "wav2lip_batch_size": 128, "resize_factor": 1,
            "crop": (0, -1, 0, -1), "box": (-1, -1, -1, -1), "rotate": False, "nosmooth": False,
        }  # fmt: skip
        assert {name: getattr(given, name) for name in published} == published

    def test_every_flag_reaches_the_options(self):
        words = (
            "--face f --audio a --outfile o.mp4 --checkpoint_path c --static --fps 30 --pads 1 -2 3 4 "
            "--face_det_batch_size 2 --wav2lip_batch_size 3 --resize_factor 2 --crop 0 -1 5 -1 --box 1 2 3 4 --rotate "
            "--nosmooth --blend paste --lossless --crf 20 --preset slow --no_face error --face_index 1 "
            "--face_detector centerface --det_every 3 --face_detector_size 480 --cache d "
            "--audio_shift -40 --device cpu --precision bf16 --seed 7"
        )
        expected = InferenceOptions(
            face="f", audio="a", outfile="o.mp4", checkpoint_path="c", static=True, fps=30, pads=(1, -2, 3, 4),
            face_det_batch_size=2, wav2lip_batch_size=3, resize_factor=2, crop=(0, -1, 5, -1), box=(1, 2, 3, 4),
            rotate=True, nosmooth=True, blend="paste", lossless=True, crf=20, preset="slow", no_face="error",
            face_index=1, face_detector="centerface", det_every=3, face_detector_size=480, cache="d", audio_shift=-40,
            device="cpu", precision="bf16", seed=7,
        )  # fmt: skip
        assert parse(words.split()) == expected

    @pytest.mark.parametrize(
        ("words", "value"),
        [(["--static"], True), (["--static", "True"], True), (["--static", "False"], False), (["--static=1"], True),
         (["--static", "--rotate"], True), ([], False)],
    )  # fmt: skip
    def test_static_means_what_it_says(self, words, value):
        assert parse(["--face", "f", "--audio", "a", *words]).static is value

    def test_names_that_begin_with_a_dash(self):
        given = parse(["--face", "-f.mp4", "--audio", "--a.wav", "--outfile", "-o.mp4", "--static"])
        assert (str(given.face), str(given.audio), str(given.outfile)) == ("-f.mp4", "--a.wav", "-o.mp4")
        with pytest.raises(InputError, match="--face: expected one argument"):
            parse(["--face", "--audio", "a.wav"])

    def test_help_loads_nothing_heavy(self):
        code = (
            "import sys, inference\ntry: inference.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert "--wav2lip_batch_size" in done.stdout and done.stdout.rstrip().endswith("False")

    def test_real_run_with_awkward_names(self, inputs, tmp_path):
        face, speech = tmp_path / '-it\'s "a" fäce.v1.mp4', tmp_path / "speech of 2.5 s.wav"
        face.write_bytes((inputs / "face.mp4").read_bytes())
        speech.write_bytes((inputs / "speech.wav").read_bytes())
        words = ["--face", face.name, "--audio", speech.name, "--outfile", "-new dir/видео.1.mp4"]
        words += ["--checkpoint_path", str(inputs / "generator.pth")]
        done = subprocess.run(
            [sys.executable, str(ROOT / "inference.py"), *words], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "-new dir/видео.1.mp4" in done.stdout and "Traceback" not in done.stderr
        assert len(frames_of(tmp_path / "-new dir" / "видео.1.mp4")) == 15


class TestResult:
    def test_a_picture_talks_at_the_rate_asked_for(self, inputs, tmp_path, monkeypatch):
        painter = stand_in(monkeypatch)
        result = run(options(inputs, tmp_path / "out.mp4", face="face.png", fps=10, lossless=True, blend="paste"))
        frames = frames_of(result.outfile)
        assert len(frames) == len(painter.mel_windows) == 7 and result.fps == 10
        assert all(painted(frame).sum() == 100 * 130 for frame in frames)  # the detection and 10 rows of pads
        assert all(np.array_equal(face, painter.faces[0]) for face in painter.faces)  # not what was painted before

    def test_generator_hears_as_early_as_it_learnt(self, inputs, tmp_path, monkeypatch):
        painter = stand_in(monkeypatch)
        painter.mel_lead_ms = 40.0
        given = options(inputs, tmp_path / "out.mp4")
        result = run(given, workers=0)  # of several threads any may ask the painter first
        assert np.array_equal(painter.mel_windows, mel_windows(load_mel(given.audio), result.fps, -40))
        assert not np.array_equal(painter.mel_windows, mel_windows(load_mel(given.audio), result.fps))

    def test_frames_and_boxes_repeat_from_the_start(self, inputs, tmp_path, monkeypatch):
        stand_in(monkeypatch, lambda i: [(40 + 2 * i, 20, 100 + 2 * i, 80, 0.9)])
        result = run(options(inputs, tmp_path / "out.mp4", blend="paste", nosmooth=True, lossless=True))
        lefts = [int(np.nonzero(painted(frame).any(axis=0))[0][0]) for frame in frames_of(result.outfile)]
        assert lefts == [40 + 2 * (i % 12) for i in range(15)]

    def test_only_as_many_frames_as_speech_are_looked_at(self, inputs, tmp_path, monkeypatch):
        write_clip(tmp_path / "long.mp4", [scene(i) for i in range(60)])
        stand_in(monkeypatch)
        run(options(inputs, tmp_path / "out.mp4", face=tmp_path / "long.mp4"))
        assert detection.FaceAlignment.seen == 15

    def test_geometry_options(self, inputs, tmp_path):
        plain = frames_of(inputs / "face.mp4")[0]
        small = cv2.resize(plain, (120, 80))
        turned = cv2.rotate(small, cv2.ROTATE_90_CLOCKWISE)
        for changes, expected in (
            ({"resize_factor": 2}, small),
            ({"resize_factor": 2, "rotate": True}, turned),
            ({"resize_factor": 2, "rotate": True, "crop": (10, -1, 5, 60)}, turned[10:, 5:60]),
            ({"resize_factor": 7}, cv2.resize(plain, (34, 22))),
        ):
            source = FrameSource(options(inputs, tmp_path / "out.mp4", **changes))
            frame = next(source.frames())
            assert np.array_equal(frame, expected) and (source.height, source.width) == expected.shape[:2]


class TestFaces:
    away = staticmethod(lambda i: [] if 3 <= i < 8 else [(60, 20, 160, 140, 0.9)])

    def test_frames_without_a_face_pass_unchanged_and_are_listed(self, inputs, tmp_path, monkeypatch, capsys):
        stand_in(monkeypatch, self.away)
        monkeypatch.setattr(locating, "GAP_SECONDS", 0.1)
        words = ["--face", inputs / "face.mp4", "--audio", inputs / "speech.wav", "--outfile", tmp_path / "out.mp4"]
        main([*map(str, words), "--lossless", "--det_every", "1"])
        printed = capsys.readouterr().out
        assert f"{tmp_path / 'out.mkv'}" in printed
        assert printed.splitlines()[-1] == "no face found, original frames kept: 0.12-0.32 s"
        frames, sources = frames_of(tmp_path / "out.mkv"), frames_of(inputs / "face.mp4")
        assert len(frames) == 15
        for i in range(12):
            assert np.array_equal(frames[i], sources[i]) == (3 <= i < 8)

    def test_short_gaps_are_bridged(self, inputs, tmp_path, monkeypatch):
        painter = stand_in(monkeypatch, self.away)
        result = run(options(inputs, tmp_path / "out.mp4"))
        assert result.faceless == () and len(painter.faces) == 15

    def test_a_frame_without_a_face_is_an_error_on_demand(self, inputs, tmp_path, monkeypatch):
        stand_in(monkeypatch, self.away)
        with pytest.raises(InputError, match=r"frame 3 \(0\.12 s\)"):
            run(options(inputs, tmp_path / "out.mp4", no_face="error"))
        assert list(tmp_path.iterdir()) == []

    def test_face_index_and_largest(self, inputs, tmp_path, monkeypatch):
        people = [(150, 20, 210, 90, 0.99), (10, 20, 90, 110, 0.6)]
        for index, left in ((None, 10), (0, 10), (1, 150)):
            stand_in(monkeypatch, lambda i: people)
            result = run(options(inputs, tmp_path / "out.mp4", face_index=index, blend="paste", lossless=True))
            assert np.nonzero(painted(frames_of(result.outfile)[4]).any(axis=0))[0][0] == left

    def test_constant_box_needs_no_detector(self, inputs, tmp_path, monkeypatch):
        stand_in(monkeypatch)
        monkeypatch.setattr(detection, "FaceAlignment", None)
        result = run(options(inputs, tmp_path / "out.mp4", box=(10, 60, 20, 90), blend="paste", lossless=True))
        for frame in frames_of(result.outfile):
            assert painted(frame)[10:60, 20:90].all() and painted(frame).sum() == 50 * 70


class TestResources:
    def test_memory_does_not_grow_with_length(self, inputs, tmp_path, monkeypatch):
        """Frames alive at any time are bounded by batches and queues, however long speech and video are."""
        alive, most = weakref.WeakSet(), []

        class Counted(np.ndarray):
            __hash__ = object.__hash__
            __eq__ = object.__eq__

        def counting(self):
            for i in range(150):
                frame = scene(i).view(Counted)
                alive.add(frame)
                most.append(len(alive))
                yield frame

        save_wav(noise(8), tmp_path / "long.wav")
        stand_in(monkeypatch)
        monkeypatch.setattr(FrameSource, "frames", counting)
        changes = {"audio": tmp_path / "long.wav", "wav2lip_batch_size": 4, "face_det_batch_size": 4}
        result = run(options(inputs, tmp_path / "out.mp4", **changes), workers=2)
        assert result.frames == len(most) == 197
        batches = 1 + 1 + 2 + 2  # looked at, gathered, and generated by two workers
        ahead = locating.DECODED_AHEAD + pipeline.LOCATED_AHEAD + 1
        assert max(most) <= ahead + SMOOTHING_FRAMES + 4 * batches + 4

    def test_large_pictures_make_smaller_batches(self, inputs, tmp_path, monkeypatch):
        painter = stand_in(monkeypatch)
        monkeypatch.setattr(locating, "HELD_BYTES", 3 * 6 * FRAME_SIZE[0] * FRAME_SIZE[1] * 3)
        run(options(inputs, tmp_path / "out.mp4"), workers=2)
        assert max(painter.batches) == 3

    def test_batches_are_halved_when_memory_runs_out(self, inputs, tmp_path, monkeypatch, capsys):
        class Small(Painter):
            def __call__(self, batch):
                if len(batch) > 2:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return super().__call__(batch)

        painter = stand_in(monkeypatch, painter=Small())
        assert run(options(inputs, tmp_path / "out.mp4", wav2lip_batch_size=8)).frames == 15
        assert max(painter.batches) == 2
        assert "--wav2lip_batch_size is now 2" in capsys.readouterr().err

    def test_memory_too_small_for_one_frame(self, inputs, tmp_path, monkeypatch):
        class None_(Painter):
            def __call__(self, batch):
                raise torch.OutOfMemoryError("CUDA out of memory")

        stand_in(monkeypatch, painter=None_())
        with pytest.raises(InputError, match="--resize_factor"):
            run(options(inputs, tmp_path / "out.mp4"))
        assert list(tmp_path.iterdir()) == []

    def test_an_existing_result_survives_a_failure(self, inputs, tmp_path, monkeypatch):
        (tmp_path / "out.mp4").write_bytes(b"old")

        class Interrupted(Painter):
            def __call__(self, batch):
                raise KeyboardInterrupt

        stand_in(monkeypatch, painter=Interrupted())
        with pytest.raises(KeyboardInterrupt):
            run(options(inputs, tmp_path / "out.mp4"))
        assert (tmp_path / "out.mp4").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


class TestSideBySide:
    """Stages in threads: the same result as one after the other, and one clean end whatever happens."""

    def frames(self, inputs: Path, outfile: Path, workers: int, **changes) -> list[np.ndarray]:
        result = run(options(inputs, outfile, lossless=True, wav2lip_batch_size=4, **changes), workers=workers)
        return frames_of(result.outfile)

    @pytest.mark.parametrize("changes", [{}, {"det_every": 4, "face_detector_size": 160}, {"static": True}])
    def test_threads_change_nothing_but_rounding(self, inputs, tmp_path, changes):
        """Sums in another order differ in their last bit, and some of a million values then by one level."""
        one_by_one = np.stack(self.frames(inputs, tmp_path / "a.mkv", 0, **changes)).astype(int)
        for workers in (1, 3):
            difference = np.abs(self.frames(inputs, tmp_path / "b.mkv", workers, **changes) - one_by_one)
            assert difference.max() <= 1 and difference.mean() < 1e-5
            again = self.frames(inputs, tmp_path / "c.mkv", workers, **changes)
            assert np.array_equal(again, self.frames(inputs, tmp_path / "d.mkv", workers, **changes))

    @pytest.mark.parametrize("broken", ["decode", "detect", "generate", "encode"])
    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_an_error_in_any_stage_ends_all_of_them(self, inputs, tmp_path, monkeypatch, broken, error):
        before = set(threading.enumerate())

        def breaks_after(calls: int, function):
            count = itertools.count()

            def called(*arguments, **named):
                if next(count) >= calls:
                    raise error("here")
                return function(*arguments, **named)

            return called

        painter = stand_in(monkeypatch)
        if broken == "decode":
            monkeypatch.setattr(FrameSource, "_prepare", breaks_after(6, FrameSource._prepare))
        elif broken == "detect":
            script = detection.FaceAlignment
            monkeypatch.setattr(script, "detect_faces", breaks_after(2, script.detect_faces), raising=False)
        elif broken == "generate":
            monkeypatch.setattr(synthesis, "Synthesizer", lambda *_: Failing(breaks_after(1, painter)))
        else:
            monkeypatch.setattr(pipeline.VideoWriter, "write", breaks_after(3, pipeline.VideoWriter.write))
        threads = torch.get_num_threads(), cv2.getNumThreads()
        with pytest.raises(error, match="here"):
            run(options(inputs, tmp_path / "out.mp4", wav2lip_batch_size=2, face_det_batch_size=2))
        assert list(tmp_path.iterdir()) == []
        assert set(threading.enumerate()) == before
        assert (torch.get_num_threads(), cv2.getNumThreads()) == threads

    def test_faces_are_found_while_torch_is_imported(self, inputs, tmp_path):
        words = ["--face", inputs / "face.mp4", "--audio", inputs / "speech.wav", "--outfile", tmp_path / "out.mp4"]
        words += ["--checkpoint_path", inputs / "generator.pth", "--face_detector", "centerface"]
        command = [sys.executable, "-c", TORCH_WAITS_FOR_FACES, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out.mp4").is_file()

    def test_a_wrong_checkpoint_ends_the_search_for_faces(self, inputs, tmp_path):
        before = set(threading.enumerate())
        with pytest.raises(InputError, match=r"missing\.pth does not exist"):
            run(options(inputs, tmp_path / "out.mp4", checkpoint_path="missing.pth"))
        assert set(threading.enumerate()) == before and list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("most, batches", [(8, [2, 2, 4, 7]), (3, [2, 2, 3, 3, 3, 2]), (1, [1] * 15)])
    def test_first_batches_are_short(self, inputs, tmp_path, monkeypatch, most, batches):
        painter = stand_in(monkeypatch)
        run(options(inputs, tmp_path / "out.mp4", wav2lip_batch_size=most), workers=0)
        assert painter.batches == batches

    def test_control_c_ends_the_program_in_one_line(self, inputs, tmp_path):
        save_wav(noise(60), tmp_path / "long.wav")
        words = ["--face", inputs / "face.mp4", "--audio", tmp_path / "long.wav", "--outfile", tmp_path / "out.mp4"]
        words += ["--checkpoint_path", inputs / "generator.pth"]
        running = subprocess.Popen(
            [sys.executable, str(ROOT / "inference.py"), *map(str, words)], stderr=subprocess.PIPE, text=True
        )
        shown = running.stderr.read(1)  # the progress bar: frames are being made
        running.send_signal(signal.SIGINT)
        told = shown + running.stderr.read()
        assert running.wait() == 130
        assert told.rstrip().endswith("error: interrupted") and "Traceback" not in told
        assert [path.name for path in tmp_path.iterdir()] == ["long.wav"]


TORCH_WAITS_FOR_FACES = """
import gc, sys, threading
import inference
from lipsync import locating, pipeline

found, load = threading.Event(), pipeline.load_synthesizer

class Glance(locating.Glance):
    def __call__(self, frames):
        faces = super().__call__(frames)
        found.set()
        return faces

def load_afterwards(*arguments):
    assert found.wait(60) and "torch" not in sys.modules
    return load(*arguments)

locating.Glance, pipeline.load_synthesizer = Glance, load_afterwards
inference.main(sys.argv[1:])
assert "torch" in sys.modules and gc.isenabled()
"""


class Failing(Painter):
    """A generator that calls a function which fails some time."""

    def __init__(self, function):
        super().__init__()
        self._function = function

    def __call__(self, inputs):
        return self._function(inputs)
