"""Mouths of pictures: opened, closed, widened, and brought to another pose."""

import cv2
import numpy as np
import pytest
from toy import CORNERS, LIPS

from models.face_mesh import MIRRORED
from mouths.insides import Opened
from mouths.lips import with_whole_teeth
from mouths.poses import alignment, moved_by, points_moved_by
from mouths.shapes import gap_of, opening_at, widening_at
from mouths.warping import with_gap

SHUT = LIPS.copy()
SHUT[[2, 3, 7, 8, 9, 10], 1] = 72 / 96  # inner lips that touch


def drawn_face(gap: float = 2.0) -> np.ndarray:
    """A face whose mouth is a dark gap between red lips, with white teeth below the upper lip."""
    y, x = np.mgrid[:96, :96]
    face = np.full((96, 96, 3), 150, np.uint8)
    bow = np.clip(1 - ((x - 48) / 16) ** 2, 0, 1)
    face[np.abs(y - 72) < 6 * bow] = (60, 60, 170)
    face[np.abs(y - 72) <= gap / 2 * bow] = (20, 20, 20)
    return face


def gap_in(face: np.ndarray) -> int:
    """Rows in the middle that are neither skin nor lips."""
    return int((face[60:90, 48].max(1) < 110).sum())


@pytest.mark.parametrize("scale", [1, 2])
def test_mouths_are_opened_as_far_as_asked_and_closed(scale):
    face = drawn_face().repeat(scale, 0).repeat(scale, 1)
    gaps = [gap_in(with_gap(face, LIPS, gap * scale)[::scale, ::scale]) for gap in (0, 2, 4, 6)]
    assert gaps[0] <= 1 and abs(gaps[2] - 4) <= 1 and abs(gaps[3] - 6) <= 1
    assert gaps == sorted(gaps)
    for gap in (0, 6):
        changed = np.argwhere((with_gap(face, LIPS, gap * scale) != face).any(2))
        assert changed[:, 0].min() > 58 * scale  # the nose and all above it stay
    kept = with_gap(face, LIPS, 2 * scale)
    assert np.abs(kept.astype(int) - face).mean() < 1


def test_no_stairs_are_seen_between_teeth_and_lips_that_close():
    face = cv2.GaussianBlur(smile(teeth_to=77), (0, 0), 1)
    lips = with_whole_teeth(face, LIPS)
    lips[[2, 7, 8], 1] = np.array((69, 69.75, 69.75)) / 96  # where the teeth begin
    for gap in (1.5, 3.6, 4.2, 6):
        made = with_gap(face, lips, gap)[60:90, 34:63].astype(int)
        assert np.abs(np.diff(made, axis=1)).max() < 35  # along edges that are nearly level


def test_no_dark_corners_are_left_of_a_mouth_that_closes():
    face, (y, x) = drawn_face(4), np.mgrid[:96, :96]
    corners = (np.abs(np.abs(x - 48) - 15.5) < 1.6) & (np.abs(y - 72) < 1)
    face[corners] = (20, 20, 20)
    closed = with_gap(face, LIPS, 0)
    assert face[corners].max() == 20 and closed[corners].max(1).min() > 40
    np.testing.assert_allclose(with_gap(face, LIPS, 1.999).astype(int), with_gap(face, LIPS, 2.001), atol=8)


@pytest.mark.parametrize("gap", [2, 6])
def test_mouths_are_drawn_as_wide_as_asked_and_the_rest_stays(gap):
    def width_of(face: np.ndarray) -> int:
        red = (face[66:80, :, 2].astype(int) - face[66:80, :, 1] > 40).any(0)
        return int(np.ptp(np.flatnonzero(red))) + 1

    face = drawn_face()
    widths = [width_of(with_gap(face, LIPS, gap, widening)) for widening in (0.88, 1.0, 1.12)]
    assert abs(widths[0] / widths[1] - 0.88) < 0.05 and abs(widths[2] / widths[1] - 1.12) < 0.05
    changed = np.argwhere((with_gap(face, LIPS, 2, 1.12) != face).any(2))
    assert changed[:, 0].min() > 58 and changed[:, 1].min() > 8 and changed[:, 1].max() < 87


def test_an_opened_mouth_shows_teeth_and_tongue_in_the_light_and_colours_of_its_face():
    def inside(skin: tuple[int, int, int], gap: float = 12) -> np.ndarray:
        face = np.full((96, 96, 3), skin, np.uint8)
        return with_gap(face, SHUT, gap)[60:90, 48].astype(float)[changed(face, gap)]

    def changed(face: np.ndarray, gap: float) -> np.ndarray:
        return (with_gap(face, SHUT, gap)[60:90, 48] != face[60:90, 48]).any(1)

    rows = inside((90, 115, 170))
    assert 10 <= len(rows) <= 14
    teeth, dark, tongue = rows[2], rows[len(rows) // 2], rows[-3]
    assert dark.mean() < 0.9 * tongue.mean() and tongue.mean() < 0.7 * teeth.mean()
    assert np.ptp(teeth) < 0.5 * teeth.max() and np.ptp(tongue) > 0.5 * tongue.max()  # nearly white, and red
    np.testing.assert_allclose(2 * inside((45, 57, 85)), rows, atol=6)
    yellow = inside((50, 115, 170))
    assert (yellow[:, 0] < rows[:, 0]).all() and (yellow[:, 0] > 0.6 * rows[:, 0]).all()
    assert np.ptp(inside((130, 130, 130)), axis=1).max() <= 1  # no colours where a picture has none
    assert inside((90, 115, 170), 4).mean() < 0.8 * rows.mean()  # what is narrow is darker


def test_what_a_mouth_shows_itself_stays_unless_it_is_a_slit():
    face = drawn_face(4)
    y, x = np.mgrid[:96, :96]
    own = (np.abs(y - 72) < 2) & (np.abs(x - 48) < 10)
    face[own] = (255, 255, 0)
    lips = LIPS.copy()
    for gap, kept in ((1.0, False), (4.0, True)):
        lips[[2, 7, 8], 1], lips[[3, 9, 10], 1] = (72 - gap / 2) / 96, (72 + gap / 2) / 96
        cyan = (with_gap(face, lips, 12)[60:90, 48] == (255, 255, 0)).all(1)
        assert cyan.any() == kept


def test_edges_of_an_opened_mouth_are_as_soft_as_those_of_the_picture():
    def steepest(blur: float) -> float:
        face = drawn_face(0).repeat(4, 0).repeat(4, 1)
        opened = with_gap(cv2.GaussianBlur(face, (0, 0), blur) if blur else face, SHUT, 40)
        column = opened[305:335, 192].astype(float)  # from what is inside to the lower lip
        redness = column[:, 2] - column[:, 1]
        return np.abs(np.diff(redness)).max() / np.ptp(redness)

    assert steepest(0) > 0.3
    assert steepest(6) < 0.3 * steepest(0)


def smile(teeth_to: int) -> np.ndarray:
    """A face whose teeth reach from row 69 to `teeth_to` in the middle of the mouth, between red lips."""
    face, (y, x) = drawn_face(), np.mgrid[:96, :96]
    bow = np.clip(1 - ((x - 48) / 16) ** 2, 0, 1)
    face[np.abs(y - 73) < 9 * bow] = (60, 60, 170)
    face[(y >= 72 - 3 * bow) & (y <= 72 + (teeth_to - 72) * bow) & (bow > 0)] = (200, 205, 210)
    return face


def test_teeth_of_a_smile_stay_whole():
    face = smile(teeth_to=77)
    found = with_whole_teeth(face, LIPS)
    assert 96 * found[3, 1] == pytest.approx(77.5, abs=1)
    assert (96 * found[[9, 10], 1] > 75).all()
    assert np.array_equal(np.delete(found, (3, 9, 10), axis=0), np.delete(LIPS, (3, 9, 10), axis=0))
    opened = with_gap(face, found, 12)
    white = np.flatnonzero((opened[:, 48] > 190).all(1))
    assert len(white) > 6 and np.ptp(white) == len(white) - 1  # in one piece
    grey = np.repeat(face[:, :, 1:2], 3, axis=2)
    for kept in (grey, drawn_face()):
        np.testing.assert_allclose(with_whole_teeth(kept, LIPS), LIPS, atol=0.011)


def open_mouth(scale: int = 1, light: float = 1.0) -> Opened:
    """A face whose mouth is open by 10 rows: white teeth in five of them, black, and a blue tongue in two."""
    face, (y, x) = drawn_face(), np.mgrid[:96, :96]
    bow = np.clip(1 - ((x - 48) / 16) ** 2, 0, 1)
    face[np.abs(y - 73) < 10 * bow] = (60, 60, 170)
    inside = (np.abs(y - 73) <= 5 * bow) & (bow > 0)
    face[inside] = (5, 5, 5)
    face[inside & (y < 68 + 5 * bow)] = (210, 210, 210)
    face[inside & (y > 73 + 5 * bow - 2)] = (200, 0, 0)
    quarters = (40, 69.25), (56, 69.25), (40, 76.75), (56, 76.75)
    lips = np.array([*CORNERS, (48, 68), (48, 78), (48, 83), *CORNERS, *quarters]) / 96
    return Opened((face * light).astype(np.uint8).repeat(scale, 0).repeat(scale, 1), lips)


def middle_of(face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the middle column that are white, and that are blue."""
    column = face[60:90, 48].astype(int)
    white, blue = column.min(1) > 180, column[:, 0] - column[:, 2] > 60
    return np.flatnonzero(white) + 60, np.flatnonzero(blue) + 60


@pytest.mark.parametrize("gap", [6, 10, 13])
def test_an_opened_mouth_shows_the_inside_of_one_that_is_open(gap):
    """Teeth hang from the upper lip; a tongue lies on the lower one, which hides it where the mouth is less open."""
    closed = drawn_face(0)
    shown = with_gap(closed, SHUT, gap, 1.0, open_mouth())
    white, blue = (rows[(rows > 66) & (rows < 85)] for rows in middle_of(shown))
    upper = 72 - 0.15 * gap
    assert abs(white[0] - upper) < 2.5 and 3 <= len(white) <= 5
    assert (len(blue) > 0) == (gap > 6) and (blue >= upper + gap - 4).all()
    if len(blue):  # where the other mouth is open less far, too
        assert (shown[white[-1] + 2 : blue[0] - 1, 48].max(1) < 90).all()
    plain = with_gap(closed, SHUT, gap)
    assert not any(((rows > 66) & (rows < 85)).any() for rows in middle_of(plain))
    outside = np.ones((96, 96), bool)
    outside[64:90, 30:66] = False
    assert np.array_equal(shown[outside], plain[outside])
    for other in (open_mouth(scale=3), open_mouth(light=0.8)):
        alike = np.abs(with_gap(closed, SHUT, gap, 1.0, other).astype(int) - shown)
        assert alike.mean() < 0.5 and np.quantile(alike, 0.99) < 25


def test_a_mouth_keeps_its_own_inside_where_it_has_one():
    narrow = Opened(drawn_face(2), LIPS)
    for face, its_lips, gap, opened in (
        (open_mouth().face, open_mouth().lips, 12, open_mouth(light=0.7)),  # nearly as open
        (open_mouth().face, open_mouth().lips, 2, open_mouth(light=0.7)),  # it closes
        (drawn_face(0), SHUT, 10, narrow),  # what is to be seen in a slit does not fill an open mouth
    ):
        assert np.array_equal(with_gap(face, its_lips, gap, 1.0, opened), with_gap(face, its_lips, gap))


def test_a_smile_closes_between_its_lips():
    """Along the upper lip's edge it would turn down. Teeth do not move until they are hidden."""
    face, (y, x) = smile(teeth_to=77), np.mgrid[:96, :96]
    bow = np.clip(1 - ((x - 48) / 16) ** 2, 0, 1)
    lower = (y > 72 + 5 * bow) & (face[:, :, 2] == 170)
    face[lower] = (60, 60, 120)
    face[(y == 73) & (np.abs(x - 48) < 12)] = (0, 255, 0)  # a mark on the teeth
    quarters = (40, 69.75), (56, 69.75), (40, 75.75), (56, 75.75)
    lips = np.array([*CORNERS, (48, 69), (48, 77), (48, 82), *CORNERS, *quarters])
    closed, half = (with_gap(face, lips / 96, gap) for gap in (0, 4))
    assert not (closed[:, 34:62].min(2) > 165).any()  # no teeth
    for column in (42, 48, 54):
        first_of_lower = int(np.argmax(np.abs(closed[60:, column, 2].astype(int) - 120) < 20)) + 60
        upper, below = 72 - 3 * bow[0, column], 72 + 5 * bow[0, column]
        assert first_of_lower == pytest.approx(upper + 0.4 * (below - upper), abs=1.5)
    assert half[60:, 46:51, 1].argmax(0).tolist() == [13] * 5  # the mark is where it was
    slit = with_gap(face, lips / 96, 1.5)[70:78, 48].min(1)
    assert slit.max() < 150  # no white line between lips that almost touch


def test_edges_of_an_opened_mouth_have_no_stairs():
    """Values between lip and inside, where the lip's edge crosses pixels."""
    lip, columns = with_gap(drawn_face(0), LIPS, 9)[72:82, 36:60, 2].astype(int), range(24)
    between = [((lip[:, at] > 70) & (lip[:, at] < 150)).any() for at in columns]
    assert np.mean(between) > 0.5


def test_mirrored_and_odd_lips_do_no_harm():
    face = drawn_face()
    assert np.array_equal(with_gap(face, LIPS[list(MIRRORED)], 4), with_gap(face, LIPS, 4))
    for lips in (np.zeros((11, 2)), np.ones((11, 2)), np.full((11, 2), 2.0), LIPS[[2] * 11]):
        assert with_gap(face, lips, 5, 0.9).shape == face.shape


def test_gaps_grow_with_the_rank_and_the_face():
    gaps = [gap_of(opening_at(rank), 96) for rank in (0.0, 0.25, 0.5, 0.9, 1.0)]
    assert gaps[0] == 0 and gaps == sorted(gaps) and 4 < gaps[-1] < 8
    assert gap_of(opening_at(0.5), 192) == pytest.approx(2 * gaps[2])
    widenings = [widening_at(rank) for rank in (0.0, 0.25, 0.5, 0.9, 1.0)]
    assert widenings[0] > 0.8 and widenings == sorted(widenings) and widenings[-1] < 1.2
    assert widenings[2] == pytest.approx(1, abs=0.01)


def test_faces_are_aligned_by_their_upper_half():
    rng = np.random.default_rng(0)
    face = np.kron(rng.integers(40, 215, (12, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    moved = np.roll(face, (2, -3), (0, 1))
    moved[60:] = 90  # another mouth does not matter
    matrix = alignment(moved, face)
    before, after = (
        np.abs(x[10:50, 10:-10].astype(int) - face[10:50, 10:-10]).mean() for x in (moved, moved_by(matrix, moved))
    )
    assert after < 0.4 * before
    np.testing.assert_allclose(96 * points_moved_by(matrix, LIPS, 96, 96), 96 * LIPS + (3, -2), atol=0.5)
    flat = np.full_like(face, 128)
    assert np.array_equal(alignment(flat, face), np.eye(2, 3))
