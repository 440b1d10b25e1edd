"""Video in: every frame once, upright, in its colours, at its time."""

import gc
from fractions import Fraction
from pathlib import Path

import av
import cv2
import media
import numpy as np
import pytest
from media import numbered, numbers

import audio
from errors import InputError
from lipsync.video import Colour, FrameReader, VideoWriter

RED, GREEN, BLUE, GREY = (0, 0, 255), (0, 255, 0), (255, 0, 0), (128, 128, 128)


def quarters(height: int = 32, width: int = 64) -> np.ndarray:
    """A picture whose four quarters differ in colour."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = RED, GREEN
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = BLUE, GREY
    return picture


def write_stamped(path: Path, frames, stamps, rate=25, last_duration=None) -> None:
    """A lossless clip with frames at given time stamps in milliseconds; `rate` is what the container states."""
    time_base = Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "0", "bf": "0"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = "yuv444p", time_base
        packets = []
        for frame, stamp in zip(frames, stamps, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="bgr24").reformat(format="yuv444p")
            picture.pts, picture.time_base = stamp, time_base
            packets += stream.encode(picture)
        packets += stream.encode()
        for packet, following in zip(packets, [*packets[1:], None], strict=True):
            packet.duration = following.pts - packet.pts if following else last_duration or packet.duration
        container.mux(packets)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_frames_of_the_parity_clip_are_exact(parity):
    reader = FrameReader(parity / "face.mkv")
    frames = list(reader)
    assert (len(frames), reader.fps, reader.width, reader.height) == (24, 25, 160, 128)
    expected = np.load(parity / "frames_box.npz")["frames"]
    outside = np.ones((128, 160), bool)
    outside[20:116, 40:130] = False
    for k, result in enumerate(expected):
        assert np.array_equal(frames[4 * k % 24][outside], result[outside])


def test_real_clips_are_read_as_opencv_reads_them(shared):
    for name in ("talking_720p_24fps.mp4", "small_face_454x256.mp4", "painting_720p_2997fps.mp4"):
        reader, capture = FrameReader(shared / "clips" / name), cv2.VideoCapture(str(shared / "clips" / name))
        assert float(reader.fps) == pytest.approx(capture.get(cv2.CAP_PROP_FPS))
        for _, frame in zip(range(3), reader, strict=False):
            assert np.array_equal(frame, capture.read()[1])
        reader.close()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".mov"])
def test_constant_rate_gives_exactly_the_files_frames_each_time(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    media.write_clip(path, numbered(40), fps=30)
    reader = FrameReader(path)
    assert numbers(reader) == list(range(40))
    assert numbers(reader) == list(range(40))
    assert reader.fps == 30
    assert reader.frame_count in (40, None)


def test_uneven_rounding_of_time_stamps_is_not_a_variable_rate(tmp_path):
    path = tmp_path / "clip.mkv"
    write_stamped(path, numbered(45), [round(1001 * i / 30) for i in range(45)], rate=Fraction(30000, 1001))
    assert numbers(FrameReader(path)) == list(range(45))


def test_odd_last_duration_does_not_change_the_rate(tmp_path):
    path = tmp_path / "clip.mp4"
    write_stamped(path, numbered(30), [40 * i for i in range(30)], last_duration=1)
    reader = FrameReader(path)
    assert reader.fps == 25
    assert numbers(reader) == list(range(30))


def test_variable_rate_becomes_constant_by_time_stamps(tmp_path):
    path = tmp_path / "clip.mp4"
    stamps = [*range(0, 800, 40), *range(800, 2400, 80), *range(2400, 2800, 20)]  # 25, 12.5, then 50 fps
    write_stamped(path, numbered(len(stamps)), stamps, last_duration=20)
    reader = FrameReader(path)
    shown = numbers(reader)
    rate = float(reader.fps)
    assert rate == pytest.approx(1000 * len(stamps) / 2820, rel=0.02)
    assert len(shown) == pytest.approx(2.82 * rate, abs=1)
    for slot, number in enumerate(shown):
        assert abs(stamps[number] - 1000 * slot / rate) <= 80 / 2 + 1000 / rate  # as near as there is a frame
    assert numbers(FrameReader(path, fps=25))[:20] == list(range(20))


def test_delivered_rate_can_be_chosen(tmp_path):
    path = tmp_path / "clip.mp4"
    media.write_clip(path, numbered(30), fps=30)
    reader = FrameReader(path, fps=15)
    assert reader.fps == 15
    assert numbers(reader) == pytest.approx(list(range(0, 30, 2)), abs=1)


def test_a_break_in_the_time_stamps_is_closed(tmp_path):
    path = tmp_path / "clip.mkv"
    write_stamped(path, numbered(20), [40 * i + (500_000 if i >= 10 else 0) for i in range(20)])
    assert numbers(FrameReader(path, fps=25)) == list(range(20))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle", [0, 90, 180, -90])
def test_rotation_metadata_is_applied(tmp_path, angle, mirrored):
    path, picture = tmp_path / "clip.mp4", quarters()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        stream.set_display_rotation(angle, hflip=mirrored)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())
    expected = np.rot90(picture, angle // 90)
    expected = expected[:, ::-1] if mirrored else expected
    reader = FrameReader(path)
    frame = next(iter(reader))
    assert frame.shape == expected.shape == (reader.height, reader.width, 3)
    assert np.abs(frame.astype(int) - expected).mean() < 6


@pytest.mark.parametrize("matrix, limits", [(1, 1), (1, 2), (5, 1), (6, 2), (2, 1)])
def test_colours_survive_reading_and_writing(tmp_path, matrix, limits):
    path, picture = tmp_path / "clip.mp4", quarters()
    colour = Colour(matrix=matrix, range=limits)
    with VideoWriter(path, (32, 64), 25, colour=colour) as writer:
        for _ in range(3):
            writer.write(picture)
    reader = FrameReader(path)
    assert (reader.colour.matrix, reader.colour.range) == (matrix, limits)
    inside = np.s_[4:12, 4:28], np.s_[4:12, 36:60], np.s_[20:28, 4:28], np.s_[20:28, 36:60]
    frame = list(reader)[1].astype(int)
    for part in inside:
        assert np.abs(frame[part] - picture[part]).max() <= 5


def test_pixels_that_are_not_square_stay_so(tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, (32, 64), 25, pixel_aspect=Fraction(4, 3)) as writer:
        writer.write(quarters())
    assert FrameReader(path).pixel_aspect == Fraction(4, 3)


@pytest.mark.parametrize("name", ["a.b.c.JPG", "péché 口.png", 'it\'s "q".jpeg', "-dash.png"])
def test_a_picture_is_one_frame(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = media.portrait(64)
    encoded = cv2.imencode(Path(name).suffix.lower(), picture)[1]
    encoded.tofile(name)
    reader = FrameReader(name, fps=30)
    assert (reader.is_image, reader.fps, reader.frame_count) == (True, 30, 1)
    first, second = list(reader), list(reader)
    assert len(first) == len(second) == 1
    first[0][:] = 0
    assert np.abs(second[0].astype(int) - picture).mean() < 4


@pytest.mark.parametrize("name", ["-x.mp4", "a:b.mp4", "file:x.mkv", "sp ace 'q\" %03d ünï.v1.2.mp4"])
def test_awkward_names(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with VideoWriter(name, (32, 48), 25) as writer:
        for frame in numbered(5):
            writer.write(frame)
    assert names(Path()) == [name]
    assert len(list(FrameReader(name))) == 5


def truncated(tmp_path: Path, suffix: str) -> Path:
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    rng = np.random.default_rng(0)
    with VideoWriter(whole, (64, 64), 25) as writer:
        for _ in range(50):
            writer.write(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) * 6 // 10])
    return cut


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_truncated_video_gives_what_decodes_and_one_warning(tmp_path, suffix, capsys):
    path = truncated(tmp_path, suffix)
    reader = FrameReader(path)
    first, second = sum(1 for _ in reader), sum(1 for _ in reader)
    assert first == second
    assert 15 < first < 45
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert warnings[0].startswith("warning:")
    assert "cut short" in warnings[0]


def test_a_whole_video_gives_no_warning(tmp_path, capsys):
    for suffix in (".mp4", ".mkv", ".webm"):
        path = tmp_path / f"clip{suffix}"
        media.write_clip(path, numbered(20), media.noise(1.5))  # sound longer than the pictures
        assert len(list(FrameReader(path))) == 20
    assert capsys.readouterr().err == ""


def test_damage_in_the_middle_is_passed_over(tmp_path, capsys):
    path = truncated(tmp_path, ".mkv").with_name("whole.mkv")
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : third + 400] = bytes(400)
    path.write_bytes(content)
    assert len(list(FrameReader(path))) >= 40


def bad_file(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "face.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is no video\n" * 100)
    elif kind == "picture of text":
        path = tmp_path / "face.png"
        path.write_text("this is no picture\n" * 100)
    elif kind == "sound only":
        path = tmp_path / "face.wav"
        audio.save_wav(media.noise(0.5), path)
    elif kind == "album cover":
        path = tmp_path / "face.m4a"
        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream("aac", rate=16000, layout="mono")
            cover = container.add_stream("png", rate=1)
            cover.height, cover.width, cover.pix_fmt = 32, 48, "rgb24"
            cover.disposition = av.stream.Disposition.attached_pic
            container.mux(cover.encode(av.VideoFrame.from_ndarray(numbered(1)[0], format="bgr24")))
            samples = av.AudioFrame.from_ndarray(media.noise(0.5)[None], format="fltp", layout="mono")
            samples.sample_rate = 16000
            container.mux([*stream.encode(samples), *stream.encode()])
    elif kind == "no frame decodes":
        whole = truncated(tmp_path, ".mp4").with_name("whole.mp4")
        content = whole.read_bytes()
        start = content.index(b"mdat") + 4
        path.write_bytes(content[:start] + bytes(len(content) - start))
    elif kind == "no index":
        media.write_clip(tmp_path / "whole.mp4", numbered(30))  # its index is at the end
        path.write_bytes((tmp_path / "whole.mp4").read_bytes()[:-400])
    return path


@pytest.mark.parametrize(
    "kind, words",
    [
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("empty", "is empty"),
        ("text", "cannot be read as a video"),
        ("picture of text", "cannot be read as a picture"),
        ("sound only", "no video stream"),
        ("album cover", "no video stream"),
        ("no frame decodes", "no frame"),
        ("no index", "cannot be read as a video"),
    ],
)
def test_what_is_no_video_is_told(tmp_path, kind, words):
    path = bad_file(tmp_path, kind)
    with pytest.raises(InputError, match=words) as caught:
        list(FrameReader(path))
    assert str(path) in str(caught.value)


def test_leaving_an_iteration_closes_the_file(tmp_path):
    path = tmp_path / "clip.mp4"
    media.write_clip(path, numbered(30))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with FrameReader(path) as reader:
        frames = iter(reader)
        next(frames)
        assert len(list(Path("/proc/self/fd").iterdir())) > before
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_frames_leave_memory_at_once(tmp_path):
    """Without the help of the garbage collector, which counts objects and knows nothing of their size."""
    path = tmp_path / "clip.mp4"
    media.write_clip(path, numbered(40))
    reader = FrameReader(path)
    gc.collect()
    gc.disable()
    try:
        assert sum(1 for _ in reader) == 40
        assert gc.collect() < 20
    finally:
        gc.enable()
