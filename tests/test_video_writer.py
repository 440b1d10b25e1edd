"""Video out: every frame and the sound in place; results whole or not at all."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import media
import numpy as np
import pytest
from media import numbered, numbers

import audio
from errors import InputError
from lipsync.video import FrameReader, VideoWriter

ROOT = Path(__file__).resolve().parent.parent


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("size", [(32, 48), (33, 48), (32, 47), (33, 47)])
def test_size_rate_and_number_of_frames_are_kept(tmp_path, size):
    path = tmp_path / "new folder" / "out.mp4"
    rate = Fraction(30000, 1001)
    with VideoWriter(path, size, rate) as writer:
        for frame in numbered(12, *size):
            writer.write(frame)
    reader = FrameReader(path)
    assert (reader.height, reader.width, reader.fps, reader.frame_count) == (*size, rate, 12)
    assert numbers(reader) == list(range(12))


def test_index_comes_first(tmp_path):
    path = tmp_path / "out.mp4"
    with VideoWriter(path, (32, 48), 25) as writer:
        writer.write(numbered(1)[0])
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def speech_file(tmp_path: Path, suffix: str) -> Path:
    path, sound = tmp_path / f"speech{suffix}", media.noise(1.6)
    if suffix == ".wav":
        audio.save_wav(sound, path)
        return path
    codec = {".mp3": "libmp3lame", ".ogg": "libopus", ".m4a": "aac", ".flac": "flac"}[suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([sound, sound]), format="fltp", layout="stereo")
        frame.sample_rate = 16000
        resampler = av.AudioResampler(format=stream.format, layout="stereo", rate=48000)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    "suffix, codec", [(".wav", "aac"), (".mp3", "mp3"), (".ogg", "aac"), (".m4a", "aac"), (".flac", "aac")]
)
def test_sound_is_in_place_and_of_the_speechs_own_quality(tmp_path, suffix, codec):
    speech, path = speech_file(tmp_path, suffix), tmp_path / "out.mp4"
    with VideoWriter(path, (32, 48), 25, speech) as writer:
        for frame in numbered(40):
            writer.write(frame)
    with av.open(str(path)) as container, av.open(str(speech)) as source:
        made, given = container.streams.audio[0], source.streams.audio[0]
        assert made.codec.canonical_name == codec
        assert (made.rate, made.channels) == (given.rate, given.channels)
        if given.codec.canonical_name == codec:  # copied, not encoded again
            packets = [bytes(packet) for packet in source.demux(given) if packet.size]
            assert [bytes(packet) for packet in container.demux(made) if packet.size] == packets
    heard, said = audio.load_wav(path, 16000), audio.load_wav(speech, 16000)
    assert abs(len(heard) - len(said)) < 0.07 * 16000
    shared = min(len(heard), len(said)) - 2000
    likeness = [np.corrcoef(heard[1000 + lag :][:shared], said[1000:][:shared])[0, 1] for lag in range(-40, 41)]
    assert int(np.argmax(likeness)) == 40
    assert max(likeness) > 0.95


def test_sound_lies_beside_its_pictures(tmp_path):
    speech, path = speech_file(tmp_path, ".wav"), tmp_path / "out.mp4"
    with VideoWriter(path, (32, 48), 25, speech) as writer:
        for frame in numbered(40):
            writer.write(frame)
    with av.open(str(path)) as container:
        kinds = [packet.stream.type for packet in container.demux() if packet.size]
    assert sum(a != b for a, b in zip(kinds, kinds[1:], strict=False)) >= 4


def test_lossless_keeps_every_pixel_and_sample(tmp_path):
    speech = speech_file(tmp_path, ".wav")
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (33, 47, 3), dtype=np.uint8) for _ in range(5)]
    with VideoWriter(tmp_path / "out.mp4", (33, 47), 25, speech, lossless=True) as writer:
        for frame in frames:
            writer.write(frame)
    assert writer.path == tmp_path / "out.mkv"
    for written, read in zip(frames, FrameReader(writer.path), strict=True):
        assert np.array_equal(written, read)
    assert np.array_equal(audio.load_wav(writer.path, 16000), audio.load_wav(speech, 16000))


def test_a_failure_leaves_the_old_result_and_nothing_else(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), VideoWriter(path, (32, 48), 25) as writer:
        writer.write(numbered(1)[0])
        raise KeyboardInterrupt
    assert names(tmp_path) == ["out.mp4"]
    assert path.read_text() == "old"
    with VideoWriter(path, (32, 48), 25) as writer:
        writer.write(numbered(1)[0])
        assert path.read_text() == "old"
    assert names(tmp_path) == ["out.mp4"]
    assert len(list(FrameReader(path))) == 1


def test_no_room_for_the_result_is_told(tmp_path):
    (tmp_path / "out.mp4").write_text("old")
    script = (
        "import resource, signal, numpy as np\n"
        "from errors import InputError\n"
        "from lipsync.video import VideoWriter\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        "noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)\n"
        "try:\n"
        "    with VideoWriter('out.mp4', (128, 128), 25) as writer:\n"
        "        for _ in range(100):\n"
        "            writer.write(noise)\n"
        "            noise = np.roll(noise, 7)\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("writing out.mp4 failed (File too large): free some space")  # as a full disk is
    assert names(tmp_path) == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_text() == "old"


@pytest.mark.parametrize("name", ["out.mp3", "out.foo", "out", "out.webm", "out.png"])
def test_files_that_cannot_hold_the_video_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"use .mp4, .mov or .mkv"):
        VideoWriter(tmp_path / name, (32, 48), 25)
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        VideoWriter(tmp_path / "file" / "out.mp4", (32, 48), 25)
