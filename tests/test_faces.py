"""Who is followed, and the box of each frame."""

from collections.abc import Iterable

import numpy as np
import pytest

from errors import InputError
from lipsync.faces import boxes_over_time, smooth_boxes, spans
from lipsync.tracking import NO_TRACK, Sighting, follow

FRAME = (480, 640)
NO_PADS = (0, 0, 0, 0)


def face(x: float, y: float = 100, size: float = 80, score: float = 0.9) -> list[float]:
    return [x, y, x + size, y + 1.2 * size, score]


def frame(*faces: list[float]) -> np.ndarray:
    return np.array(faces, np.float32).reshape(-1, 5)


def lefts(followed: Iterable[Sighting]) -> list[float | None]:
    return [None if box is None else float(box[0]) for box, _ in followed]


def tracks(followed: Iterable[Sighting]) -> set[int]:
    return {track for _, track in followed} - {NO_TRACK}


class TestFollow:
    def test_largest_of_the_first_frame_with_faces_whatever_its_score(self):
        small, large = face(400, size=60, score=0.99), face(100, size=90, score=0.6)
        followed = follow([frame(), frame(small, large), frame(small, large)], 10)
        assert lefts(followed) == [None, 100, 100]

    def test_face_index_counts_from_the_left(self):
        people = frame(face(300, size=90), face(500), face(50))
        assert [lefts(follow([people], 10, i)) for i in range(3)] == [[50], [300], [500]]
        with pytest.raises(InputError, match="--face_index 3.*has 3"):
            list(follow([people], 10, 3))

    def test_nobody(self):
        with pytest.raises(InputError, match="no face was found"):
            list(follow([frame(), frame()], 10))

    def test_walking_faces_keep_their_order_when_sizes_change(self):
        people = [frame(face(100 + 5 * i, size=90 - 2 * i), face(350 - 5 * i, size=60 + 2 * i)) for i in range(20)]
        assert lefts(follow(people, 10)) == [100 + 5 * i for i in range(20)]

    def test_never_the_other_person_while_the_followed_one_is_missed(self):
        both, other = frame(face(100, size=90), face(220)), frame(face(220))
        for away in (1, 5, 40):
            followed = list(follow([both] * 5 + [other] * away + [both] * 5, 10))
            assert lefts(followed) == [100] * 5 + [None] * away + [100] * 5
            assert len(tracks(followed)) == 1

    def test_other_person_moving_into_the_place_is_not_taken_for_the_lost_one(self):
        both = frame(face(100, size=90), face(250, size=90))
        walk = [frame(face(250 - 10 * i, size=90)) for i in range(16)]
        assert lefts(follow([both] * 3 + walk, 10)) == [100] * 3 + [None] * 16

    def test_false_alarm_during_a_short_gap_is_ignored(self):
        here, alarm = frame(face(100)), frame(face(500, 300, 40))
        assert lefts(follow([here] * 5 + [alarm] * 3 + [here] * 5, 10)) == [100] * 5 + [None] * 3 + [100] * 5

    def test_cut_to_another_place_is_followed_at_once(self):
        followed = list(follow([frame(face(100))] * 5 + [frame(face(450, 200, 140))] * 5, 10))
        assert lefts(followed) == [100] * 5 + [450] * 5
        assert len(tracks(followed)) == 2

    def test_cut_with_several_newcomers_takes_the_most_alike(self):
        after = frame(face(500, 50, 40), face(180, 120, 85))
        assert lefts(follow([frame(face(100))] * 5 + [after] * 5, 10)) == [100] * 5 + [180] * 5

    def test_returns_after_a_long_absence(self):
        here, back = frame(face(100)), frame(face(300, 150))
        followed = follow([here] * 5 + [frame()] * 50 + [back] * 5, 10)
        assert lefts(followed) == [100] * 5 + [None] * 50 + [300] * 5

    def test_long_videos_of_crowds_are_quick(self):
        rng = np.random.default_rng(0)
        places = rng.uniform(0, 500, (6, 2))
        crowd = [frame(*(face(x, y, 40) for x, y in places + rng.normal(0, 1, (6, 2)))) for _ in range(1500)]
        assert None not in lefts(follow(crowd, 10))


class TestBoxes:
    def boxes(self, faces: list[np.ndarray], pads=NO_PADS, smooth=False, longest_gap=5):
        return list(boxes_over_time(follow(faces, longest_gap), FRAME, pads, smooth, longest_gap))

    def test_one_face_is_clipped_truncated_padded_and_kept_inside(self):
        assert self.boxes([frame([-3.7, 10.9, 90.9, 100.2, 0.9])]) == [(0, 10, 90, 100)]
        assert self.boxes([frame([-3.7, 10.9, 90.9, 100.2, 0.9])], (5, 10, 7, 3)) == [(0, 5, 93, 110)]
        assert self.boxes([frame([600, 400, 700, 500, 0.9])], (0, 10, 0, 10)) == [(600, 400, 640, 480)]

    def test_boxes_without_a_pixel_count_as_no_face(self):
        assert self.boxes([frame([100, 100, 140, 150, 0.9])], (0, 0, -30, -30)) == [None]
        assert self.boxes([frame([-50, 10, -5, 60, 0.9])]) == [None]

    def test_short_gaps_are_interpolated_and_long_ones_left(self):
        a, b = frame(face(100)), frame(face(124))
        assert [box[0] for box in self.boxes([a] + [frame()] * 5 + [b])] == [100, 104, 108, 112, 116, 120, 124]
        assert self.boxes([a] + [frame()] * 6 + [b])[1:-1] == [None] * 6

    def test_no_interpolation_at_the_ends_or_between_two_places(self):
        a, b = frame(face(100)), frame(face(500, 300, 150))
        assert [box and box[0] for box in self.boxes([frame(), a, frame(), b, frame()])] == [None, 100, None, 500, None]

    def test_published_smoothing(self, parity):
        vectors = np.load(parity / "smooth.npz")
        for name in ("", "_short"):
            assert np.array_equal(smooth_boxes(vectors[f"raw{name}"]), vectors[f"smoothed{name}"])
        raw = vectors["raw"]
        followed = [Sighting(box, 0) for box in raw.astype(np.float32)]
        assert np.array_equal(list(boxes_over_time(followed, (10_000, 10_000), NO_PADS)), vectors["smoothed"])
        assert np.array_equal(list(boxes_over_time(followed, (10_000, 10_000), NO_PADS, smooth=False)), raw)

    def test_smoothing_stays_within_a_stretch(self):
        still, later = frame(face(100)), frame(face(400, 200))
        assert {box for box in self.boxes([still] * 8 + [later] * 8, smooth=True)} == {
            (100, 100, 180, 196),
            (400, 200, 480, 296),
        }
        gap = self.boxes([still] * 8 + [frame()] * 9 + [frame(face(140))] * 8, smooth=True)
        assert [box and box[0] for box in gap] == [100] * 8 + [None] * 9 + [140] * 8

    def test_smoothing_of_one_frame(self):
        assert self.boxes([frame(face(100))], smooth=True) == [(100, 100, 180, 196)]


def test_spans():
    assert spans([0, 0, -1, 1, 1, 0]) == [(0, 2), (3, 5), (5, 6)]
    assert spans([-1, -1]) == [] and spans([]) == []
