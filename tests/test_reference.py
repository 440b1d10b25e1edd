"""References whose mouth fits the speech: which mouth is taken, in which pose, and that the generator is given it."""

import numpy as np
import pytest
import torch
from inference_setup import Painter, make_inputs, options, stand_in

from errors import InputError
from lipsync import live, reference
from lipsync.live import LipSyncStream
from lipsync.options import InferenceOptions
from lipsync.pipeline import run
from lipsync.reference import KEPT, LEVELS, FittingMouths, HeardOpenings, wants_fitting
from models import Wav2Lip
from models.checkpoint import load_generator, save_checkpoint
from mouths import aligned


class DarkMouth(torch.nn.Module):
    """Sees a mouth as open as it is dark, 0.12 at black."""

    def forward(self, faces):
        return 0.12 * (1 - faces[:, :, 70:84, 36:60].mean((1, 2, 3)))


@pytest.fixture
def mouths(monkeypatch):
    monkeypatch.setattr(reference, "load_seen_opening", DarkMouth)
    return FittingMouths()


def face_with(mouth: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    face = np.kron(rng.integers(60, 200, (12, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    face[48:] = 150
    face[66:88, 32:64] = mouth
    return face


def mouth_of(face: np.ndarray) -> int:
    return int(face[76, 48, 0])


def test_the_mouth_is_as_far_open_among_the_others_as_is_asked(mouths):
    shades = [250, 210, 170, 130, 90, 50, 10]
    shots = [mouths.add(face_with(shade)) for shade in shades]
    assert len(set(map(id, shots))) == 1
    given = [shots[0].like(face_with(128), rank) for rank in (0.0, 0.5, 1.0)]
    assert [mouth_of(face) for face in given] == [250, 130, 10]
    assert all(np.array_equal(face[:44], face_with(0)[:44]) for face in given)


def test_only_the_newest_mouths_of_each_level_are_held(mouths):
    for number in range(300):
        shot = mouths.add(face_with(number % 256))
    held = [len(level) for level in shot._levels]
    assert max(held) == KEPT and sum(held) <= KEPT * LEVELS


def test_of_equally_open_mouths_the_one_in_the_nearest_pose_is_taken(mouths):
    near, far = face_with(150), face_with(147)
    far[:40] = np.clip(far[:40].astype(int) + 12, 0, 255)
    mouths.add(far)
    shot = mouths.add(near)
    mouths.add(face_with(20))
    assert mouth_of(shot.like(face_with(20), 0.2)) == 150


def test_shots_keep_their_own_mouths_and_are_met_again(mouths):
    one = mouths.add(face_with(150, seed=1))
    other = mouths.add(face_with(10, seed=2))
    assert one is not other and mouths.add(face_with(100, seed=1)) is one
    assert mouth_of(one.like(face_with(60, seed=1), 1.0)) == 100
    assert mouth_of(other.like(face_with(60, seed=2), 0.0)) == 10
    turned = face_with(60, seed=3)  # in a pose that was never seen
    assert other.like(turned, 0.0) is turned


def test_faces_are_aligned_by_their_upper_half():
    rng = np.random.default_rng(0)
    face = np.kron(rng.integers(40, 215, (12, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    moved = np.roll(face, (2, -3), (0, 1))
    moved[60:] = 90  # another mouth does not matter
    before, after = (
        np.abs(x[10:50, 10:-10].astype(int) - face[10:50, 10:-10]).mean() for x in (moved, aligned(moved, face))
    )
    assert after < 0.4 * before
    flat = np.full_like(face, 128)
    assert np.array_equal(aligned(flat, face), flat)


def test_silence_closes_the_mouth_and_speech_is_heard_alike_in_parts():
    rng = np.random.default_rng(0)
    mel = rng.uniform(-1, 2, (80, 200)).astype(np.float32)
    mel[:, 100:150] = -4
    hear = HeardOpenings()
    ranks = hear(mel, np.arange(180))
    assert ranks[:80].max() > 0 and (ranks[100:134] == 0).all() and (ranks >= 0).all() and (ranks <= 1).all()
    np.testing.assert_allclose(hear(mel[:, 40:], np.arange(60, 100)), ranks[100:140], atol=1e-5)


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


def test_live_takes_the_mouths_of_the_whole_video(tmp_path, monkeypatch):
    folder = make_inputs(tmp_path)
    painter = Keeping()
    monkeypatch.setattr(live, "Synthesizer", lambda *_: painter)
    stream = LipSyncStream(folder / "face.mp4", box=(20, 140, 60, 160), reference="fitting")
    stream.push(np.zeros(32_000, np.float32))
    assert len(list(stream.frames())) == len(painter.given) > 20
    assert all(len(each) == 3 for each in painter.given)
