"""The generated face back in the frame."""

import cv2
import numpy as np
import pytest

from lipsync.compositing import FADE_IN_TOP, feather, feather_mask, paste

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


def test_feather_keeps_everything_above_the_fade_and_outside_the_box(scene):
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
def test_no_step_at_the_box_edge(size):
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
    for put in (paste, feather):
        frame = scene[0].copy()
        put(frame, scene[1], box)
        assert np.array_equal(outside(frame, box), outside(scene[0], box))
