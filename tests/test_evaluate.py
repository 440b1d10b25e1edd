"""evaluate.py: what it takes, what it refuses, what it writes, and that the same input gives the same figures."""

import csv
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from inference_setup import scene
from media import RATE, noise, write_clip

import evaluate
from errors import InputError
from evaluation import clips, inception, report
from evaluation.clips import GENERATED, REAL, WRONG, ClipResult
from evaluation.inputs import Item, read_items, wrong_speakers
from evaluation.judges import PublishedSyncNet
from evaluation.options import EvaluationOptions
from evaluation.tracks import Track, inference_options, read_sound, read_track
from models import SyncNet_color, Wav2Lip
from models.checkpoint import save_checkpoint

ROOT = Path(__file__).resolve().parent.parent
BOX = (20, 148, 60, 188)  # of the head in `scene`
FRAMES = 24
OUTPUTS = ("report.json", "report.html", "clips.csv", "summary.csv")


def frames_of(seed: int, darker: int = 0) -> list[np.ndarray]:
    """The head, which drifts, with a mouth that opens and shuts."""
    open_by = np.random.default_rng(seed).integers(0, 60, FRAMES)
    made = []
    for place, opened in enumerate(open_by):
        frame = scene(place % 6)
        frame[110:120, 110:140] = 60 + opened
        made.append(frame - np.minimum(frame, darker))
    return made


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """results/ and real/ of the same names, weights, and lists of pairs and in the published format."""
    folder = tmp_path_factory.mktemp("media")
    for seed, name in enumerate(("a", "sub/b", "c")):
        sound = noise(FRAMES / 25, seed)
        write_clip(folder / "real" / f"{name}.mp4", frames_of(seed), sound)
        write_clip(folder / "results" / f"{name}.mp4", frames_of(seed, darker=8), sound)
    torch.manual_seed(0)
    save_checkpoint(folder / "expert.pth", SyncNet_color(width=0.125))
    save_checkpoint(folder / "generator.pth", Wav2Lip(width=0.125))
    return folder


def words(media: Path, outdir: Path, **flags: object) -> list[str]:
    """A command line with a constant box and the small expert."""
    given = {"outdir": outdir, "expert": media / "expert.pth", "box": BOX, "device": "cpu"} | flags
    line = []
    for name, value in given.items():
        if value is not None:
            line += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return line


def read(outdir: Path) -> dict:
    return json.loads((outdir / "report.json").read_text())


@pytest.fixture(scope="module")
def evaluated(media, tmp_path_factory) -> Path:
    """The report of results/ beside real/."""
    folder = tmp_path_factory.mktemp("evaluated")
    evaluate.main(words(media, folder, results=media / "results", real=media / "real"))
    return folder


class TestFolders:
    def test_pairs_have_every_figure_and_the_rows_that_give_scale(self, evaluated):
        found = read(evaluated)
        assert [clip["name"] for clip in found["clips"]] == ["a", "c", "sub/b"]
        assert not any(clip["failures"] for clip in found["clips"])
        summary = found["summary"]
        sync = {"lse_d", "lse_c", "offset", "in_sync"}
        assert summary[GENERATED].keys() >= sync | {"psnr_lower", "ssim_lower", "faceless"}
        assert summary[REAL].keys() >= sync | {"faceless", "motion_speech"}
        assert summary[WRONG].keys() == sync
        psnr = summary[GENERATED]["psnr_lower"]
        assert psnr["mean"] == pytest.approx(20 * np.log10(255 / 8), abs=1.5) and psnr["count"] == 3
        assert psnr["low"] <= psnr["mean"] <= psnr["high"]
        assert summary[GENERATED]["faceless"]["mean"] == 0
        assert "expert.pth" in found["judge"] and "do not compare" in found["judge_note"]

    def test_same_input_gives_the_same_bytes_and_kept_clips_are_not_measured_again(
        self, media, evaluated, tmp_path, monkeypatch, capsys
    ):
        line = words(media, tmp_path, results=media / "results", real=media / "real")
        evaluate.main(line)
        printed = capsys.readouterr().out
        assert "wrong audio" in printed and "FID was not computed" in printed and "expert.pth" in printed
        first = [(tmp_path / name).read_bytes() for name in OUTPUTS]
        assert first == [(evaluated / name).read_bytes() for name in OUTPUTS]
        monkeypatch.setattr(clips, "read_track", None)  # would fail
        evaluate.main(line)
        assert first == [(tmp_path / name).read_bytes() for name in OUTPUTS]

    def test_interrupted_run_goes_on(self, media, tmp_path, monkeypatch):
        line = words(media, tmp_path, results=media / "results", real=media / "real")
        calls = []

        def interrupted(options, *rest):
            calls.append(options.face)
            if len(calls) == 3:  # the second clip's first video
                raise KeyboardInterrupt
            return read_track(options, *rest)

        monkeypatch.setattr(clips, "read_track", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate.main(line)
        assert not (tmp_path / "report.json").exists()
        evaluate.main(line)
        assert len(calls) == 3 + 4 and len(read(tmp_path)["clips"]) == 3

    def test_bad_clips_are_listed_and_do_not_stop_the_rest(self, media, tmp_path, capsys):
        results = tmp_path / "results"
        write_clip(results / "a.mp4", frames_of(0), noise(FRAMES / 25, 0))
        write_clip(results / "mute.mp4", frames_of(1))
        write_clip(results / "short.mp4", frames_of(2)[:3], noise(0.5, 2))
        (results / "text.mp4").write_text("<no video> & none")
        evaluate.main(words(media, tmp_path / "out", results=results))
        found = read(tmp_path / "out")
        reasons = {clip["name"]: clip["failures"].get(GENERATED) for clip in found["clips"]}
        assert reasons["a"] is None
        assert "no audio stream" in reasons["mute"]
        assert "never in 5 in a row" in reasons["short"]
        assert "cannot be read as a video" in reasons["text"]
        assert found["summary"][GENERATED]["lse_d"]["count"] == 1
        assert found["summary"][GENERATED]["faceless"]["count"] == 3
        assert REAL not in found["clips"][0]["figures"] and "see --real" in found["row_notes"][REAL]
        assert WRONG in found["clips"][0]["figures"]  # the generated video with the speech of another one
        page = (tmp_path / "out" / "report.html").read_text()
        assert "&lt;" not in reasons["text"] and "Not measured" in page
        assert "not measured: mute" in capsys.readouterr().err

    def test_real_videos_of_other_names_are_a_scale_without_pairs(self, media, tmp_path):
        real = tmp_path / "real"
        write_clip(real / "x.mp4", frames_of(7), noise(FRAMES / 25, 7))
        write_clip(real / "a.mp4", [frame[:, :200] for frame in frames_of(0)], noise(FRAMES / 25, 8))
        evaluate.main(words(media, tmp_path / "out", results=media / "results", real=real, strips=0))
        found = {clip["name"]: clip for clip in read(tmp_path / "out")["clips"]}
        assert found["x (real)"]["figures"].keys() == {REAL, WRONG}
        assert "psnr_lower" not in found["c"]["figures"][GENERATED] and not found["c"]["failures"]
        assert "different sizes" in found["a"]["failures"][GENERATED] and REAL in found["a"]["figures"]

    def test_nothing_that_can_be_measured_is_an_error_with_a_report(self, media, tmp_path):
        (tmp_path / "results").mkdir()
        (tmp_path / "results" / "a.mp4").write_text("no video")
        with pytest.raises(InputError, match="no clip could be measured, the first .*cannot be read"):
            evaluate.main(words(media, tmp_path / "out", results=tmp_path / "results"))
        assert (tmp_path / "out" / "report.html").exists()


def test_page_needs_nothing_beside_it(evaluated):
    page = (evaluated / "report.html").read_text()
    loaded = re.findall(r"""(?:src|href)=["']([^"']*)""", page.replace("xlink:href", "href"))
    assert loaded and all(address.startswith(("data:image/jpeg;base64,", "#")) for address in loaded)
    assert page.count("<svg") == 2 and page.count("<img") == 6 and "<script" not in page
    assert "expert.pth" in page and "95 %" in page


def test_tables_are_csv_that_says_who_judged(evaluated):
    with (evaluated / "clips.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 and all("expert.pth" in row["sync_judge"] for row in rows)
    with (evaluated / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["system"] for row in rows} == {GENERATED, REAL, WRONG}
    assert all(float(row["low"]) <= float(row["mean"]) <= float(row["high"]) for row in rows)


def test_folder_without_what_is_unfinished_or_its_own(tmp_path):
    for name in ("a.mp4", ".b.mp4", "report/generated/c.mkv", "sub/d.MOV", "text.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    items = read_items(EvaluationOptions(results=tmp_path, outdir=tmp_path / "report"))
    assert [item.name for item in items] == ["a", "sub/d"]


class TestLists:
    def test_published_list_is_generated_first_and_once(self, media, tmp_path, monkeypatch):
        listed = tmp_path / "list.txt"
        listed.write_text("a a\nc sub/b\nmissing a\n")
        line = words(
            media, tmp_path / "out", filelist=listed, data_root=media / "real", checkpoint_path=media / "generator.pth"
        )
        evaluate.main(line)
        found = {clip["name"]: clip for clip in read(tmp_path / "out")["clips"]}
        assert list(found) == ["a says a", "a says missing", "sub/b says c"]
        assert "psnr_lower" in found["a says a"]["figures"][GENERATED]
        assert "psnr_lower" not in found["sub/b says c"]["figures"][GENERATED]  # the real video says something else
        assert "missing does not exist" in found["a says missing"]["failures"][GENERATED]
        assert read(tmp_path / "out")["summary"][REAL]["lse_d"]["count"] == 2  # each real video once
        made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "generated").iterdir()}
        assert len(made) == 2
        evaluate.main(line)
        assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "generated").iterdir()}

    @pytest.mark.parametrize(
        "text",
        ["generated,real\nresults/a.mp4,real/a.mp4\n", "results/a real/a\n", '# pairs\n\n"results/a.mp4" real/a.mp4\n'],
    )
    def test_pairs(self, media, tmp_path, text):
        (tmp_path / "pairs").write_text(text)
        (item,) = read_items(EvaluationOptions(pairs=tmp_path / "pairs", data_root=media))
        assert item == Item("results/a", media / "results" / "a.mp4", media / "real" / "a.mp4")

    def test_names_that_come_again_are_told_apart_and_real_videos_count_once(self, tmp_path):
        (tmp_path / "pairs").write_text("x.mp4 r.mp4\nx.mp4 r.mp4\n")
        items = read_items(EvaluationOptions(pairs=tmp_path / "pairs"))
        assert [(item.name, item.counts_real) for item in items] == [("x", True), ("x (2)", False)]

    @pytest.mark.parametrize(
        ("text", "message"),
        [("", "is empty"), ("a b c\n", "line 1 .* takes two entries"), ("a b\nc\n", "line 2"), ('a "b\n', "line 1"),
         ("\xff", "cannot be read"), (None, "cannot be read")],
    )  # fmt: skip
    def test_lists_that_are_none(self, tmp_path, text, message):
        path = tmp_path / "list"
        if text is not None:
            path.write_bytes(text.encode("latin-1"))
        for flag in ("pairs", "filelist"):
            with pytest.raises(InputError, match=message):
                read_items(EvaluationOptions(**{flag: path}))


class TestCommandLine:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("", "give one of --results"),
            ("--results r --pairs p", "give one of --results"),
            ("--pairs p --real r", "--real goes with --results"),
            ("--results r --checkpoint_path c", "goes with --filelist"),
            ("--results r --expert e --syncnet s", "both judge sync"),
            ("--results r --strips -1", "from 0"),
            ("--results nowhere", "is not a folder"),
            ("--results {media} --expert nothing.pth", "does not exist"),
            ("--results {media} --outdir {media}/expert.pth", "--outdir .* cannot be used"),
            ("--results {media} --device moon", "--device moon"),
            ("--results {empty}", "holds no video"),
            ("--results {media} --syncnet {empty}", "syncnet_v2.model does not exist: download"),
        ],
    )
    def test_what_cannot_be_used_is_said(self, media, tmp_path, monkeypatch, line, message):
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match=message):
            evaluate.main(line.format(media=media, empty=tmp_path / "empty").split())

    def test_fails_in_one_line(self, tmp_path):
        done = subprocess.run([sys.executable, str(ROOT / "evaluate.py")], capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: give one of")

    def test_help_loads_nothing_heavy(self):
        code = "import sys, evaluate\ntry: evaluate.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert "--filelist" in done.stdout and done.stdout.rstrip().endswith("False")


class TestFaces:
    def test_motion_is_of_the_mouth_between_frames(self, tmp_path):
        still = [scene(0) for _ in range(10)]
        moving = [frame.copy() for frame in still]
        for frame in moving[::2]:
            frame[100:140, 100:150] = 0
        options = EvaluationOptions(results=tmp_path, box=BOX)
        motion = {}
        for name, frames in (("still", still), ("moving", moving)):
            write_clip(tmp_path / f"{name}.mp4", frames)
            found = read_track(inference_options(tmp_path / f"{name}.mp4", options, "cpu"), 25, (96, 96))
            assert found.numbers == list(range(10)) and np.isnan(found.motion[0])
            motion[name] = np.nanmean(found.motion)
        assert motion["still"] < 1 and motion["moving"] > 10

    def test_video_without_a_face_is_all_failures(self, tmp_path):
        path = tmp_path / "wall.mp4"
        write_clip(path, [scene(0, with_face=False)] * 8)
        options = inference_options(path, EvaluationOptions(results=tmp_path), "cpu")
        found = read_track(options, 25, (96, 96))
        assert (found.frames, found.faceless, found.faces) == (8, 1.0, [])

    def test_other_frame_rates_are_read_at_25(self, tmp_path):
        path = tmp_path / "fast.mp4"
        write_clip(path, [scene(k % 6) for k in range(60)], fps=50)
        options = inference_options(path, EvaluationOptions(results=tmp_path, box=BOX), "cpu")
        assert abs(read_track(options, 25, (96, 96)).frames - 30) <= 1

    def test_sound_begins_with_the_picture(self, tmp_path):
        import av

        sound = noise(1.0)
        write_clip(tmp_path / "a.mkv", frames_of(0), sound)
        with av.open(str(tmp_path / "a.mkv")) as source, av.open(str(tmp_path / "late.mkv"), "w") as late:
            streams = {s.index: late.add_stream_from_template(s) for s in source.streams}
            for packet in source.demux():
                if packet.size:
                    if packet.stream.type == "audio":
                        packet.pts += 300  # milliseconds
                        packet.dts = packet.pts
                    packet.stream = streams[packet.stream.index]
                    late.mux(packet)
        early, late = read_sound(tmp_path / "a.mkv"), read_sound(tmp_path / "late.mkv")
        assert len(late) - len(early) == pytest.approx(0.3 * RATE, abs=20)
        assert not late[: int(0.29 * RATE)].any()


class TestPublishedSyncNet:
    @pytest.fixture
    def weights(self, tmp_path) -> Path:
        for name in ("syncnet_v2.model", "sfd_face.pth"):
            (tmp_path / name).write_text(name)
        return tmp_path

    def test_missing_package_is_named_with_its_command(self, weights, monkeypatch):
        monkeypatch.setitem(sys.modules, "syncnet_python", None)
        with pytest.raises(InputError, match="pip install syncnet-python"):
            PublishedSyncNet(weights, "cpu")

    def test_its_interface_is_used_as_it_is(self, weights, monkeypatch):
        seen = {}

        class SyncNetPipeline:
            def __init__(self, cfg, *, device):
                seen.update(cfg, device=device)

            def inference(self, video_path, audio_path=None, *, cache_dir=None):
                print("chatter")
                seen.update(video=video_path, sound=Path(audio_path).stat().st_size)
                tracks = ([], [], []) if "nobody" in video_path else ([-3, 2], [1.5, 6.5], [9.0, 7.5])
                return *tracks, 6.5, 7.5, "", True

        module = types.SimpleNamespace(SyncNetPipeline=SyncNetPipeline)
        monkeypatch.setitem(sys.modules, "syncnet_python", module)
        judge = PublishedSyncNet(weights, "cpu")
        score = judge.score(Track(25), Path("clip.mp4"), np.zeros(RATE, np.float32))
        assert (score.offset, score.confidence, score.distance) == (-2, 6.5, 7.5)  # its sign is the other way round
        assert seen["syncnet_weights"].endswith("syncnet_v2.model") and seen["s3fd_weights"].endswith("sfd_face.pth")
        assert (seen["video"], seen["device"], seen["sound"]) == ("clip.mp4", "cpu", 44 + 2 * RATE)
        assert "published SyncNet v2" in judge.name
        with pytest.raises(InputError, match="no face track of 2 seconds"):
            judge.score(Track(25), Path("nobody.mp4"), np.zeros(RATE, np.float32))


class TestFid:
    def test_without_torchvision_the_table_says_so(self, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "torchvision", None)
        assert inception.find_inception(None, "cpu") == (None, "torchvision is not installed")
        with pytest.raises(InputError, match="--inception needs torchvision"):
            inception.find_inception(tmp_path / "weights.pth", "cpu")

    def test_generated_against_real_beside_halves_of_the_real(self, tmp_path):
        rng = np.random.default_rng(0)
        kept = [
            ClipResult(
                str(k),
                features={GENERATED: rng.normal(1, 1, (200, 4)), REAL: rng.normal(0, 1, (200, 4))},
                figures={GENERATED: {"faceless": 0.0}},
            )
            for k in range(6)
        ]
        options = EvaluationOptions(results=tmp_path)
        found = report.make_report(kept, options, ("judge", "note"), "weights", True)
        assert found.fid[GENERATED] == pytest.approx(4, rel=0.1) and found.fid[REAL] < 0.1
        assert "1200 and 1200 faces" in found.fid_note and "weights" in found.fid_note
        without = report.make_report(kept, options, ("judge", "note"), "no weights", False)
        assert without.fid == {} and "FID was not computed: no weights" in without.fid_note


def test_wrong_speech_is_never_ones_own():
    videos = [Path(f"{k}.mp4") for k in range(9)]
    others = wrong_speakers(videos, seed=0)
    assert all(video not in order and len(order) == 8 for video, order in others.items())
    assert others == wrong_speakers(videos[::-1], seed=0) != wrong_speakers(videos, seed=1)
    assert wrong_speakers(videos[:1], seed=0) == {videos[0]: []}
