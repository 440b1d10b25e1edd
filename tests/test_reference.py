"""References with closed mouths: which mouth is taken, in which pose, and that the generator is given it."""

import numpy as np
import pytest
import torch
from inference_setup import Painter, make_inputs, options, stand_in

from lipsync import reference
from lipsync.options import InferenceOptions
from lipsync.pipeline import run
from lipsync.reference import KEPT, ClosedMouths, reference_maker
from mouths import aligned


class DarkMouth(torch.nn.Module):
    """Sees a mouth as open as it is dark."""

    def forward(self, faces):
        return 1 - faces[:, :, 70:84, 36:60].mean((1, 2, 3))


@pytest.fixture
def closed_mouths(monkeypatch):
    monkeypatch.setattr(reference, "load_seen_opening", DarkMouth)
    return ClosedMouths()


def face_with(mouth: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    face = np.kron(rng.integers(60, 200, (12, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    face[48:] = 150
    face[66:88, 32:64] = mouth
    return face


def test_every_face_gets_the_most_closed_mouth_so_far(closed_mouths):
    mouths = [100, 40, 20, 140, 60]
    given = [closed_mouths(face_with(mouth)) for mouth in mouths]
    assert [int(face[76, 48, 0]) for face in given[:2]] == [100, 100]
    assert all(np.array_equal(face[:44], face_with(0)[:44]) for face in given)
    for _ in range(KEPT):
        closed_mouths(face_with(150))
    assert len(closed_mouths._kept) == KEPT
    assert closed_mouths(face_with(10))[76, 48, 0] > 140


def test_of_closed_mouths_the_one_in_the_nearest_pose_is_taken(closed_mouths):
    closed_mouths(face_with(150, seed=1))
    closed_mouths(face_with(145, seed=2))
    assert closed_mouths(face_with(10, seed=2))[76, 48, 0] == 145


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


def test_own_is_the_default_and_makes_nothing():
    assert reference_maker("own") is None and InferenceOptions("f.mp4", "a.wav").reference == "own"
    assert isinstance(reference_maker("closed"), ClosedMouths)


def test_generator_is_given_the_reference(tmp_path, monkeypatch):
    class Keeping(Painter):
        given = ()

        def __call__(self, inputs):
            self.given = [*self.given, *inputs]
            return super().__call__([pair[:2] for pair in inputs])

    folder = make_inputs(tmp_path)
    for name, count in (("own", 2), ("closed", 3)):
        painter = stand_in(monkeypatch, painter=Keeping())
        run(options(folder, tmp_path / f"{name}.mp4", reference=name), workers=0)
        assert {len(given) for given in painter.given} == {count}
        assert all(given[0].shape == painter.given[0][0].shape for given in painter.given)
    assert all(given[2].shape == given[0].shape and given[2].dtype == np.uint8 for given in painter.given)
