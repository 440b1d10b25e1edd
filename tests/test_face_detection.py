"""The field's interface to face detection, and CenterFace behind it on real faces."""

import hashlib
import re
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import skimage.data

from errors import InputError
from face_detection import FaceAlignment, LandmarksType
from face_detection.api import resolve_detector, to_box
from face_detection.detection.centerface import CenterFaceDetector, centerface_detector
from face_detection.detection.core import non_maximum_suppression

# The portrait's features in pixels, (x, y).
EYES = ((206, 105), (243, 100))
MOUTH = (228, 150)


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """A picture with one face, (512, 512, 3) uint8 BGR."""
    return skimage.data.astronaut()[..., ::-1].copy()


@pytest.fixture(scope="module")
def aligner() -> FaceAlignment:
    return FaceAlignment(LandmarksType._2D, flip_input=False, device="cpu", face_detector="centerface")


def iou(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2])
    shared = np.prod(np.maximum(sides, 0))
    return float(shared / (np.prod(a[2:4] - a[:2]) + np.prod(b[2:4] - b[:2]) - shared))


def first_frame(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="bgr24")


class TestInterface:
    def test_finds_the_portraits_face(self, aligner: FaceAlignment, portrait: np.ndarray):
        (box,) = aligner.get_detections_for_batch(portrait[None])
        x1, y1, x2, y2 = box
        assert all(type(side) is int for side in box)
        for x, y in (*EYES, MOUTH):
            assert x1 < x < x2
            assert y1 < y < y2
        assert 165 < x1 < 200
        assert 250 < x2 < 285
        assert 40 < y1 < 80  # the hairline
        assert 170 < y2 < 195  # the chin

    def test_gives_the_best_detection_of_each_frame_or_none(self, aligner: FaceAlignment, portrait: np.ndarray):
        frames = np.stack([portrait, np.zeros_like(portrait), portrait[:, ::-1]])
        detections = aligner.detect_faces(frames)
        boxes = aligner.get_detections_for_batch(frames)
        assert [faces.shape for faces in detections] == [(1, 5), (0, 5), (1, 5)]
        assert all(faces.dtype == np.float32 for faces in detections)
        assert boxes[1] is None
        assert boxes[0] == to_box(detections[0][0])
        assert boxes[0][0] == pytest.approx(512 - boxes[2][2], abs=10)

    def test_a_batch_equals_its_frames_one_by_one(self, aligner: FaceAlignment, portrait: np.ndarray):
        frames = np.stack([portrait, np.roll(portrait, 60, axis=1), portrait // 2])
        for frame, faces in zip(frames, aligner.detect_faces(frames), strict=True):
            np.testing.assert_array_equal(aligner.detect_faces([frame])[0], faces)

    def test_frames_of_other_sizes_in_between_change_nothing(self, aligner: FaceAlignment, portrait: np.ndarray):
        expected = aligner.detect_faces([portrait])[0]
        for shape in ((100, 300), (40, 30), (700, 500)):
            aligner.detect_faces(np.zeros((1, *shape, 3), np.uint8))
        np.testing.assert_array_equal(aligner.detect_faces([portrait])[0], expected)

    def test_a_view_of_frames_serves(self, aligner: FaceAlignment, portrait: np.ndarray):
        rgb = np.ascontiguousarray(portrait[..., ::-1])
        view = rgb[None, ..., ::-1]
        assert aligner.get_detections_for_batch(view) == aligner.get_detections_for_batch(portrait[None])

    def test_no_frames_give_no_boxes(self, aligner: FaceAlignment):
        assert aligner.get_detections_for_batch(np.zeros((0, 8, 8, 3), np.uint8)) == []

    @pytest.mark.parametrize(
        "frames",
        [
            np.zeros((1, 8, 8, 4), np.uint8),
            np.zeros((1, 8, 8, 3), np.float32),
            np.zeros((8, 8, 3), np.uint8),
            [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)],
        ],
        ids=["four channels", "float", "no batch", "two sizes"],
    )
    def test_other_shapes_and_types_are_refused(self, aligner: FaceAlignment, frames):
        with pytest.raises(ValueError, match=r"\(H, W, 3\) frames of uint8"):
            aligner.get_detections_for_batch(frames)

    def test_boxes_are_clipped_at_zero_and_truncated(self):
        assert to_box(np.array([-3.7, -0.2, 10.99, 700.5, 0.9], np.float32)) == (0, 0, 10, 700)

    def test_positional_arguments_keep_the_fields_order(self):
        names = FaceAlignment.__init__.__code__.co_varnames[1:7]
        assert names == ("landmarks_type", "network_size", "device", "flip_input", "face_detector", "verbose")

    @pytest.mark.parametrize("name", ["", "dlib", "SFD", "centerface "])
    def test_an_unknown_detector_is_an_input_error(self, name: str):
        with pytest.raises(InputError, match=f"'{name}'.*auto, sfd, centerface"):
            FaceAlignment(LandmarksType._2D, face_detector=name)
        with pytest.raises(InputError):
            resolve_detector(name)


class TestCenterFace:
    @pytest.mark.parametrize("size", [160, 320, 0])
    def test_finds_about_the_same_box_at_every_size(self, size: int, portrait: np.ndarray, aligner: FaceAlignment):
        (face,) = CenterFaceDetector(size=size).detect([portrait])[0]
        assert iou(face, aligner.detect_faces([portrait])[0][0]) > 0.8

    @pytest.mark.parametrize(("width", "height"), [(1100, 512), (512, 1300), (700, 701), (513, 515)])
    def test_borders_round_the_frame_leave_the_box_in_place(
        self, width: int, height: int, portrait: np.ndarray, aligner: FaceAlignment
    ):
        canvas = np.full((height, width, 3), 128, np.uint8)
        left, top = width - 512, height - 512
        canvas[top:, left:] = portrait
        (face,) = aligner.detect_faces([canvas])[0]
        expected = aligner.detect_faces([portrait])[0][0] + [left, top, left, top, 0]
        assert iou(face, expected) > 0.8

    @pytest.mark.parametrize("scale", [1, 2, 4, 8])
    def test_a_face_that_fills_the_frame_is_found(self, scale: int, portrait: np.ndarray, aligner: FaceAlignment):
        close_up = cv2.resize(portrait[55:185, 165:290], None, fx=scale, fy=scale)
        (face,) = aligner.detect_faces([close_up])[0]
        expected = aligner.detect_faces([portrait])[0][0, :4] - [165, 55, 165, 55]
        assert iou(face[:4] / scale, expected) > 0.75

    def test_a_face_too_large_at_first_sight_is_found_from_further_away(self, portrait, aligner):
        close_up = cv2.resize(portrait[80:160, 185:265], None, fx=4, fy=4)
        (box,) = aligner.get_detections_for_batch(close_up[None])
        assert box is not None
        assert box[2] - box[0] > 250

    def test_a_small_face_is_found(self, portrait: np.ndarray, aligner: FaceAlignment):
        frame = np.full((256, 456, 3), 90, np.uint8)
        frame[100:228, 300:428] = cv2.resize(portrait, (128, 128), interpolation=cv2.INTER_AREA)
        (face,) = aligner.detect_faces([frame])[0]
        expected = aligner.detect_faces([portrait])[0][0, :4] / 4 + [300, 100, 300, 100]
        assert iou(face, expected) > 0.7

    def test_several_faces_come_best_first(self, portrait: np.ndarray, aligner: FaceAlignment):
        faded = cv2.GaussianBlur(portrait, (0, 0), 2) // 8
        frame = np.hstack([faded, portrait])
        (faces,) = aligner.detect_faces([frame])
        assert len(faces) == 2
        assert faces[0, 4] > faces[1, 4]
        assert faces[0, 0] > 512 > faces[1, 2]
        assert aligner.get_detections_for_batch([frame])[0] == to_box(faces[0])

    def test_threshold_decides(self, portrait: np.ndarray):
        score = CenterFaceDetector().detect([portrait])[0][0, 4]
        assert len(CenterFaceDetector(threshold=float(score) + 0.01).detect([portrait])[0]) == 0
        assert len(CenterFaceDetector(threshold=float(score) - 0.01).detect([portrait])[0]) == 1

    @pytest.mark.parametrize("name", ["brick", "coffee", "chelsea", "page", "moon"])
    def test_pictures_without_a_person_have_no_face(self, name: str, aligner: FaceAlignment):
        picture = getattr(skimage.data, name)()
        picture = np.stack([picture] * 3, axis=-1) if picture.ndim == 2 else picture[..., ::-1].copy()
        assert aligner.get_detections_for_batch(picture[None]) == [None]

    @pytest.mark.parametrize("shape", [(1, 1), (10, 20), (33, 31), (900, 12)])
    def test_tiny_and_narrow_frames_have_no_face(self, shape: tuple[int, int], aligner: FaceAlignment):
        assert aligner.get_detections_for_batch(np.full((1, *shape, 3), 128, np.uint8)) == [None]

    def test_is_quiet(self, portrait: np.ndarray, capfd: pytest.CaptureFixture[str]):
        CenterFaceDetector().detect([portrait, portrait[:300]])
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("settings", [{"size": -1}, {"size": 31}, {"threshold": 0.0}, {"threshold": 1.0}])
    def test_settings_out_of_range_are_input_errors(self, settings: dict):
        with pytest.raises(InputError, match="out of range"):
            FaceAlignment(face_detector="centerface", **settings)

    @pytest.mark.parametrize("content", [None, b"", b"version https://git-lfs.github.com/spec/v1\n"])
    def test_a_missing_or_damaged_file_is_an_input_error(self, content: bytes | None, tmp_path: Path):
        path = tmp_path / "centerface.onnx"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match="missing" if content is None else "damaged"):
            CenterFaceDetector(weights_path=path)

    def test_the_file_is_the_one_that_its_origin_names(self):
        origin = centerface_detector.WEIGHTS.with_name("ORIGIN.md").read_text()
        digest = hashlib.sha256(centerface_detector.WEIGHTS.read_bytes()).hexdigest()
        assert re.search(r"sha256\s+(\w+)", origin).group(1) == digest


class TestRealClips:
    @pytest.mark.parametrize(
        ("clip", "faces"),
        [
            ("small_face_454x256", 1),
            ("two_faces_720p", 2),
            ("several_faces_720p", 5),
            ("vertical_1080x1920", 1),
            ("painting_720p_2997fps", 1),
            ("drawing_704x1216_nosound", 1),
        ],
    )
    def test_every_face_is_found_once(self, clip: str, faces: int, shared: Path, aligner: FaceAlignment):
        frame = first_frame(shared / "clips" / f"{clip}.mp4")
        (found,) = aligner.detect_faces([frame])
        assert len(found) == faces
        assert (np.diff(found[:, 4]) <= 0).all()
        sides = found[:, 2:4] - found[:, :2]
        assert ((sides[:, 1] / sides[:, 0] > 1.0) & (sides[:, 1] / sides[:, 0] < 1.6)).all()


def test_suppression_keeps_boxes_that_only_touch():
    row = np.array([[10 * i, 0, 10 * i + 10, 10, 0.5 + i / 100] for i in range(4)], np.float32)
    kept = non_maximum_suppression(row, max_iou=0.0)
    np.testing.assert_array_equal(kept, row[::-1])
