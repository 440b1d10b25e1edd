"""Which frames the detector looks at: few where the picture is steady, each where it is not; closely where needed."""

import numpy as np
import pytest

from lipsync import detection
from lipsync.detection import Glance, find_faces

HEIGHT, WIDTH = 160, 240


class Scene:
    """Frames that carry their number, and a detector that knows what is in each and which it was shown."""

    def __init__(self, faces_of, count: int, background=lambda i: 0):
        self._faces_of, self.looked = faces_of, []
        self.frames = []
        for i in range(count):
            frame = np.full((HEIGHT, WIDTH, 3), background(i), np.uint8)
            frame[-1, -1] = (i % 256, i // 256, 0)
            self.frames.append(frame)
        self.truth = [np.array(faces_of(i), np.float32).reshape(-1, 5) for i in range(count)]

    def detect(self, frames):
        numbers = [int(frame[-1, -1, 0]) + 256 * int(frame[-1, -1, 1]) for frame in frames]
        self.looked += numbers
        return [self.truth[i] for i in numbers]

    def found(self, every: int, batch_size: int = 16, **more) -> list[np.ndarray]:
        return list(find_faces(iter(self.frames), self.detect, every, batch_size, **more))


def face(x: float, y: float = 40, size: float = 60) -> tuple:
    return (x, y, x + size, y + 1.2 * size, 0.9)


def assert_truth(scene: Scene, found: list[np.ndarray]) -> None:
    assert len(found) == len(scene.truth)
    for faces, expected in zip(found, scene.truth, strict=True):
        assert faces.dtype == np.float32
        np.testing.assert_allclose(faces, expected, atol=0.01)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
@pytest.mark.parametrize("count", [1, 2, 5, 6, 23])
def test_even_motion_is_interpolated(count, batch_size):
    scene = Scene(lambda i: [face(20 + i), face(140 - i)], count)
    found = scene.found(5, batch_size)
    assert_truth(scene, found)
    assert sorted(scene.looked) == sorted({*range(0, count, 5), count - 1})


def test_every_frame_is_looked_at_once_when_asked_for():
    scene = Scene(lambda i: [face(20 + 7 * (i % 3))], 23)
    assert_truth(scene, scene.found(1))
    assert scene.looked == list(range(23))


def test_fast_motion_cuts_and_faces_that_come_and_go_are_looked_at():
    def faces_of(i: int) -> list:
        if i < 12:
            return [face(20)]  # still
        if i < 30:
            return [face(20 + 2 * (i - 12) ** 1.5)]  # ever faster
        return [] if i < 43 else [face(100), face(20)]

    scene = Scene(faces_of, 60)
    found = scene.found(10)
    assert [len(faces) for faces in found] == [len(faces) for faces in scene.truth]
    for faces, expected in zip(found, scene.truth, strict=True):
        np.testing.assert_allclose(faces, expected, atol=6)  # of 60 pixels
    assert {29, 30, 42, 43} <= set(scene.looked) and len(scene.looked) < 40


def test_a_cut_away_and_back_between_two_looks_is_seen():
    """Boxes at both ends agree; only the picture tells."""
    scene = Scene(lambda i: [] if 12 <= i < 14 else [face(20)], 21, lambda i: 200 if 12 <= i < 14 else 20)
    assert_truth(scene, scene.found(10))


def test_small_companions_may_flicker_unless_they_count():
    def faces_of(i: int) -> list:
        return [face(20), *([face(200, 20, 12)] if i < 8 else [])]

    scene = Scene(faces_of, 21)
    found = scene.found(10)
    assert scene.looked == [0, 10, 20]
    assert all(faces[0, 0] == 20 for faces in found)
    assert_truth(scene, scene.found(10, every_face=True))


class Eyes:
    """Stands in for `FaceAlignment`: what is found at which size."""

    def __init__(self, sees):
        self.sees, self.looks = sees, []

    def __call__(self, device, face_detector, size=None):
        def detect_faces(frames):
            self.looks += [size] * len(frames)
            return [np.array(self.sees(size), np.float32).reshape(-1, 5) for _ in frames]

        return type("Aligner", (), {"detect_faces": staticmethod(detect_faces)})


@pytest.fixture
def looks(monkeypatch):
    def call(sees, size: int = 120, frames: int = 3, every_face: bool = False) -> list:
        eyes = Eyes(sees)
        monkeypatch.setattr(detection, "FaceAlignment", eyes)
        glance = Glance(size, "cpu", "auto", every_face)
        for _ in range(frames):
            glance([np.zeros((HEIGHT, WIDTH, 3), np.uint8)])
        return eyes.looks

    return call


def test_the_first_frame_is_looked_at_closely_and_the_others_at_a_glance(looks):
    assert looks(lambda size: [face(20)]) == [120, 240, 120, 120]


@pytest.mark.parametrize(
    "at_a_glance", [[], [face(20)], [face(20), face(120, size=40)]], ids=["nobody", "fewer", "a small one"]
)
def test_what_a_glance_may_miss_is_looked_at_closely(looks, at_a_glance):
    closely = [face(20), face(120, size=40)]
    assert looks(lambda size: closely if size == 240 else at_a_glance) == [120, 240] * 3


def test_faces_much_smaller_than_the_largest_count_only_if_asked_for(looks):
    def sees(size):
        return [face(20), *([face(200, 20, 12)] if size == 240 else [])]

    assert looks(sees) == [120, 240, 120, 120]
    assert looks(sees, every_face=True) == [120, 240] * 3


def test_size_0_and_frames_that_are_small_already_have_one_look(looks):
    assert looks(lambda size: [], size=0) == [None] * 3
    assert looks(lambda size: [], size=WIDTH) == [WIDTH] * 3
