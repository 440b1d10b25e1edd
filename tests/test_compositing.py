"""The generated face back in the frame."""

import cv2
import numpy as np
import pytest

from crops import fit
from errors import InputError
from lipsync import compositing
from lipsync.compositing import (
    BLENDS,
    FADE_IN_TOP,
    compositor,
    feather,
    feather_mask,
    match_colours,
    mouth,
    mouth_mask,
    paste,
    with_darkness_of,
    with_detail,
    with_tint_of,
)
from lipsync.sharpening import sharpen

BOX = (40, 20, 140, 150)


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (200, 180, 3), dtype=np.uint8), rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)


def outside(frame: np.ndarray, box=BOX) -> np.ndarray:
    frame = frame.copy()
    frame[box[1] : box[3], box[0] : box[2]] = 0
    return frame


def test_paste_is_a_bilinear_resize_put_over_the_box(scene):
    frame, face = scene
    result = frame.copy()
    paste(result, face, BOX)
    assert np.array_equal(result[20:150, 40:140], cv2.resize(face, (100, 130), interpolation=cv2.INTER_LINEAR))
    assert np.array_equal(outside(result), outside(frame))


@pytest.fixture
def own_colours(monkeypatch):
    """The generated face keeps its colours: what is tested is the mask alone."""
    monkeypatch.setattr(compositing, "match_colours", lambda face, *_: face)


def test_feather_keeps_everything_above_the_fade_and_outside_the_box(scene, own_colours):
    frame, face = scene
    result = frame.copy()
    feather(result, face, BOX)
    assert np.array_equal(outside(result), outside(frame))
    eyes = 20 + int(FADE_IN_TOP * 130)
    assert np.array_equal(result[:eyes], frame[:eyes])
    mouth = (slice(20 + int(0.65 * 130), 20 + int(0.8 * 130)), slice(70, 110))
    assert np.array_equal(
        result[mouth],
        cv2.resize(face, (100, 130), interpolation=cv2.INTER_CUBIC)[mouth[0].start - 20 : mouth[0].stop - 20, 30:70],
    )


@pytest.mark.parametrize("size", [(300, 240), (130, 100), (60, 44)])
def test_no_step_at_the_box_edge(size, own_colours):
    """A face of another brightness: no two neighbouring pixels differ by more than a soft slope allows."""
    height, width = size
    frame = np.full((height + 80, width + 80, 3), 100, np.uint8)
    feather(frame, np.full((96, 96, 3), 140, np.uint8), (40, 40, 40 + width, 40 + height))
    grey = frame[..., 0].astype(int)
    assert grey.max() == 140
    steepest = 40 * 2.2 / (0.12 * min(size)) + 1
    assert max(np.abs(np.diff(grey, axis=0)).max(), np.abs(np.diff(grey, axis=1)).max()) <= steepest


def test_full_weight_at_a_frame_edge():
    inner, cut = feather_mask(100, 80), feather_mask(100, 80, (True, True, False))
    assert inner[-1].max() < 0.01 and inner[:, 0].max() < 0.02
    assert cut[-1, :40].min() == 1 and cut[70:, 0].min() == 1
    assert cut[:, -1].max() < 0.02


def test_same_face_changes_nothing(scene):
    frame = cv2.GaussianBlur(scene[0], (0, 0), 5)
    result = frame.copy()
    feather(result, cv2.resize(frame[20:150, 40:140], (96, 96)), BOX)
    assert np.abs(result.astype(int) - frame).mean() < 0.5


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (5, 5, 6, 40), (0, 0, 180, 200), (178, 198, 180, 200)])
def test_any_box_size(scene, box):
    for put in (paste, feather, mouth):
        frame = scene[0].copy()
        put(frame, scene[1], box)
        assert np.array_equal(outside(frame, box), outside(scene[0], box))


def face_picture() -> np.ndarray:
    """A face with light from one side, (96, 96, 3)."""
    y, x = np.mgrid[:96, :96]
    return np.stack([90 + 0.4 * x, 110 + 0.3 * x, 150 + 0.2 * y], -1).astype(np.uint8)


def test_a_tint_of_the_generator_is_taken_out():
    original = face_picture()
    tinted = np.clip(original * np.array([0.8, 0.9, 1.0]) + np.array([0, 10, 25]), 0, 255).astype(np.uint8)
    before, after = (np.abs(face.astype(int) - original).mean() for face in (tinted, match_colours(tinted, original)))
    assert before > 10 and after < 1.5


def test_what_the_mouth_does_is_kept():
    original = face_picture()
    opened = original.copy()
    cv2.ellipse(opened, (48, 72), (12, 8), 0, 0, 360, (20, 20, 40), -1)
    matched = match_colours(opened, original)
    assert np.abs(matched.astype(int) - opened)[64:80, 36:60].mean() < 6


def test_equal_colours_are_left_alone():
    assert np.array_equal(match_colours(face_picture(), face_picture()), face_picture())


def test_mouth_alone_leaves_jaw_and_cheeks(scene, own_colours):
    frame, face = scene
    result = frame.copy()
    mouth(result, face, BOX)
    changed = (result != frame).any(-1)[20:150, 40:140]
    whole = frame.copy()
    feather(whole, face, BOX)
    assert changed[int(0.78 * 130), 50] and changed.mean() < 0.6 * (whole != frame).any(-1)[20:150, 40:140].mean()
    assert not changed[:, :12].any() and not changed[:, -12:].any() and not changed[: int(0.5 * 130)].any()
    mask = mouth_mask(200, 160)
    assert mask.max() == 1 and max(np.abs(np.diff(mask, axis=axis)).max() for axis in (0, 1)) < 0.07  # no edge


@pytest.mark.parametrize("blend", BLENDS)
def test_what_reaches_over_the_frames_edge_is_left_out(scene, own_colours, blend):
    frame, face = scene
    wide = cv2.copyMakeBorder(frame, 60, 60, 60, 60, cv2.BORDER_REPLICATE)
    box = (-30, 120, 70, 250)
    moved = tuple(side + 60 for side in box)
    result, expected = frame.copy(), wide.copy()
    compositor(blend)(result, face, box)
    compositor(blend)(expected, face, moved)
    inner = expected[60:-60, 60:-60]
    assert (result != frame).any()
    if blend == "feather":  # which makes no fade towards the edge
        assert np.array_equal(outside(result, (0, 120, 70, 200)), outside(frame, (0, 120, 70, 200)))
    else:
        assert np.array_equal(result, inner)


# Sharpening


def edge(blur: float) -> np.ndarray:
    picture = np.full((80, 120, 3), (60, 70, 80), np.uint8)
    picture[:, 60:] = (150, 160, 170)
    return cv2.GaussianBlur(picture, (0, 0), blur)


@pytest.mark.parametrize("enlargement", [1.0, 3.0])
def test_sharpening_steepens_edges_without_ringing(enlargement):
    soft = edge(enlargement)
    sharp = sharpen(soft, enlargement)
    row, before = sharp[40, :, 1].astype(int), soft[40, :, 1].astype(int)
    assert np.diff(row).max() > 1.2 * np.diff(before).max()
    assert row.min() >= before.min() and row.max() <= before.max()
    assert (np.diff(row) >= 0).all()  # no dip beside the edge


def test_sharpening_stays_in_the_range_around_each_pixel():
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    picture = cv2.GaussianBlur(noise, (0, 0), 1.5)
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    sharp = cv2.cvtColor(sharpen(picture), cv2.COLOR_BGR2GRAY)
    around = np.ones((3, 3), np.uint8)
    assert (sharp.astype(int) >= cv2.erode(grey, around).astype(int) - 2).all()
    assert (sharp.astype(int) <= cv2.dilate(grey, around).astype(int) + 2).all()
    flat = np.full((40, 40, 3), 90, np.uint8)
    assert np.array_equal(sharpen(flat, 2.0), flat)


def test_high_contrast_is_sharpened_less():
    low, high = np.full((40, 80, 3), 120, np.uint8), np.full((40, 80, 3), 2, np.uint8)
    low[:, 40:], high[:, 40:] = 140, 253
    gains = []
    for picture in (low, high):
        soft = cv2.GaussianBlur(picture, (0, 0), 2.0)
        gains.append(np.diff(sharpen(soft)[20, :, 0].astype(int)).max() / np.diff(soft[20, :, 0].astype(int)).max())
    assert gains[0] > gains[1]


def test_sharpening_shows_in_the_face_and_leaves_no_seam(own_colours):
    rng = np.random.default_rng(0)
    frame = cv2.GaussianBlur(rng.integers(0, 256, (200, 180, 3), dtype=np.uint8), (0, 0), 4)
    face = cv2.resize(frame[20:150, 40:140], (48, 48), interpolation=cv2.INTER_AREA)
    plain, sharp = frame.copy(), frame.copy()
    compositor("feather")(plain, face, BOX)
    compositor("feather", "sharpen")(sharp, face, BOX)
    difference = np.abs(sharp.astype(int) - plain).max(-1)
    assert difference[100:130, 70:110].max() >= 2
    assert np.array_equal(outside(sharp), outside(frame))
    rim = difference.copy()
    rim[22:148, 42:138] = 0
    assert rim.max() <= 1


def detailed_reference() -> np.ndarray:
    rng = np.random.default_rng(1)
    return cv2.GaussianBlur(rng.integers(20, 235, (130, 100, 3), dtype=np.uint8), (0, 0), 0.8)


def test_a_copied_reference_is_as_sharp_as_it_was_and_changes_are_kept():
    reference = detailed_reference()
    face = fit(reference, (96, 96))
    assert np.array_equal(with_detail(face, reference), reference)
    brighter = with_detail(cv2.add(face, (9, 9, 9, 0)), reference)
    assert np.array_equal(brighter, cv2.add(reference, (9, 9, 9, 0)))
    face[60:90, 30:60] = 90
    changed = with_detail(face, reference).astype(int)
    away = np.ones((130, 100), bool)
    away[60 * 130 // 96 - 5 : 90 * 130 // 96 + 5, 30 * 100 // 96 - 5 : 60 * 100 // 96 + 5] = False
    assert np.array_equal(changed[away], reference[away])
    inside = changed[84:118, 33:60]
    assert np.abs(inside.mean((0, 1)) - 90).max() < 3


@pytest.mark.parametrize("blend", BLENDS)
def test_detail_of_the_reference_shows_in_the_frame(scene, own_colours, blend):
    frame, reference = scene[0], detailed_reference()
    face, results = fit(reference, (96, 96)), {}
    for enhance in ("auto", "none"):
        results[enhance] = frame.copy()
        compositor(blend, enhance, fitting=True)(results[enhance], face, BOX, reference)
    mouth_at, box = (slice(118, 126), slice(84, 96)), (slice(98, 106), slice(44, 56))
    assert np.abs(results["auto"][mouth_at].astype(int) - reference[box]).max() <= 1
    assert np.abs(results["none"][mouth_at].astype(int) - reference[box]).mean() > 2
    assert np.array_equal(outside(results["auto"]), outside(frame))


@pytest.mark.parametrize("enlargement", [1, 3])
def test_an_inside_that_is_dark_stays_dark(enlargement):
    reference = np.full((96, 96, 3), (120, 140, 180), np.uint8)
    reference[68:82, 32:64] = (30, 25, 50)  # an open mouth
    face = cv2.add(reference, (4, 4, 4, 0))
    face[70:80, 34:62] = (130, 130, 170)  # painted over
    face[84:88, 40:56] = (20, 20, 40)  # painted dark
    large = cv2.resize(reference, None, fx=enlargement, fy=enlargement, interpolation=cv2.INTER_NEAREST)
    found = with_darkness_of(face, large)
    painted = found[72:78, 36:60].astype(int) - reference[72:78, 36:60]
    assert 5 < painted.mean() < 25  # it was lighter by 105
    kept = np.ones((96, 96), bool)
    kept[66:84, 30:66] = False
    assert np.array_equal(found[kept], face[kept])
    assert np.abs(found[69, 33].astype(int) - face[69, 33]).max() <= 1  # a little lighter is as it was


def test_of_what_a_generator_changes_about_its_references_colours_half_is_left_out():
    rng = np.random.default_rng(0)
    reference = rng.integers(60, 180, (192, 144, 3)).astype(np.uint8)
    shown = fit(reference, (96, 96))
    assert np.array_equal(with_tint_of(shown, reference), shown)
    brighter = cv2.add(shown, (20, 20, 20, 0))
    assert np.abs(with_tint_of(brighter, reference).astype(int) - brighter).max() <= 1
    redder = cv2.add(shown, (0, 0, 20, 0))
    found = with_tint_of(redder, reference).astype(int)
    assert np.allclose(np.mean(found - shown, axis=(0, 1)), (3, 3, 13), atol=0.5)  # 6 brighter
    grey = (cv2.cvtColor(face, cv2.COLOR_BGR2GRAY).astype(int) for face in (redder, found.astype(np.uint8)))
    assert np.abs(np.subtract(*grey)).max() <= 1


def test_no_colour_is_painted_that_a_picture_does_not_have():
    rng = np.random.default_rng(0)
    light = rng.integers(80, 200, (96, 96, 1))
    yellow = (light * (0.5, 0.8, 1.0)).astype(np.uint8)
    grey = np.repeat(light, 3, axis=2).astype(np.uint8)
    for reference, bluest in ((yellow, 0.72), (grey, 1.08)):
        made = reference.copy()
        made[70:80, 30:66] = (235, 205, 190)  # bluish teeth
        made[82:88, 40:56] = (60, 60, 160)
        found = with_tint_of(made, reference)
        blue, _, red = found[70:80, 30:66].reshape(-1, 3).mean(0)
        assert blue / red < bluest
        brightness = [cv2.cvtColor(face, cv2.COLOR_BGR2GRAY).astype(int) for face in (made, found)]
        assert np.abs(np.subtract(*brightness)).max() <= 2
        assert np.array_equal(found[:60], reference[:60])
    assert np.ptp(found[82:88, 40:56].astype(int), axis=2).max() <= 8  # of a grey picture


def test_hair_where_a_face_has_skin_does_not_colour_the_mouth():
    original, face = np.full((96, 96, 3), (90, 110, 160), np.uint8), np.full((96, 96, 3), (80, 100, 150), np.uint8)
    original[:, 84:] = 30
    matched = match_colours(face, original).astype(int)
    assert np.abs(matched[60:90, 30:66] - (90, 110, 160)).max() <= 3


def test_detail_needs_references_that_fit(scene):
    frame, face = scene
    with pytest.raises(InputError, match="add --reference fitting"):
        compositor("feather", "detail")
    plain, auto = frame.copy(), frame.copy()
    compositor("feather", "none")(plain, face, BOX)
    compositor("feather", "auto")(auto, face, BOX)
    assert np.array_equal(plain, auto)
