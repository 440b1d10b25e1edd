"""S3FD: the network, its input and the decoding of its maps, equal to the published system's."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from parity_fill import fill, x

from errors import InputError
from face_detection import FaceAlignment, LandmarksType
from face_detection.api import to_box
from face_detection.detection import sfd
from face_detection.detection.core import non_maximum_suppression
from face_detection.detection.sfd.bbox import nms
from face_detection.detection.sfd.detect import decode_detections
from face_detection.detection.sfd.net_s3fd import L2Norm, s3fd
from face_detection.detection.sfd.sfd_detector import SFDDetector, network_input


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "s3fd.pth"
    torch.save(fill(s3fd().state_dict()), path)
    return path


@pytest.fixture(scope="module")
def detector(weights: Path) -> SFDDetector:
    return SFDDetector(weights_path=weights)


def empty_maps(batch: int, sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    """Maps on which every position is background for sure."""
    maps = []
    for height, width in sizes:
        confidences = np.zeros((batch, 2, height, width), np.float32)
        confidences[:, 0] = 20
        maps += [confidences, np.zeros((batch, 4, height, width), np.float32)]
    return maps


SIZES = [(64, 80), (32, 40), (16, 20), (8, 10), (4, 5), (2, 3)]


def test_names_and_shapes_are_the_published_ones(parity: Path):
    published = json.loads((parity / "state_dicts.json").read_text())["s3fd"]
    assert {name: list(value.shape) for name, value in s3fd().state_dict().items()} == published


def test_maps_equal_the_published_network(detector: SFDDetector, parity: Path):
    images = torch.from_numpy(255 * x("s3fd", 1, 3, 128, 160) - 110)
    with torch.inference_mode():
        maps = detector.network(images)
    expected = np.load(parity / "outputs.npz")
    assert len(maps) == 12
    for index, level_map in enumerate(maps):
        np.testing.assert_allclose(level_map.numpy(), expected[f"s3fd_{index:02d}"], atol=1e-4)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_decoding_equals_the_published_system(convert, parity: Path):
    vectors = np.load(parity / "s3fd_decode.npz")
    detections = decode_detections([convert(vectors[f"map_{index:02d}"]) for index in range(12)])
    assert [len(faces) for faces in detections] == vectors["n_dets"].tolist()
    for index, (faces, rectangle) in enumerate(zip(detections, vectors["rects"].tolist(), strict=True)):
        assert faces.dtype == np.float32
        np.testing.assert_allclose(faces, vectors[f"det_{index}"], atol=1e-3)
        assert (to_box(faces[0]) if len(faces) else (-1, -1, -1, -1)) == tuple(rectangle)


@pytest.mark.parametrize("level", range(6))
def test_an_anchor_without_offsets_is_four_strides_wide(level: int):
    maps = empty_maps(2, SIZES)
    maps[2 * level][1, :, 1, 2] = [0, 3]
    nothing, faces = decode_detections(maps)
    stride = 2 ** (level + 2)
    centre_x, centre_y = stride / 2 + 2 * stride, stride / 2 + stride
    corners = [centre_x - 2 * stride, centre_y - 2 * stride, centre_x + 2 * stride, centre_y + 2 * stride]
    assert nothing.shape == (0, 5)
    np.testing.assert_allclose(faces, [[*corners, 1 / (1 + np.exp(-3))]], atol=1e-4)


def test_scores_of_a_half_or_less_are_no_faces():
    maps = empty_maps(1, SIZES)
    maps[0][0, :, 3, 3] = [0, -0.01]
    maps[0][0, :, 3, 30] = [0, 0]
    maps[0][0, :, 30, 30] = [0, 0.01]
    (faces,) = decode_detections(maps)
    assert len(faces) == 1
    assert to_box(faces[0]) == (114, 114, 130, 130)


def test_images_of_a_batch_do_not_touch_each_other():
    random = np.random.RandomState(0)
    maps = [random.standard_normal((3, channels, *size)).astype(np.float32) for size in SIZES for channels in (2, 4)]
    together = decode_detections(maps)
    for index, faces in enumerate(together):
        (alone,) = decode_detections([level_map[index : index + 1] for level_map in maps])
        np.testing.assert_array_equal(faces, alone)
        assert len(faces) > 10
        assert np.all(np.diff(faces[:, 4]) <= 0)


def test_suppression_counts_the_last_pixel():
    # Ten pixels square, five apart: 50 / 150 shared with the last pixel inside, 36 / 126 = 0.29 without it.
    detections = np.array([[5, 0, 14, 9, 0.8], [0, 0, 9, 9, 0.9]], np.float32)
    np.testing.assert_allclose(nms(detections, 0.3), [[0, 0, 9, 9, 0.9]])
    assert len(non_maximum_suppression(detections, 0.3)) == 2
    assert nms(detections[:0], 0.3).shape == (0, 5)


def test_suppressed_boxes_do_not_suppress():
    detections = np.array([[0, 0, 9, 9, 0.9], [4, 0, 13, 9, 0.8], [8, 0, 17, 9, 0.7]], np.float32)
    np.testing.assert_allclose(nms(detections, 0.3)[:, 4], [0.9, 0.7])


def test_colours_are_swapped_before_the_means_are_subtracted():
    blue, green, red = 10, 20, 30
    frames = np.full((2, 4, 6, 3), (blue, green, red), np.uint8)
    seen = network_input(frames)
    assert seen.shape == (2, 3, 4, 6)
    assert seen.dtype == torch.float32
    assert seen[1, :, 3, 5].tolist() == [red - 104, green - 117, blue - 123]


def test_norm_has_the_learnt_scale_and_survives_zeros():
    norm = L2Norm(3, scale=10.0)
    features = torch.tensor([[3.0, 0.0], [0.0, 0.0], [4.0, 0.0]]).reshape(1, 3, 1, 2)
    expected = torch.tensor([[6.0, 0.0], [0.0, 0.0], [8.0, 0.0]]).reshape(1, 3, 1, 2)
    torch.testing.assert_close(norm(features), expected)


@pytest.mark.parametrize("size", [(96, 96), (101, 67), (40, 33)])
def test_batch_call_gives_a_box_or_none_per_frame(size: tuple[int, int], weights: Path):
    alignment = FaceAlignment(LandmarksType._2D, flip_input=False, face_detector="sfd", weights_path=weights)
    frames = np.random.RandomState(1).randint(0, 256, (2, *size, 3), dtype=np.uint8)
    boxes = alignment.get_detections_for_batch(frames)
    faces = alignment.detect_faces(frames)
    assert len(boxes) == len(faces) == 2
    for box, found in zip(boxes, faces, strict=True):
        assert box == (to_box(found[0]) if len(found) else None)


def test_auto_takes_sfd_once_its_weights_are_there(weights: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sfd, "WEIGHTS_PLACES", (weights.with_name("other.pth"), weights))
    assert FaceAlignment(face_detector="auto").name == "sfd"
    monkeypatch.setattr(sfd, "WEIGHTS_PLACES", (weights.with_name("other.pth"),))
    assert FaceAlignment(face_detector="auto").name == "centerface"


def test_missing_weights_are_named_with_both_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sfd, "weights_path", lambda: None)
    monkeypatch.setattr("face_detection.detection.sfd.sfd_detector.weights_path", lambda: None)
    with pytest.raises(InputError) as error:
        FaceAlignment(face_detector="sfd")
    assert str(Path("face_detection/detection/sfd/s3fd.pth")) in str(error.value)
    assert str(Path("checkpoints/s3fd.pth")) in str(error.value)


def test_weights_of_another_network_and_other_files_are_refused(tmp_path: Path):
    other, page, code = (tmp_path / name for name in ("other.pth", "page.pth", "code.pth"))
    torch.save(torch.nn.Linear(2, 2).state_dict(), other)
    page.write_text("<!DOCTYPE html><html></html>")
    code.write_bytes(pickle.dumps(Path, protocol=2))
    with pytest.raises(InputError, match="another network"):
        FaceAlignment(face_detector="sfd", weights_path=other)
    for path in (page, code, tmp_path / "absent.pth"):
        with pytest.raises(InputError, match=path.name):
            FaceAlignment(face_detector="sfd", weights_path=path)
