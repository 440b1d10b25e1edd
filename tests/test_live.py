"""Live: the frames of a whole file from any chunks of sound, a cycle without a jump, a clock that is kept."""

import io
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from inference_setup import Painter, make_inputs, options
from media import RATE, noise

import audio
from audio import save_wav
from errors import InputError
from lipsync import broadcast as broadcasting
from lipsync import live
from lipsync.broadcast import InBackground, RawStream, SoundPipe, TransportStream, broadcast
from lipsync.live import LipSyncStream, ping_pong
from lipsync.pipeline import mel_windows, run
from lipsync.video import FrameReader

ROOT = Path(__file__).resolve().parent.parent
BOX = (20, 140, 60, 160)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def painter(monkeypatch) -> Painter:
    painter = Painter()
    monkeypatch.setattr(live, "Synthesizer", lambda *_: painter)
    return painter


def talk(stream: LipSyncStream, sound: np.ndarray, chunk: int) -> list[np.ndarray]:
    frames = []
    for start in range(0, len(sound), chunk):
        stream.push(sound[start : start + chunk])
        frames += stream.frames()
    return [*frames, *stream.finish()]


def spoken(inputs: Path) -> np.ndarray:
    return audio.load_wav(inputs / "speech.wav")


@pytest.mark.parametrize("chunk", [160, 1111, 100_000])
def test_frames_are_those_of_the_whole_file(inputs, tmp_path, chunk):
    whole = run(options(inputs, tmp_path / "out.mkv", box=BOX, lossless=True))
    expected = list(FrameReader(whole.outfile))
    stream = LipSyncStream(inputs / "face.mp4", checkpoint_path=inputs / "generator.pth", box=BOX)
    frames = talk(stream, spoken(inputs), chunk)
    assert len(frames) == 18  # 0.7 s; a whole file ends with the last full window
    for i in range(11):  # until the video turns round
        assert np.abs(frames[i].astype(int) - expected[i]).max() <= 1


def test_found_boxes_serve_too(inputs):
    stream = LipSyncStream(inputs / "face.mp4", checkpoint_path=inputs / "generator.pth", face_detector_size=160)
    frames, originals = talk(stream, spoken(inputs)[:6400], 320), list(FrameReader(inputs / "face.mp4"))
    for i, frame in enumerate(frames):
        changed = np.argwhere((frame != originals[i]).any(axis=2))
        assert len(changed) > 1000 and changed[:, 0].mean() > 60  # the lower face


@pytest.mark.parametrize(("shift", "lead"), [(0, 0), (100, 0), (-100, 0), (0, 40)])
def test_windows_of_sound_are_those_of_the_whole_file(inputs, tmp_path, painter, shift, lead):
    painter.mel_lead_ms = lead
    sound = noise(20)
    save_wav(sound, tmp_path / "long.wav")
    sound = audio.load_wav(tmp_path / "long.wav")
    stream = LipSyncStream(inputs / "face.mp4", box=BOX, audio_shift=shift)
    talk(stream, sound, 777)
    expected = mel_windows(audio.load_mel(tmp_path / "long.wav"), stream.fps, shift - lead)
    for i in range(len(expected) - 10):  # the file's own end is mirrored, the stream's is silence
        np.testing.assert_allclose(painter.mel_windows[i], expected[i], atol=1e-5)


def test_frames_come_with_the_samples_they_need_and_no_drift(inputs, painter):
    stream = LipSyncStream(inputs / "face.mp4", box=BOX)
    assert stream.lookahead == pytest.approx(0.2125)
    came, pushed = 0, 0
    while pushed < 30 * RATE:
        stream.push(np.zeros(400, np.int16))
        pushed += 400
        came += len(list(stream.frames()))
        due = (pushed / RATE - stream.lookahead) * 25 + 1
        assert max(0, int(due)) <= came <= max(0, due + 1)
    assert len(stream._sound) < RATE and stream._mel.values.shape[1] < 80  # nothing piles up


def test_int16_and_float_are_the_same_sound(inputs, painter):
    pcm = (noise(0.5) * 32767).astype(np.int16)
    talk(LipSyncStream(inputs / "face.mp4", box=BOX), pcm, 500)
    talk(LipSyncStream(inputs / "face.mp4", box=BOX), (pcm / 32768).astype(np.float64), 500)
    half = len(painter.mel_windows) // 2
    assert np.array_equal(painter.mel_windows[:half], painter.mel_windows[half:])


@pytest.mark.parametrize("sound", [np.zeros((2, 4), np.int16), np.zeros(4, np.int32), np.array([0.0, np.nan])])
def test_other_sound_is_refused(inputs, painter, sound):
    with pytest.raises(InputError, match="sound"):
        LipSyncStream(inputs / "face.mp4", box=BOX).push(sound)


def test_the_video_turns_round_without_a_jump():
    assert [ping_pong(i, 4) for i in range(10)] == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3]
    assert [ping_pong(i, 1) for i in range(3)] == [0, 0, 0]
    assert {abs(ping_pong(i + 1, 7) - ping_pong(i, 7)) for i in range(50)} == {1}


def test_a_picture_talks(inputs, painter):
    stream = LipSyncStream(inputs / "face.png", box=BOX, fps=10)
    assert len(talk(stream, np.zeros(RATE, np.float32), 1600)) == 10


class Clock:
    """A clock that only moves when someone sleeps, or works."""

    def __init__(self):
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class Recorder:
    """Remembers what is broadcast, and when."""

    def __init__(self, clock: Clock):
        self._clock, self.times, self.frames, self.sound = clock, [], [], []

    def write_sound(self, pcm: np.ndarray) -> None:
        self.sound.append(pcm)

    def write_frame(self, frame: np.ndarray, index: int) -> None:
        assert index == len(self.frames)
        self.times.append(self._clock.now())
        self.frames.append(frame)

    def close(self) -> None:
        self.sound = np.concatenate(self.sound)


def test_frames_leave_at_their_time_and_all_sound_is_heard(inputs, painter):
    pcm = (noise(2.0) * 32767).astype("<i2")
    clock = Clock()
    out = Recorder(clock)
    stream = LipSyncStream(inputs / "face.mp4", box=BOX)
    pipe = SoundPipe(io.BytesIO(pcm.tobytes() + b"\0"))
    made = broadcast(stream, pipe, out, clock.now, lambda seconds: (clock.sleep(seconds), pipe.wait(10)))
    assert made == len(out.frames) == pytest.approx(50, abs=8)
    assert np.allclose(np.array(out.times) - 100, np.arange(made) / 25)
    start = np.flatnonzero(out.sound)[0] - np.flatnonzero(pcm)[0]
    assert np.array_equal(out.sound[start : start + len(pcm)], pcm)


def test_a_machine_too_slow_shows_the_picture_before_and_keeps_time(inputs, painter, monkeypatch):
    clock = Clock()
    out = Recorder(clock)
    stream = LipSyncStream(inputs / "face.mp4", box=BOX)
    paint = Painter.__call__

    def slowly(self, batch):
        clock.sleep(0.1)  # 2.5 frames
        return paint(self, batch)

    monkeypatch.setattr(Painter, "__call__", slowly)
    made = broadcast(stream, SoundPipe(io.BytesIO(bytes(4 * RATE))), out, clock.now, clock.sleep)
    assert made < 0.5 * len(out.frames)
    late = np.array(out.times) - 100 - np.arange(len(out.frames)) / 25
    assert late.max() < broadcasting.LATE_SECONDS + 0.1 + 0.04


def test_silence_fills_a_stall_and_sound_begins_with_a_cushion():
    nothing = SoundPipe(io.BytesIO(b""))
    nothing.wait(5)
    assert not nothing.take(640).any() and nothing.ended
    read, write = os.pipe()
    pipe = SoundPipe(open(read, "rb", buffering=0))  # noqa: SIM115, PTH123
    ones = np.ones(640, "<i2")
    assert not pipe.take(640).any()
    os.write(write, ones[:320].tobytes())
    pipe.wait(0.05)
    assert not pipe.take(640).any()  # not enough yet: no half-filled frames
    os.write(write, ones.tobytes())
    pipe.wait(5)
    assert pipe.take(640).all() and not pipe.take(640).any()
    os.close(write)
    pipe.wait(5)
    assert pipe.take(640)[-320:].all() and pipe.ended


def test_what_goes_wrong_in_the_background_is_raised():
    class Broken(Recorder):
        def write_frame(self, frame, index):
            raise BrokenPipeError(32, "the player has left")

    before = set(threading.enumerate())
    out = InBackground(Broken(Clock()))
    with pytest.raises(BrokenPipeError):
        for i in range(50):
            out.write_sound(np.zeros(3, np.int16))
            out.write_frame(np.zeros((2, 2, 3), np.uint8), i)
    out = InBackground(Broken(Clock()))
    out.write_frame(np.zeros((2, 2, 3), np.uint8), 0)
    with pytest.raises(BrokenPipeError):
        out.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


def test_raw_frames_are_bgr_bytes():
    out, frame = io.BytesIO(), np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    raw = RawStream(out)
    raw.write_frame(frame, 0)
    raw.write_frame(frame[::-1], 1)
    raw.close()
    assert out.getvalue() == frame.tobytes() + frame[::-1].tobytes()


def beep(at: float, seconds: float = 2.0) -> np.ndarray:
    """s16le: a tone from one time on."""
    times = np.arange(int(seconds * RATE)) / RATE
    return np.where(times >= at, 12000 * np.sin(2 * np.pi * 880 * times), 0).astype("<i2")


def test_picture_and_sound_of_the_stream_are_in_step(inputs, painter):
    """The frame of the cycle that a time shows, and the sound at that time, are those that were sent together."""
    clock, out = Clock(), io.BytesIO()
    stream = LipSyncStream(inputs / "face.mp4", box=BOX)
    transport = TransportStream(out, stream, crf=10, preset="ultrafast")
    recorder = Recorder(clock)
    write_sound, write_frame = transport.write_sound, transport.write_frame
    transport.write_sound = lambda pcm: (recorder.write_sound(pcm), write_sound(pcm))
    transport.write_frame = lambda frame, index: (recorder.write_frame(frame, index), write_frame(frame, index))
    sound = SoundPipe(io.BytesIO(beep(1.0).tobytes()))
    broadcast(stream, sound, InBackground(transport), clock.now, clock.sleep)
    sent = np.flatnonzero(np.concatenate(recorder.sound))[0] / RATE
    check_in_step(out.getvalue(), recorder.frames, sent)


def check_in_step(content: bytes, frames: list[np.ndarray], onset: float) -> None:
    with av.open(io.BytesIO(content)) as container:
        pictures, sounds = [], []
        for frame in container.decode():
            (pictures if isinstance(frame, av.VideoFrame) else sounds).append(frame)
    begun = pictures[0].time
    assert len(pictures) == len(frames)
    assert np.allclose([picture.time - begun for picture in pictures], np.arange(len(pictures)) / 25, atol=1e-3)
    for picture, frame in zip(pictures, frames, strict=True):
        assert np.abs(picture.to_ndarray(format="bgr24").astype(int) - frame).mean() < 6
    wave = np.concatenate([sound.to_ndarray()[0] for sound in sounds])
    heard = sounds[0].time - begun + np.flatnonzero(np.abs(wave) > 0.1)[0] / RATE
    assert heard == pytest.approx(onset, abs=0.04)


def command(inputs: Path, *words: str) -> list[str]:
    box = ["--box", *map(str, BOX)]
    given = ["--face", inputs / "face.mp4", "--checkpoint_path", inputs / "generator.pth", *box, *words]
    return [sys.executable, str(ROOT / "live.py"), *map(str, given)]


def test_a_real_player_reads_the_stream(inputs, tmp_path):
    """Samples into the script's standard input, its standard output into ffmpeg, which finds picture and sound."""
    if not shutil.which("ffmpeg"):
        pytest.skip("needs ffmpeg's tools")
    reading = ["ffmpeg", "-v", "error", "-i", "-", "-map", "0:v", "-map", "0:a", "-c:v", "ffv1", "-c:a", "pcm_s16le"]
    sender = subprocess.Popen(command(inputs, "--audio", "-"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    player = subprocess.Popen([*reading, str(tmp_path / "seen.mkv")], stdin=sender.stdout, stderr=subprocess.PIPE)
    sender.stdout.close()
    sender.communicate(beep(1.0).tobytes())
    assert player.communicate()[1] == b"" and (sender.returncode, player.returncode) == (0, 0)
    assert FrameReader(tmp_path / "seen.mkv").fps == 25
    heard = np.flatnonzero(np.abs(audio.load_wav(tmp_path / "seen.mkv")) > 0.1)[0] / RATE
    assert 1.0 - 0.1 < heard < 1.0 + 0.6  # what silence came first depends on how soon the sound was there
    assert 40 <= len(list(FrameReader(tmp_path / "seen.mkv"))) <= 75


@pytest.mark.parametrize(
    "words, told",
    [
        (["--face", "none.mp4"], "none.mp4 does not exist"),
        (["--audio", "none.raw"], "none.raw cannot be opened"),
        (["--format", "avi"], "--format"),
        (["--lossless"], "--lossless"),
        (["--crf", "99"], "--crf"),
    ],
)
def test_what_cannot_be_used_is_one_line(inputs, words, told):
    import live as script
    from errors import run_script

    given = ["--face", str(inputs / "face.mp4"), "--checkpoint_path", str(inputs / "generator.pth"), *words]
    with pytest.raises(SystemExit) as caught, pytest.MonkeyPatch.context() as patched:
        lines: list[str] = []
        patched.setattr("sys.stderr.write", lambda text: lines.append(text) or len(text), raising=False)
        run_script(lambda: script.main([*given, "--box", *map(str, BOX)]))
    assert caught.value.code == 1
    assert told in "".join(lines)
