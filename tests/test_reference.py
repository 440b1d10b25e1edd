"""References whose mouth fits the speech: which mouth is taken, in which pose, and that the generator is given it."""

import cv2
import numpy as np
import pytest
from inference_setup import Painter, make_inputs, options, stand_in
from toy import LIPS

from audio import load_wav, save_wav, speech_spectrogram
from crops import cut, fit
from errors import InputError
from lipsync import live, reference
from lipsync.live import LipSyncStream
from lipsync.locating import located_once
from lipsync.options import InferenceOptions
from lipsync.pipeline import run
from lipsync.reference import KEPT, HeardShapes, Shape, ShownMouths, wants_fitting
from lipsync.source import FrameSource
from lipsync.stages import StageClock, Threads
from lipsync.video import FrameReader
from models import Wav2Lip
from models.checkpoint import load_face_mesh, load_generator, save_checkpoint
from models.face_mesh import INNER_LIPS, POINTS
from mouths import warping
from mouths.shapes import OPENINGS_IN_TALKS, gap_of, opening_of, widening_at


class KnownLips:
    """Sees at a glance mouths as open as they are dark, and closely the same lips in every face."""

    def points_of(self, face):
        points = np.zeros((POINTS, 2))
        points[INNER_LIPS[1], 1] = gap_of(0.2 * (1 - face[70:84, 36:60].mean() / 255), 1)
        return points, 10.0

    def lips_of(self, face, points):
        return LIPS.copy()


class BrightCover:
    """Sees that mouths brighter than 200 are covered."""

    def visible(self, face):
        return 3.0 if face[78, 48, 0] < 200 else -6.0


@pytest.fixture
def shown_mouths(monkeypatch):
    monkeypatch.setattr(reference, "load_face_mesh", KnownLips)
    monkeypatch.setattr(reference, "load_mouth_cover", BrightCover)
    return ShownMouths((96, 96))


def face_with(mouth: int, seed: int = 0, by: int = 0) -> np.ndarray:
    """A face whose mouth has a grey level, in a pose that is a distance `by` from that of its seed."""
    rng = np.random.default_rng(seed)
    face = np.kron(rng.integers(60, 200, (12, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    face[:48] += np.uint8(by)
    face[48:] = 150
    face[66:92, 32:64] = mouth
    return face


def mouth_of(face: np.ndarray) -> int:
    return int(face[86, 48, 0])


def wanted(mouth: int) -> Shape:
    """The shape of a mouth of a grey level, as `KnownLips` sees it."""
    return Shape(0.2 * (1 - mouth / 255), 1.0)


def test_of_the_mouths_shown_so_far_the_one_that_fits_is_given_in_the_faces_pose(shown_mouths):
    shown_mouths.add(face_with(180))
    shown_mouths.add(face_with(100))
    assert mouth_of(shown_mouths.of(face_with(140), wanted(20))) == 100
    last = face_with(20)
    shown_mouths.add(last)
    for mouth in (20, 180, 100):
        given = shown_mouths.of(last, wanted(mouth))
        assert mouth_of(given) == mouth and given.shape == last.shape and given.dtype == np.uint8
        assert np.array_equal(given[:44], last[:44])
    assert np.array_equal(last, face_with(20))


def test_of_mouths_that_fit_alike_the_one_in_the_nearest_pose_is_taken(shown_mouths):
    for face in (face_with(150, by=12), face_with(145)):
        shown_mouths.add(face)
    assert mouth_of(shown_mouths.of(face_with(10), wanted(150))) == 145


def test_what_a_mouth_lacks_is_warped(shown_mouths, monkeypatch):
    """Two mouths, a third and four tenths of the face wide, each opened as asked and widened by what it lacks."""
    asked, lips = [], {180: LIPS, 100: LIPS + (LIPS - 0.5) * (0.2, 0)}
    monkeypatch.setattr(KnownLips, "lips_of", lambda _, face, points: lips[mouth_of(face)].copy())
    for module in (reference, warping):
        monkeypatch.setattr(module, "with_gap", lambda face, lips, *shape: asked.append(shape[:2]) or face)
    for mouth in lips:
        shown_mouths.add(face_with(mouth))
    mean = 1.1
    for mouth, width in ((180, 1 / mean), (180, 1.05 / mean), (100, 1.2 / mean), (100, 1.14 / mean)):
        shown_mouths.of(face_with(180), Shape(wanted(mouth).opening + 0.01, width))
    gaps, widenings = np.array(asked).T
    np.testing.assert_allclose(widenings, (1, 1.05, 1, 0.95), atol=1e-3)
    np.testing.assert_allclose(gaps, [gap_of(wanted(mouth).opening + 0.01, 96) for mouth in (180, 180, 100, 100)])


def test_the_inside_is_that_of_a_mouth_which_opens_far_enough(shown_mouths, monkeypatch):
    """Pose counts less for it than for lips, and a covered mouth not at all."""
    inside = []
    for module in (reference, warping):
        monkeypatch.setattr(module, "with_gap", lambda face, *shape: inside.append(mouth_of(shape[-1].face)) or face)
    closed, half, open_ = face_with(190), face_with(150, by=2), face_with(40, by=14)
    for face in (closed, half):
        shown_mouths.add(face)
    shown_mouths.of(closed, wanted(40))
    shown_mouths.add(open_)
    shown_mouths.of(closed, wanted(40))
    shown_mouths.of(closed, wanted(170))
    assert inside == [150, 40, 150]  # the last time it is open enough, and nearer
    gallery = shown_mouths._gallery
    of_closed = [kept._replace(visible=-1.0 if kept.opening > 0.1 else 1.0) for kept in gallery.kept]
    shown_mouths._gallery = reference.Gallery(of_closed, gallery.apart)
    shown_mouths.of(closed, wanted(40))
    assert inside[-1] == 150
    shown_mouths._gallery = reference.Gallery([kept._replace(visible=-1.0) for kept in gallery.kept], gallery.apart)
    monkeypatch.undo()
    assert mouth_of(shown_mouths.of(closed, wanted(190))) == 190  # nothing is borrowed


def test_covered_mouths_are_not_taken_while_others_are_seen(shown_mouths):
    covered, seen = face_with(220), face_with(60)
    shown_mouths.add(covered)
    assert mouth_of(shown_mouths.of(covered, wanted(220))) == 220
    shown_mouths.add(seen)
    assert mouth_of(shown_mouths.of(covered, wanted(220))) == 60


def test_the_mouth_used_last_or_one_like_it_stays_while_no_other_is_much_better(shown_mouths):
    for face in (face_with(150), face_with(152, by=10)):
        shown_mouths.add(face)
    used = [mouth_of(shown_mouths.of(face_with(20, by=by), wanted(150))) for by in (0, 6, 9, 4, 1)]
    assert used == [150, 150, 152, 152, 150]
    shown_mouths.add(face_with(148, by=4))  # like 150, which was used last
    assert mouth_of(shown_mouths.of(face_with(20, by=7), wanted(150))) == 148


def test_no_more_mouths_are_kept_than_tell_one_from_another(shown_mouths, monkeypatch):
    for _ in range(3):
        for mouth in (180, 178, 20, 100):
            shown_mouths.add(face_with(mouth))
    assert [mouth_of(kept.crop) for kept in shown_mouths._gallery.kept] == [180, 20, 100]
    monkeypatch.setattr(reference, "KEPT", 3)
    shown_mouths.add(face_with(132))  # 100 is the one that is most like it
    kept = {mouth_of(kept.crop) for kept in shown_mouths._gallery.kept}
    assert len(kept) == 3 and {180, 20} < kept
    monkeypatch.undo()
    monkeypatch.setattr(reference, "CUT", np.inf)
    rng = np.random.default_rng(0)
    for _ in range(6 * KEPT):
        shown_mouths.add(face_with(int(rng.integers(0, 200)), by=int(rng.integers(0, 50))))
    gallery = shown_mouths._gallery
    assert len(gallery.kept) == KEPT == len(gallery.apart)
    apart = [[reference.pose_distances(a.pose, b.pose[None])[0] for b in gallery.kept] for a in gallery.kept]
    openings = np.array([kept.opening for kept in shown_mouths._gallery.kept])
    expected = np.array(apart) + reference.OPEN_COST * np.abs(openings[:, None] - openings)
    np.fill_diagonal(expected, np.inf)
    np.testing.assert_allclose(gallery.apart, expected, rtol=1e-4)


def test_another_shot_starts_anew_and_far_poses_keep_their_own_mouth(shown_mouths):
    shown_mouths.add(face_with(150, seed=1))
    turned = face_with(10, seed=2)
    assert mouth_of(shown_mouths.of(turned, wanted(150))) == 10
    shown_mouths.add(turned)
    assert len(shown_mouths._gallery.kept) == 1
    assert mouth_of(shown_mouths.of(face_with(60, seed=2), wanted(60))) == 10


def openings_seen(faces: list[np.ndarray]) -> list[float]:
    see = load_face_mesh()
    return [opening_of(see.lips_of(face), (96, 96)) for face in faces]


def test_mouths_of_real_faces_open_as_a_landmark_model_says(shared):
    frame = next(iter(FrameReader(shared / "clips/talking_720p_24fps.mp4")))
    face = cv2.resize(frame[110:450, 550:850], (96, 96))
    faces = [ShownMouths((96, 96)).of(face, Shape.at((rank, 0.5))) for rank in (0.0, 0.5, 0.9, 1.0)]
    openings = openings_seen(faces)
    assert openings == sorted(openings) and openings[0] < 0.03 < 0.06 < openings[-1]


def test_real_mouths_open_as_wanted_whatever_those_of_their_frames_do(shared):
    settings = InferenceOptions(shared / "clips/talking_720p_24fps.mp4", "")
    shown, made, openings = ShownMouths((96, 96)), [], np.tile([0.02] * 3 + [0.08] * 3, 8)
    with Threads(0, "cpu") as threads:
        located = located_once(settings, FrameSource(settings), len(openings), threads, StageClock())
        for (frame, box), opening in zip(located, openings, strict=True):
            crop = cut(frame, box)
            shown.add(crop)
            made.append(fit(shown.of(crop, Shape(opening, 1.0)), (96, 96)))
    seen = np.array(openings_seen(made))
    assert seen[openings > 0.05].mean() > 1.5 * seen[openings < 0.05].mean()
    assert np.corrcoef(seen, openings)[0, 1] > 0.7


def test_silence_rests_the_mouth_and_speech_is_heard_alike_in_parts():
    rng = np.random.default_rng(0)
    speech = rng.uniform(-1, 3, (80, 260)).astype(np.float32)
    speech[:, 96:190] = -4
    hear = HeardShapes()
    shapes = np.stack(list(hear(speech, np.arange(246))))
    assert shapes.shape == (246, 2) and (shapes >= 0).all() and (shapes[:80].std(0) > (0.001, 0.001)).all()
    assert (
        (shapes[128:167] == (0, widening_at(0.5))).all()
        and shapes[:, 0].max() < OPENINGS_IN_TALKS[-1]
        and (shapes[[96, 189], 0] > 0).all()
    )  # not between two sounds
    assert np.array_equal(np.stack(list(hear(speech, np.arange(82, 246)))), shapes[82:])


def test_weights_say_what_auto_is(tmp_path):
    cases = {("auto", "own"): False, ("auto", "fitting"): True, ("own", "fitting"): False, ("fitting", "own"): True}
    assert all(wants_fitting(*case) == expected for case, expected in cases.items())
    assert InferenceOptions("f.mp4", "a.wav").reference == "auto"
    network = Wav2Lip(width=0.125)
    save_checkpoint(tmp_path / "published.pth", network)
    network.reference = "fitting"
    save_checkpoint(tmp_path / "fitting.pth", network)
    found = [load_generator(tmp_path / f"{name}.pth").reference for name in ("published", "fitting")]
    assert found == ["own", "fitting"]
    network.reference = "unheard"
    save_checkpoint(tmp_path / "wrong.pth", network)
    with pytest.raises(InputError, match="unreadable"):
        load_generator(tmp_path / "wrong.pth")


class Keeping(Painter):
    def __init__(self, *_):
        super().__init__()
        self.given = []

    def __call__(self, inputs):
        self.given += inputs
        return super().__call__([pair[:2] for pair in inputs])


def test_generator_is_given_the_reference_whatever_the_batches(tmp_path, monkeypatch):
    folder, given = make_inputs(tmp_path), {}
    for name, batch in (("own", 4), ("fitting", 4), ("fitting", 3)):
        painter = stand_in(monkeypatch, painter=Keeping())
        changes = {"reference": name, "wav2lip_batch_size": batch}
        run(options(folder, tmp_path / f"{name}.mp4", **changes), workers=0)
        given[name, batch] = painter.given
    assert {len(each) for each in given["own", 4]} == {2}
    for few, many in zip(given["fitting", 3], given["fitting", 4], strict=True):
        assert few[2].shape == few[0].shape and few[2].dtype == np.uint8
        assert np.array_equal(few[2], many[2])


def test_live_gives_references_too(tmp_path, monkeypatch):
    folder = make_inputs(tmp_path)
    painter = Keeping()
    monkeypatch.setattr(live, "Synthesizer", lambda *_: painter)
    stream = LipSyncStream(folder / "face.mp4", box=(20, 140, 60, 160), reference="fitting")
    stream.push(np.zeros(32_000, np.float32))
    assert len(list(stream.frames())) == len(painter.given) > 20
    assert all(len(each) == 3 for each in painter.given)


def test_live_hears_what_a_file_does_but_for_what_comes_later(tmp_path, monkeypatch):
    folder, painter, asked = make_inputs(tmp_path), stand_in(monkeypatch, painter=Keeping()), []
    monkeypatch.setattr(live, "Synthesizer", lambda *_: painter)
    monkeypatch.setattr(reference.ShownMouths, "of", lambda _, crop, shape: asked.append(shape) or crop)
    rng = np.random.default_rng(0)
    save_wav(rng.standard_normal(24_000) * np.linspace(0.01, 0.3, 24_000), tmp_path / "speech.wav")
    speech = speech_spectrogram(load_wav(tmp_path / "speech.wav"))
    so_far = list(HeardShapes()(speech, 4 * np.arange(40), live=True))
    box = (20, 140, 60, 160)
    run(options(folder, tmp_path / "out.mp4", audio=tmp_path / "speech.wav", box=box, reference="fitting"), workers=0)
    filed = list(HeardShapes()(speech, 4 * np.arange(len(asked))))
    np.testing.assert_allclose(asked, filed, atol=0.01)  # long sounds are heard in half precision
    asked.clear()
    stream = LipSyncStream(folder / "face.mp4", box=box, reference="fitting")
    assert stream.lookahead == pytest.approx(0.2425)  # hearing mouths takes more than the generator's 0.2125
    for part in np.array_split(load_wav(tmp_path / "speech.wav"), 40):
        stream.push(part)
        list(stream.frames())
    assert stream._speech.values.shape[1] < 200 and len(stream._sound) < 16_000  # nothing piles up
    assert len(asked) == 32 and np.std(asked, axis=0).min() > 0
    np.testing.assert_allclose(asked[:-2], so_far[: len(asked) - 2], atol=1e-4)  # the end of a file is mirrored
