"""The stages of preprocess.py --raw one by one."""

import weakref
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from jobs import ready, twice

from benchmarks.damage import VARIABLE, write_source
from errors import InputError
from lipsync.video import FrameReader
from preprocessing.crops import crop, sharpness, smooth_track
from preprocessing.options import RawOptions
from preprocessing.report import draw_histograms
from preprocessing.shots import Shots
from preprocessing.sound import Sound, extract
from preprocessing.sources import find_sources
from preprocessing.splits import split_sources, write_filelists
from preprocessing.sync import Evidence, speaking, verdicts
from preprocessing.tracks import BLURRED, TOO_SHORT, TOO_SMALL, TURNED, plan
from preprocessing.watching import Watched, turn, watch
from preprocessing.workers import DIED, run_jobs, share_of_rank

FPS, RATE = 25, 16000


# Sound and frame rates


@pytest.fixture(scope="module")
def flash():
    """Four seconds of grey with a click; from the 50th frame on, where the click is, the picture is white."""
    frames = [np.full((64, 64, 3), 220 if i >= 50 else 30, np.uint8) for i in range(100)]
    sound = np.zeros(4 * RATE, np.int16)
    sound[2 * RATE : 2 * RATE + 400] = 20000 * np.sin(0.4 * np.arange(400))
    return frames, sound


@pytest.mark.parametrize("starts", [0.0, 0.5])
@pytest.mark.parametrize(
    ("ending", "fps", "frames"),
    [
        (".mp4", Fraction(24), 0.75),
        (".mkv", Fraction(30000, 1001), 0.75),
        (".mov", Fraction(60), 0.75),
        (".ts", VARIABLE, 1.5),  # the very frame may be one of those left out
    ],
)
def test_sound_stays_in_step_at_any_rate(tmp_path, flash, ending, fps, frames, starts):
    path = write_source(tmp_path / f"clip{ending}", flash, fps, picture_starts=starts)
    reader = FrameReader(path, fps=FPS)
    sound = extract(path, reader.start, tmp_path / "sound")
    click = int(np.argmax(np.abs(sound.between(0, len(sound)).astype(int)) > 4000)) / RATE
    white = next(i for i, frame in enumerate(reader) if frame.mean() > 125) / FPS
    assert abs(click - white) <= frames / FPS


def test_a_gap_in_the_sound_becomes_silence(tmp_path):
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for start in (0, 3):
            samples = np.full((1, RATE), 9000, np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start * RATE, Fraction(1, RATE)
            container.mux(stream.encode(frame))
    sound = extract(path, Fraction(1, 2), tmp_path / "sound")
    loud = sound.between(0, len(sound)) > 4000
    assert len(sound) == pytest.approx(3.5 * RATE, abs=20)
    assert loud[: int(0.49 * RATE)].all()
    assert not loud[int(0.51 * RATE) : int(2.49 * RATE)].any()
    assert loud[int(2.51 * RATE) : -20].all()


def test_sound_outside_of_the_file_is_silence(tmp_path):
    np.arange(1, 6, dtype=np.int16).tofile(tmp_path / "sound")
    sound = Sound(tmp_path / "sound")
    assert sound.between(-2, 3).tolist() == [0, 0, 1, 2, 3]
    assert sound.between(3, 7).tolist() == [4, 5, 0, 0]
    assert sound.between(9, 11).tolist() == sound.between(-5, -3).tolist() == [0, 0]


def test_a_video_without_sound_is_told(tmp_path, flash):
    path = write_source(tmp_path / "mute.mp4", (flash[0], np.zeros(0, np.int16)))
    with pytest.raises(InputError, match="no audio stream"):
        extract(path, Fraction(0), tmp_path / "sound")


# Cuts


def test_cuts_are_found_to_the_frame():
    rng = np.random.default_rng(0)
    shots = Shots(FPS)
    for _ in range(3):
        scene = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
        for i in range(20):
            shots.see(np.roll(scene, i, axis=1))  # the camera pans
    assert shots.cuts == [20, 40]


# Tracks


def face_at(x: float, y: float = 50, size: float = 60, sharp: float = 100, turned: float = 0) -> np.ndarray:
    return np.array([x, y, x + size, y + size, 0.9, sharp, turned], np.float32)


def watched(faces: list[list[np.ndarray]], cuts: tuple[int, ...] = ()) -> Watched:
    return Watched(len(faces), list(cuts), [np.array(row, np.float32).reshape(-1, 7) for row in faces])


def options(tmp_path, **changes) -> RawOptions:
    return RawOptions(tmp_path, tmp_path / "out", **changes)


def test_short_gaps_are_bridged_and_long_ones_end_a_stretch(tmp_path):
    faces = [[face_at(100 + i)] for i in range(180)]
    faces[30:36] = [[]] * 6
    faces[90:110] = [[]] * 20
    first, second = plan(watched(faces), FPS, options(tmp_path))
    assert (first.first, first.end, second.first, second.end) == (0, 90, 110, 180)
    assert first.boxes[33, 0] == pytest.approx(133, abs=0.5)
    assert first.track == second.track


def test_a_track_is_one_person_and_never_crosses_a_cut(tmp_path):
    faces = [[face_at(50), face_at(200)] for _ in range(60)] + [[face_at(52)] for _ in range(60)]
    pieces = plan(watched(faces, cuts=(60,)), FPS, options(tmp_path))
    assert sorted((piece.first, piece.end) for piece in pieces) == [(0, 60), (0, 60), (60, 120)]
    assert len({piece.track for piece in pieces}) == 3


def test_faces_that_will_not_do_are_dropped_with_their_reason(tmp_path):
    faces = [
        [
            face_at(0, size=30),
            face_at(100, sharp=3),
            face_at(200, turned=70),
            *([face_at(300)] if i < 40 else []),
            face_at(400, sharp=3 if i in (20, 21) else 100),
        ]
        for i in range(100)
    ]
    pieces = plan(watched(faces), FPS, options(tmp_path))
    assert {round(piece.boxes[0, 0]): piece.reason for piece in pieces} == {
        0: TOO_SMALL,
        100: BLURRED,
        200: TURNED,
        300: TOO_SHORT,
        400: "",  # two blurred frames are no reason
    }


def test_a_face_that_turns_away_ends_its_clip(tmp_path):
    faces = [[face_at(100, turned=80 if 70 <= i < 130 else 5)] for i in range(200)]
    pieces = plan(watched(faces), FPS, options(tmp_path))
    assert [(piece.first, piece.end, piece.reason) for piece in pieces] == [
        (0, 70, ""),
        (70, 130, TURNED),
        (130, 200, ""),
    ]


@pytest.mark.parametrize("frames", [50, 250, 251, 600])
def test_clips_last_from_two_to_ten_seconds(tmp_path, frames):
    pieces = plan(watched([[face_at(100)] for _ in range(frames)]), FPS, options(tmp_path))
    lengths = [piece.end - piece.first for piece in pieces]
    assert sum(lengths) == frames
    assert all(50 <= length <= 250 for length in lengths)


def test_turn_is_told_from_the_nose():
    frontal = np.array([[10, 10], [30, 10], [20, 22], [13, 32], [27, 32]])
    half = frontal.copy()
    half[2, 0] = 30
    assert turn(frontal) == pytest.approx(0)
    assert turn(half) == pytest.approx(45)
    assert turn(np.zeros((5, 2))) == 90


def test_landmarks_of_a_real_face_lie_in_its_places():
    from media import portrait

    from face_detection import FaceAlignment

    (face,) = FaceAlignment(face_detector="centerface", landmarks=True).detect_faces([portrait(256)])[0]
    left, right, nose, mouth_left, mouth_right = face[5:].reshape(5, 2)
    assert left[0] < nose[0] < right[0]
    assert max(left[1], right[1]) < nose[1] < min(mouth_left[1], mouth_right[1])
    assert turn(face[5:].reshape(5, 2)) < 40


def test_frames_are_let_go_however_long_the_video(tmp_path):
    alive, most = weakref.WeakSet(), 0

    class Frame(np.ndarray):
        __hash__ = object.__hash__

    class Reader:
        fps, height, width = Fraction(25), 64, 64

        def __iter__(self):
            nonlocal most
            for _ in range(600):
                frame = np.zeros((64, 64, 3), np.uint8).view(Frame)
                alive.add(frame)
                most = max(most, len(alive))
                yield frame

    def detect(frames):
        return [np.array([[10, 10, 40, 40, 0.9]], np.float32) for _ in frames]

    seen = watch(Reader(), detect, batch_size=32, find_cuts=True, seen=lambda count: None)
    assert seen.count == len(seen.faces) == 600
    assert most < 80


# Boxes and crops


def test_smoothed_boxes_neither_tremble_nor_lag():
    rng = np.random.default_rng(0)
    true = np.array([[100 + 2.0 * i, 50, 200 + 2.0 * i, 160] for i in range(100)])
    seen = true + rng.normal(0, 3, true.shape)
    seen[40] += 80  # one wrong box
    steady = smooth_track(seen, FPS)
    inner = slice(10, -10)
    assert np.abs(steady - true)[inner].mean() < 1.2
    assert abs(np.mean((steady - true)[inner])) < 0.5
    assert np.abs(np.diff(steady[:, 2] - steady[:, 0]))[inner].max() < 0.7


def test_crops_stay_inside_the_frame_and_blur_shows():
    frame = np.random.default_rng(0).integers(0, 255, (100, 120, 3), np.uint8)
    assert crop(frame, np.array([-5, 20, 40, 130]), (0, 10, 0, 5)).shape == (80, 45, 3)
    assert sharpness(frame) > 100 * sharpness(cv2.GaussianBlur(frame, (0, 0), 4))
    assert sharpness(frame[:0]) == 0


# Sync


def evidence(offset: int | None, windows: int = 100, seed: int = 0, depth: float = 0.2) -> Evidence:
    """Of windows whose distance dips at an offset, or of wrong sound (None)."""
    rng = np.random.default_rng(seed)
    distances = 1.1 + 0.2 * rng.standard_normal((windows, 31)).astype(np.float32)
    if offset is not None:
        distances[:, offset + 15] -= depth
    return Evidence.of(distances)


def test_clear_clips_tell_their_offset_and_wrong_voices_none():
    for offset in (-12, 0, 15):
        (verdict,) = verdicts([evidence(offset)], [5], 0.05)
        assert verdict.kept
        assert verdict.offset == offset
    for seed in range(20):
        (verdict,) = verdicts([evidence(None, seed=seed)], [5], 0.05)
        assert not verdict.kept


def test_neighbours_help_a_clip_that_says_little():
    weak = evidence(4, windows=46, depth=0.15, seed=3)  # surer than chance at one offset, not at the best of all
    assert not verdicts([weak], [5], 0.05)[0].kept
    together = verdicts([weak, *(evidence(4, seed=k) for k in range(5, 9))], [5, 10, 15, 20, 25], 0.05)
    assert together[0].kept
    assert {verdict.offset for verdict in together} == {4}


def test_neighbours_do_not_save_a_wrong_voice_nor_drown_another_offset():
    parts = [*(evidence(4, seed=k) for k in range(6)), evidence(None, seed=7), evidence(-9, seed=8, depth=0.3)]
    found = verdicts(parts, range(8), 0.05)
    assert not found[6].kept
    assert (found[7].kept, found[7].offset) == (True, -9)


def test_an_offset_that_drifts_is_followed():
    found = verdicts([evidence(k // 4, seed=k) for k in range(40)], [30 * k for k in range(40)], 0.05)
    assert all(abs(verdict.offset - k // 4) <= 1 for k, verdict in enumerate(found))


def test_one_voice_has_one_mouth():
    spans = [(0, 100), (10, 90), (95, 200), (300, 400)]
    assert speaking(spans, [0.1, 0.2, 0.1, 0.05]) == [False, True, True, True]


def test_min_confidence_is_a_floor():
    assert not verdicts([evidence(3)], [5], min_confidence=0.5)[0].kept


# Sources, splits, ranks


def test_lengths_that_differ_by_rounding_alone_are_drawn(tmp_path):
    cuts = np.arange(6) * 1.2  # 2.4 to 3.6 is not as long as 3.6 to 4.8
    kept = [
        {"offset": "", "confidence": "", "start": float(start), "end": float(end), "face": 240.0}
        for start, end in zip(cuts[:-1], cuts[1:], strict=True)
    ]
    assert len({row["end"] - row["start"] for row in kept}) > 1
    draw_histograms(kept, tmp_path / "histograms.png")
    assert (tmp_path / "histograms.png").stat().st_size > 1000


def test_names_are_safe_and_tell_sources_apart(tmp_path):
    for name in ("a.mp4", "a talk (1).MKV", "sub/a.mp4", "b.mp4", "b.mkv", ".hidden.mp4", "é;rm -rf.webm", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    sources = find_sources(tmp_path)
    names = [source.name for source in sources]
    assert len(set(names)) == len(names) == 6
    assert "a" in names
    assert all(not set(name) & set(" /;().") for name in names)
    assert {source.relative: source.name for source in find_sources(tmp_path)} == {s.relative: s.name for s in sources}


def test_splits_are_of_whole_sources_seeded_and_never_empty():
    seconds = {f"talk{k}": 10.0 * (1 + k % 7) for k in range(40)}
    chosen = split_sources(seconds, (0.8, 0.1, 0.1), seed=3)
    assert chosen == split_sources(dict(reversed(seconds.items())), (0.8, 0.1, 0.1), seed=3)
    assert chosen != split_sources(seconds, (0.8, 0.1, 0.1), seed=4)
    total = sum(seconds.values())
    for split, least, most in (("train", 0.7, 0.9), ("val", 0.05, 0.16), ("test", 0.05, 0.16)):
        share = sum(seconds[name] for name in seconds if chosen[name] == split) / total
        assert least <= share <= most
    assert set(split_sources({"a": 900, "b": 5, "c": 7}, (0.9, 0.05, 0.05), 0).values()) == {"train", "val", "test"}
    assert split_sources({"a": 900, "b": 0}, (0.9, 0.05, 0.05), 0) == {"a": "train"}


def test_one_source_alone_has_no_validation_and_says_so(tmp_path, capsys):
    counts = write_filelists({"a": ["a/00000"]}, {"a": "train"}, tmp_path / "lists")
    assert counts == {"train": 1, "val": 0, "test": 0}
    assert "val.txt is empty" in capsys.readouterr().err


def test_ranks_share_without_overlap(monkeypatch):
    names = [f"v{k}" for k in range(11)]
    shares = []
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        shares += share_of_rank(names)
    assert sorted(shares) == sorted(names)


# Workers


def test_a_job_that_kills_its_process_stops_no_other():
    jobs = [("one", 1), ("deadly", 0), ("two", 2), ("three", 3)]
    outcomes = dict(run_jobs(twice, jobs, ["cpu", "cpu"], ready, "setup"))
    assert outcomes == {"one": 2, "deadly": DIED, "two": 4, "three": 6}
