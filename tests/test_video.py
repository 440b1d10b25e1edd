"""Frames out of all kinds of files, and frames and sound into files."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from audio import load_wav
from errors import InputError
from lipsync.video import Colour, FrameReader
from lipsync.video_writer import VideoWriter

SIZE = (48, 64)


def numbered(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A grey frame whose brightness tells its number; its top left corner is red."""
    frame = np.full((*size, 3), 40 + 10 * index, np.uint8)
    frame[:12, :12] = (0, 0, 255)
    return frame


def number_of(frame: np.ndarray) -> int:
    return round((float(frame[20:28, 20:44].mean()) - 38) / 10)


def make_video(path: Path, frames, pts=None, rate=25, rotation=None, codec="libx264", sound=False) -> Path:
    """Frames at `pts` (in 1 / rate seconds) as a video file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"crf": "1"} if codec == "libx264" else {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p" if codec == "libx264" else "bgr0"
        stream.codec_context.time_base = Fraction(1, rate)
        if rotation:
            stream.set_display_rotation(rotation)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="bgr24")
            frame.pts = index if pts is None else pts[index]
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read(path: Path, **kwargs) -> list[np.ndarray]:
    return list(FrameReader(path, **kwargs))


def tone(path: Path, seconds: float = 1.0, rate: int = 16000, channels: int = 1, codec: str | None = None) -> Path:
    """A rising tone that starts at once, as 16-bit PCM or encoded by `codec`."""
    t = np.arange(round(seconds * rate)) / rate
    wave = (8000 * np.sin(2 * np.pi * (300 * t + 400 * t * t))).astype(np.int16)
    with av.open(str(path), "w") as container:
        layout = {1: "mono", 2: "stereo"}[channels]
        stream = container.add_stream(codec or "pcm_s16le", rate=rate)
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray(np.repeat(wave, channels)[None], format="s16", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


class TestFrameReader:
    def test_constant_rate_gives_every_frame_once_each_time(self, tmp_path):
        reader = FrameReader(make_video(tmp_path / "a.mp4", [numbered(i) for i in range(10)]))
        for _ in range(2):
            assert [number_of(frame) for frame in reader] == list(range(10))
        assert (reader.fps, reader.width, reader.height, reader.frame_count) == (25, 64, 48, 10)

    def test_exact_pixels_of_a_lossless_file(self, tmp_path):
        rng = np.random.default_rng(0)
        frames = [rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for _ in range(4)]
        path = make_video(tmp_path / "a.mkv", frames, codec="ffv1")
        assert all(np.array_equal(a, b) for a, b in zip(frames, read(path), strict=True))

    def test_equals_opencv_on_tagged_and_untagged_video(self, shared):
        for name in ("talking_720p_24fps.mp4", "small_face_454x256.mp4"):
            _, expected = cv2.VideoCapture(str(shared / "clips" / name)).read()
            assert np.array_equal(next(iter(FrameReader(shared / "clips" / name))), expected), name

    def test_variable_rate_becomes_constant_by_time_stamps(self, tmp_path):
        pts = [0, 1, 2, 3, 4, 5, 9, 10, 14, 15]  # frames 5 and 7 stand for four and more slots
        path = make_video(tmp_path / "a.mp4", [numbered(i) for i in range(10)], pts=pts)
        frames = read(path, fps=25)
        assert [number_of(frame) for frame in frames] == [0, 1, 2, 3, 4, 5, 5, 5, 5, 6, 7, 7, 7, 7, 8, 9]
        frames[6][:] = 0  # a repeated frame is not the same array
        assert number_of(frames[7]) == 5

    def test_real_variable_rate_keeps_average_rate_and_duration(self, shared):
        reader = FrameReader(shared / "clips" / "odd_rate_22fps.mp4")
        assert float(reader.fps) == pytest.approx(22.13, abs=0.01)
        assert sum(1 for _ in reader) == pytest.approx(6.1 * 22.13, abs=1.5)

    @pytest.mark.parametrize("rotation", [90, 180, -90])
    def test_rotation_is_applied_as_opencv_does(self, tmp_path, rotation):
        path = make_video(tmp_path / "a.mp4", [numbered(i) for i in range(3)], rotation=rotation)
        reader = FrameReader(path)
        frame = next(iter(reader))
        assert frame.shape[:2] == (reader.height, reader.width) == (SIZE if rotation == 180 else SIZE[::-1])
        _, expected = cv2.VideoCapture(str(path)).read()
        assert np.array_equal(frame, expected)

    @pytest.mark.parametrize("suffix", ["mkv", "ts", "mp4"])
    def test_truncated_file_gives_what_decodes_and_warns_once(self, tmp_path, suffix, capsys):
        rng = np.random.default_rng(0)
        frames = [rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for _ in range(50)]
        whole = tmp_path / f"whole.{suffix}"
        with VideoWriter(whole, SIZE, 25) as writer:
            for frame in frames:
                writer.write(frame)
        cut = tmp_path / f"cut.{suffix}"
        data = whole.read_bytes()
        cut.write_bytes(data[: int(0.6 * len(data))])
        reader = FrameReader(cut)
        counts = [sum(1 for _ in reader) for _ in range(2)]
        assert 10 < counts[0] == counts[1] < 45
        if suffix != "ts":  # a transport stream does not say how long it should be
            assert capsys.readouterr().err.count("cut short") == 1

    def test_damage_in_the_middle_is_passed_over(self, tmp_path):
        path = make_video(tmp_path / "a.mkv", [numbered(i) for i in range(20)], codec="ffv1")
        data = bytearray(path.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 200] = bytes(200)
        path.write_bytes(data)
        assert 8 <= len(read(path)) <= 20

    def test_cover_picture_is_not_the_video(self, tmp_path):
        sound = tone(tmp_path / "a.wav")
        path = tmp_path / "cover.mp4"
        with av.open(str(path), "w") as container, av.open(str(sound)) as source:
            cover = container.add_stream("mjpeg", rate=25)
            cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            stream = container.add_stream("aac", rate=16000)
            stream.layout = "mono"
            picture = av.VideoFrame.from_ndarray(numbered(0), format="bgr24").reformat(format="yuvj420p")
            container.mux(cover.encode(picture))
            for frame in source.decode(audio=0):
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with pytest.raises(InputError, match="no video stream"):
            FrameReader(path)

    @pytest.mark.parametrize(
        "name", ["with space.mp4", 'it\'s "q".mp4', "días·видео.mp4", "a.b.c.mp4", "-lead.mp4", "12:30.mp4"]
    )
    def test_odd_names(self, tmp_path, name, monkeypatch):
        make_video(tmp_path / "plain.mp4", [numbered(i) for i in range(3)]).rename(tmp_path / name)
        monkeypatch.chdir(tmp_path)
        assert len(read(Path(name))) == 3

    def test_picture_is_one_frame(self, tmp_path):
        cv2.imwrite(str(tmp_path / "p.PNG"), numbered(3))
        reader = FrameReader(tmp_path / "p.PNG")
        assert reader.is_image and [number_of(frame) for frame in reader] == [3] and reader.fps == 25

    def test_unusable_files(self, tmp_path):
        (tmp_path / "text.mp4").write_text("just some text\n" * 50)
        (tmp_path / "text.jpg").write_text("just some text\n" * 50)
        (tmp_path / "empty.mp4").touch()
        for path, message in (
            (tmp_path / "none.mp4", "does not exist"),
            (tmp_path, "is a folder"),
            (tmp_path / "empty.mp4", "is empty"),
            (tmp_path / "text.mp4", "cannot be read as a video"),
            (tmp_path / "text.jpg", "cannot be read as a picture"),
            (tone(tmp_path / "sound.wav"), "no video stream"),
        ):
            with pytest.raises(InputError, match=message):
                FrameReader(path)


class TestVideoWriter:
    def write(self, path: Path, frames, speech=None, fps=25, **kwargs) -> Path:
        with VideoWriter(path, frames[0].shape[:2], fps, speech, **kwargs) as writer:
            for frame in frames:
                writer.write(frame)
        return writer.path

    def test_lossless_is_exact_and_matroska(self, tmp_path):
        rng = np.random.default_rng(0)
        frames = [rng.integers(0, 256, (47, 63, 3), dtype=np.uint8) for _ in range(5)]
        speech = tone(tmp_path / "s.wav")
        path = self.write(tmp_path / "out.mp4", frames, speech, lossless=True)
        assert path == tmp_path / "out.mkv" and not (tmp_path / "out.mp4").exists()
        assert all(np.array_equal(a, b) for a, b in zip(frames, read(path), strict=True))
        assert np.array_equal(load_wav(path), load_wav(speech))

    @pytest.mark.parametrize("size", [(48, 64), (47, 64), (48, 63), (47, 63)])
    def test_size_rate_and_picture_are_kept(self, tmp_path, size):
        y, x = np.mgrid[: size[0], : size[1]]
        frame = np.stack([2 * x, 3 * y, 128 + 0 * x], -1).astype(np.uint8)
        path = self.write(tmp_path / "out.mp4", [frame] * 7, fps=Fraction(30000, 1001), crf=5)
        reader = FrameReader(path)
        frames = list(reader)
        assert (reader.fps, len(frames), frames[0].shape) == (Fraction(30000, 1001), 7, (*size, 3))
        assert np.abs(frames[3].astype(int) - frame).mean() < 4

    @pytest.mark.parametrize("colour", [Colour(), Colour(2, 2, 2, 1), Colour(5, 5, 6, 2), Colour(9, 9, 1, 1)])
    def test_colour_tags_fit_the_values(self, tmp_path, colour):
        path = self.write(tmp_path / "out.mp4", [np.full((48, 64, 3), (40, 60, 220), np.uint8)] * 3, colour=colour)
        reader = FrameReader(path)
        assert reader.colour == colour
        assert np.abs(next(iter(reader)).astype(int) - (40, 60, 220)).max() <= 4

    def test_fast_start(self, tmp_path):
        data = self.write(tmp_path / "out.mp4", [numbered(i) for i in range(5)]).read_bytes()
        assert data.index(b"moov") < data.index(b"mdat")

    @pytest.mark.parametrize(
        ("suffix", "codec", "rate", "channels", "kept"),
        [("wav", None, 22050, 2, "aac"), ("mp3", "libmp3lame", 44100, 2, "mp3"), ("m4a", "aac", 48000, 1, "aac"),
         ("aac", "aac", 16000, 1, "aac"), ("ogg", "libopus", 48000, 2, "aac"), ("flac", "flac", 96000, 2, "aac"),
         ("mp3", "libmp3lame", 8000, 1, "aac")],
    )  # fmt: skip
    def test_sound_keeps_rate_channels_and_place(self, tmp_path, suffix, codec, rate, channels, kept):
        speech = tone(tmp_path / f"s.{suffix}", 2.0, rate, channels, codec)
        path = self.write(tmp_path / "out.mp4", [numbered(0)] * 50, speech)
        with av.open(str(path)) as container:
            stream = container.streams.audio[0]
            assert (stream.codec.canonical_name, stream.rate, stream.channels) == (kept, rate, channels)
            assert float(stream.duration * stream.time_base) == pytest.approx(2.0, abs=0.13)
        assert abs(lag(load_wav(speech), load_wav(path))) <= 16  # a millisecond

    def test_copied_sound_is_bit_exact(self, tmp_path):
        speech = tone(tmp_path / "s.mp3", 1.0, 44100, 1, "libmp3lame")
        path = self.write(tmp_path / "out.mp4", [numbered(0)] * 5, speech)
        with av.open(str(speech)) as a, av.open(str(path)) as b:
            first, second = ([bytes(p) for p in c.demux(c.streams.audio[0]) if p.size] for c in (a, b))
        assert first == second

    def test_failure_leaves_the_old_result_and_nothing_else(self, tmp_path):
        path = tmp_path / "out.mp4"
        path.write_bytes(b"old")
        for error in (RuntimeError, KeyboardInterrupt):
            with pytest.raises(error), VideoWriter(path, SIZE, 25) as writer:
                writer.write(numbered(0))
                raise error
            assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]

    def test_folder_is_made_and_existing_result_replaced(self, tmp_path):
        path = tmp_path / "new" / "deep" / "out.mp4"
        for count in (3, 5):
            assert len(read(self.write(path, [numbered(i) for i in range(count)]))) == count
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize("name", ["out.foo", "out", "out.webm", "out.jpg", "out.wav"])
    def test_unfit_endings(self, tmp_path, name):
        with pytest.raises(InputError, match=r"use \.mp4"):
            VideoWriter(tmp_path / name, SIZE, 25)
        assert list(tmp_path.iterdir()) == []

    def test_folder_that_is_a_file(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot be written"):
            VideoWriter(tmp_path / "file" / "out.mp4", SIZE, 25)


def lag(a: np.ndarray, b: np.ndarray) -> int:
    """Samples by which `b` comes later than `a`."""
    n = min(len(a), len(b))
    correlation = np.fft.irfft(np.fft.rfft(a[:n], 2 * n).conj() * np.fft.rfft(b[:n], 2 * n))
    peak = int(np.argmax(correlation))
    return peak - 2 * n if peak > n else peak
