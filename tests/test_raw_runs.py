"""preprocess.py --raw as a user runs it: videos, good and bad, in, and a tree that training reads, out."""

import csv
import resource
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from media import noise, portrait
from scipy.io import wavfile

import preprocess
from benchmarks.damage import VARIABLE, joined, shifted, write_source
from errors import InputError
from hparams import hparams
from preprocessing import raw as raw_module
from preprocessing import workers
from preprocessing.options import RawOptions
from preprocessing.raw import preprocess_raw
from preprocessing.records import record_path
from preprocessing.sound import as_int16
from training.data import load_clips


def script(*words: object, **settings: object) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "preprocess.py", *words]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=400, check=False, **settings)


def rows_of(root: Path) -> list[dict]:
    with (root / "clips.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def talk(seconds: float, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """A face that moves a little, and sound."""
    face = portrait(128)
    frames = [np.roll(face, i % 3, axis=1) for i in range(round(25 * seconds))]
    return frames, as_int16(noise(seconds, seed))


@pytest.fixture
def in_process(monkeypatch):
    """Jobs are done here and not in new processes, which take seconds to start."""

    def run_jobs(work, jobs, devices, prepare, setup, heard=None):
        prepare(setup, "cpu")
        return ((name, work(name, what)) for name, what in jobs)

    monkeypatch.setattr(raw_module, "run_jobs", run_jobs)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Three good videos, one of them with a cut, and three bad ones."""
    folder = tmp_path_factory.mktemp("raw videos")
    frames, sound = talk(2.4)
    mirrored = [255 - frame[:, ::-1] // 3 for frame in frames[:20]]  # nobody is to be seen there
    write_source(folder / "a talk.mp4", (frames, sound), Fraction(30))
    write_source(folder / "more/b.mkv", talk(2.2, 1), VARIABLE)
    write_source(folder / "cut.mov", (frames + mirrored, np.concatenate([sound, sound])[: 80 * 640]), Fraction(24))
    write_source(folder / "mute.mp4", (frames[:10], sound[:0]))
    (folder / "text.mp4").write_text("not a video")
    (folder / "notes.txt").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def done(videos, tmp_path_factory):
    """(out, lists, finished process) of a run over them."""
    out = tmp_path_factory.mktemp("raw") / "out"
    half_done = out / ".part-cut"
    half_done.mkdir(parents=True)
    (half_done / "0.jpg").touch()
    lists = out.parent / "lists"
    words = ("--sync", "off", "--split", 0.5, 0.25, 0.25, "--workers", 1, "--filelists", lists)
    return out, lists, script("--raw", videos, "--preprocessed_root", out, *words)


def test_good_videos_come_through_and_bad_ones_are_named(done):
    out, _, process = done
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    folders = sorted(path.name for path in out.iterdir() if path.is_dir() and not path.name.startswith("."))
    assert [name.rpartition("-")[0] or name for name in folders] == ["a_talk", "cut", "more_b"]
    assert not list(out.glob("**/.part-*"))
    log = (out / "preprocess.log").read_text()
    assert "mute.mp4" in log
    assert "no audio stream" in log
    assert "text.mp4" in log
    assert all(line in process.stdout for line in log.splitlines())


def test_the_tree_is_the_one_that_training_reads(done):
    out, lists, _ = done
    names = [path.read_text().split() for path in (lists / "train.txt", lists / "val.txt", lists / "test.txt")]
    assert sorted(map(len, names)) == [1, 1, 1]
    for split in ("train", "val"):
        (clip,) = load_clips(out, split, hparams, lead=1, filelists=lists)
        assert len(clip.numbers) == clip.numbers[-1] + 1 >= 50
        rate, wav = wavfile.read(out / (lists / f"{split}.txt").read_text().strip() / "audio.wav")
        assert (rate, len(wav)) == (16000, 640 * len(clip.numbers))


def test_figures_of_every_clip_are_in_the_table(done):
    out, _, _ = done
    kept = {row["source"]: row for row in rows_of(out) if row["result"] == "kept"}
    assert sorted(kept) == ["a talk.mp4", "cut.mov", "more/b.mkv"]
    assert float(kept["cut.mov"]["end"]) == pytest.approx(2.4, abs=0.05)  # not over the cut
    assert all(float(row["face"]) > 50 and row["offset"] == "" for row in kept.values())
    assert (out / "histograms.png").read_bytes().startswith(b"\x89PNG")
    with (out / "sources.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 5


def test_what_is_done_is_not_done_again(done, videos, in_process, capsys):
    out, _, _ = done
    kept = next(out.glob("a_talk*/00000/0.jpg")).stat().st_mtime_ns
    record_path(out, "cut").write_text('{"name": "cu')  # as if that source had been interrupted, its clips in place
    (out / "cut/00000/0.jpg").unlink()
    preprocess.main([*map(str, ("--raw", videos, "--preprocessed_root", out, "--sync", "off"))])
    assert "2 of them done already" in capsys.readouterr().out
    assert next(out.glob("a_talk*/00000/0.jpg")).stat().st_mtime_ns == kept
    assert (out / "cut/00000/0.jpg").is_file()


def test_other_options_are_told_of(done, videos, in_process, capsys):
    words = ("--raw", videos, "--preprocessed_root", done[0], "--sync", "off", "--min_face", 40)
    preprocess.main([*map(str, words)])
    assert "were done with other options" in capsys.readouterr().err


def test_an_interrupted_source_leaves_nothing(tmp_path, in_process, monkeypatch):
    write_source(tmp_path / "raw/a.mp4", talk(2.2))
    options = RawOptions(tmp_path / "raw", tmp_path / "out", sync="off")

    class Stop:
        is_set = staticmethod(lambda: True)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "_stop", Stop)
        preprocess_raw(options)
    assert not list((tmp_path / "out").glob("a*"))
    assert not record_path(tmp_path / "out", "a").exists()
    preprocess_raw(options)
    assert (tmp_path / "out/a/00000/audio.wav").is_file()


def test_ranks_make_one_tree(tmp_path, in_process, monkeypatch, capsys):
    for name in "abc":
        write_source(tmp_path / f"raw/{name}.mp4", talk(2.2))
    options = RawOptions(tmp_path / "raw", tmp_path / "out", sync="off", filelists=tmp_path / "lists")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        preprocess_raw(options)
        said = capsys.readouterr().out
        assert ("still being made elsewhere" in said) == (rank == 1)
    assert sorted(row["clip"] for row in rows_of(tmp_path / "out")) == ["a/00000", "b/00000", "c/00000"]
    assert sum(len(path.read_text().split()) for path in (tmp_path / "lists").iterdir()) == 3


def test_a_clip_that_fails_stops_no_other(tmp_path, in_process, monkeypatch):
    from preprocessing import cutting

    write_source(tmp_path / "raw/a.mp4", talk(4.4))
    whole, calls = cutting.write_crop, []

    def write_crop(frame, box, pads, path, *size):
        calls.append(path)
        if path.name == "7.jpg" and path.parent.name == "00000":
            raise ValueError("bad luck")
        whole(frame, box, pads, path, *size)

    monkeypatch.setattr(cutting, "write_crop", write_crop)
    preprocess_raw(RawOptions(tmp_path / "raw", tmp_path / "out", sync="off", clip_seconds=(2.0, 4.0)))
    assert [row["result"] for row in rows_of(tmp_path / "out")] == ["failed: ValueError: bad luck", "kept"]


def test_known_damage_is_repaired_and_wrong_voices_are_dropped(tmp_path, shared, in_process):
    clips = shared / "data/mvlrs_v1/main"
    frames, sound = joined(sorted((clips / "6021").glob("*.mp4"))[:8])
    _, other = joined(sorted((clips / "6012").glob("*.mp4"))[:8])
    write_source(tmp_path / "raw/late.mp4", (frames, shifted(sound, 7)), Fraction(30))
    write_source(tmp_path / "raw/other.mp4", (frames, other[: len(sound)]))
    write_source(tmp_path / "raw/silent.mp4", (frames[:60], np.zeros(60 * 640, np.int16)))
    options = RawOptions(tmp_path / "raw", tmp_path / "out", shots="off", clip_seconds=(2.0, 5.0))
    preprocess_raw(options)
    rows = rows_of(tmp_path / "out")
    late = [row for row in rows if row["source"] == "late.mp4"]
    assert len(late) == 2
    assert all(row["result"] == "kept" and abs(int(row["offset"]) - 7) <= 1 for row in late)
    assert all(row["result"].startswith("not in sync") for row in rows if row["source"] == "other.mp4")
    assert [row["result"] for row in rows if row["source"] == "silent.mp4"] == ["no sound"]
    first = int(late[0]["offset"]) * 640
    _, wav = wavfile.read(tmp_path / "out/late/00000/audio.wav")
    true = shifted(sound, 7)[first : first + len(wav)]
    assert np.corrcoef(wav.astype(float), true.astype(float))[0, 1] > 0.98


def test_folders_of_other_data_are_left_alone(tmp_path, in_process):
    write_source(tmp_path / "raw/a.mp4", talk(2.2))
    (tmp_path / "out/a/00001").mkdir(parents=True)
    with pytest.raises(InputError, match="no clip came out"):
        preprocess_raw(RawOptions(tmp_path / "raw", tmp_path / "out", sync="off"))
    assert (tmp_path / "out/a/00001").is_dir()
    assert "was not made from a raw video" in (tmp_path / "out/preprocess.log").read_text()


# Bad input


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--raw", "missing"), "is not a folder"),
        (("--raw", "empty"), "no video lies in"),
        (("--raw", "empty", "--data_root", "empty"), "give one of them"),
        (("--data_root", "empty", "--sync", "off"), "--sync"),
        (("--raw", "empty", "--smooth"), "--smooth"),
        (("--raw", "empty", "--clip_seconds", "6", "10"), "--clip_seconds"),
        (("--raw", "empty", "--split", "0.5", "0.5", "0.5"), "--split"),
        (("--raw", "empty", "--sync", "maybe"), "--sync"),
        (("--raw", "empty", "--min_face", "0"), "--min_face"),
        (("--raw", "empty", "--workers", "-1"), "--workers"),
        (("--raw", "one", "--syncnet_checkpoint_path", "missing.pth"), "missing.pth"),
        (("--raw", "one", "--preprocessed_root", "file"), "is a file"),
    ],
)
def test_bad_input_is_told_before_any_work(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "one"):
        Path(folder).mkdir()
    Path("one/a.mp4").touch()
    Path("file").touch()
    root = () if "--preprocessed_root" in words else ("--preprocessed_root", "out")
    with pytest.raises(InputError, match=said):
        preprocess.main([*words, *root])
    assert not Path("out").exists()


def test_nothing_usable_is_an_error(tmp_path, in_process):
    write_source(tmp_path / "raw/a.mp4", ([np.zeros((64, 64, 3), np.uint8)] * 60, as_int16(noise(2.4))))
    with pytest.raises(InputError, match="no clip came out"):
        preprocess_raw(RawOptions(tmp_path / "raw", tmp_path / "out", sync="off"))


def test_a_full_disk_ends_the_run_with_one_line(tmp_path):
    write_source(tmp_path / "raw/a.mp4", talk(2.2))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    words = ("--raw", tmp_path / "raw", "--preprocessed_root", tmp_path / "out", "--sync", "off", "--workers", 1)
    process = script(*words, preexec_fn=limit)
    assert process.returncode == 1
    assert "free some space" in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr
    assert not list((tmp_path / "out").glob("a*"))
