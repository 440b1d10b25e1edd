"""S3FD: its network, its decoding and the detector made of the two."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from parity_fill import fill, x

from errors import InputError
from face_detection import FaceAlignment, LandmarksType
from face_detection.api import resolve_detector
from face_detection.detection import sfd
from face_detection.detection.sfd import SFDDetector, sfd_detector
from face_detection.detection.sfd.bbox import nms
from face_detection.detection.sfd.detect import decode_detections
from face_detection.detection.sfd.net_s3fd import L2Norm, s3fd
from face_detection.detection.sfd.sfd_detector import network_input

STRIDES = (4, 8, 16, 32, 64, 128)


@pytest.fixture(scope="module")
def network() -> s3fd:
    """The network with the parity vectors' weights."""
    network = s3fd().eval()
    network.load_state_dict(fill(network.state_dict()))
    return network


@pytest.fixture(scope="module")
def weights(network: s3fd, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "s3fd.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two places for weights, both empty, instead of those of the checkout."""
    places = (tmp_path / "here" / "s3fd.pth", tmp_path / "there" / "s3fd.pth")
    for place in places:
        place.parent.mkdir()
    monkeypatch.setattr(sfd, "WEIGHTS_PLACES", places)
    monkeypatch.setattr(sfd_detector, "WEIGHTS_PLACES", places)
    return places


def parity_maps(parity: Path) -> list[np.ndarray]:
    vectors = np.load(parity / "s3fd_decode.npz")
    return [vectors[f"map_{i:02d}"] for i in range(12)]


def random_maps(seed: int, batch: int = 2, height: int = 96, width: int = 160, face: float = -4.0) -> list:
    """Raw maps of noise, in which a position is a face of a probability around sigmoid(`face`)."""
    rng = np.random.default_rng(seed)
    maps = []
    for stride in STRIDES:
        rows, columns = math.ceil(height / stride), math.ceil(width / stride)
        confidences = rng.normal(scale=2.0, size=(batch, 2, rows, columns))
        confidences[:, 1] += face
        maps += [confidences, rng.normal(size=(batch, 4, rows, columns))]
    return [level_map.astype(np.float32) for level_map in maps]


def decode_slowly(maps: list[np.ndarray], image: int) -> list[tuple[float, ...]]:
    """What `decode_detections` gives for one image, position by position."""
    candidates = []
    for level, stride in enumerate(STRIDES):
        confidences, offsets = maps[2 * level][image], maps[2 * level + 1][image]
        for row in range(confidences.shape[1]):
            for column in range(confidences.shape[2]):
                background, face = (math.exp(value) for value in confidences[:, row, column])
                score = face / (background + face)
                if score <= 0.05:
                    continue
                dx, dy, dw, dh = (float(value) for value in offsets[:, row, column])
                width, height = 4 * stride * math.exp(0.2 * dw), 4 * stride * math.exp(0.2 * dh)
                left = stride / 2 + column * stride + 0.1 * dx * 4 * stride - width / 2
                top = stride / 2 + row * stride + 0.1 * dy * 4 * stride - height / 2
                candidates.append((left, top, left + width, top + height, score))
    kept = []
    for candidate in sorted(candidates, key=lambda c: -c[4]):
        if all(iou_of_pixels(candidate, better) <= 0.3 for better in kept):
            kept.append(candidate)
    return [detection for detection in kept if detection[4] > 0.5]


def iou_of_pixels(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of boxes whose corners name the first and the last pixel inside."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return shared / (sum(areas) - shared)


class TestNetwork:
    def test_has_the_published_names_and_shapes_in_order(self, parity: Path):
        published = json.loads((parity / "state_dicts.json").read_text())["s3fd"]
        ours = {name: list(tensor.shape) for name, tensor in s3fd().state_dict().items()}
        assert list(ours.items()) == list(published.items())

    def test_gives_the_published_maps(self, network: s3fd, parity: Path):
        vectors = np.load(parity / "outputs.npz")
        with torch.inference_mode():
            maps = network(torch.from_numpy(255 * x("s3fd", 1, 3, 128, 160) - 110))
        assert len(maps) == 12
        for i, level_map in enumerate(maps):
            np.testing.assert_allclose(level_map.numpy(), vectors[f"s3fd_{i:02d}"], rtol=0, atol=1e-4)

    @pytest.mark.parametrize(("channels", "scale"), [(256, 10.0), (512, 8.0), (512, 5.0)])
    def test_l2_norm_starts_at_its_scale(self, channels: int, scale: float):
        features = torch.rand(1, channels, 2, 3)
        normalised = L2Norm(channels, scale)(features)
        torch.testing.assert_close(normalised.norm(dim=1), torch.full((1, 2, 3), scale))

    def test_l2_norm_of_nothing_is_nothing(self):
        assert torch.equal(L2Norm(4, 10.0)(torch.zeros(1, 4, 1, 1)), torch.zeros(1, 4, 1, 1))


class TestDecoding:
    def test_equals_the_parity_vectors(self, parity: Path):
        vectors = np.load(parity / "s3fd_decode.npz")
        detections = decode_detections(parity_maps(parity))
        assert [len(faces) for faces in detections] == vectors["n_dets"].tolist()
        for i, faces in enumerate(detections):
            assert faces.dtype == np.float32
            np.testing.assert_allclose(faces, vectors[f"det_{i}"], rtol=0, atol=1e-3)

    @pytest.mark.parametrize("seed", range(4))
    def test_equals_a_decoder_that_goes_position_by_position(self, seed: int):
        maps = random_maps(seed)
        for image, faces in enumerate(decode_detections(maps)):
            expected = np.array(decode_slowly(maps, image))
            assert len(expected) > 3
            np.testing.assert_allclose(faces, expected, rtol=1e-4, atol=1e-3)

    def test_takes_tensors_as_arrays(self):
        maps = random_maps(seed=7)
        for dtype in (torch.float32, torch.float64):
            tensors = [torch.tensor(level_map, dtype=dtype, requires_grad=True) for level_map in maps]
            for a, b in zip(decode_detections(maps), decode_detections(tensors), strict=True):
                np.testing.assert_array_equal(a, b)

    def test_images_of_a_batch_do_not_touch_each_other(self):
        maps = random_maps(seed=8, batch=3)
        together = decode_detections(maps)
        for image in range(3):
            alone = decode_detections([level_map[image : image + 1] for level_map in maps])
            np.testing.assert_array_equal(together[image], alone[0])

    def test_survivors_are_sorted_confident_and_apart(self):
        for faces in decode_detections(random_maps(seed=9, face=-2.0)):
            scores = faces[:, 4]
            assert (np.diff(scores) <= 0).all()
            assert (scores > 0.5).all()
            assert (scores <= 1).all()
            for i in range(len(faces)):
                assert all(iou_of_pixels(faces[i], other) <= 0.3 + 1e-6 for other in faces[:i])

    def test_a_doubtful_face_is_a_candidate_but_does_not_stay(self):
        maps = random_maps(seed=0, batch=1, face=-100.0)
        maps[4][0, :, 2, 3] = 0.0, math.log(0.3 / 0.7)
        assert decode_detections(maps)[0].shape == (0, 5)
        assert decode_detections(maps, min_score=0.2)[0][:, 4] == pytest.approx([0.3])
        maps[4][0, :, 2, 3] = 0.0, math.log(0.04 / 0.96)
        assert decode_detections(maps, min_score=0.01)[0].shape == (0, 5)

    @pytest.mark.parametrize("level", range(6))
    def test_a_face_without_offsets_is_its_anchor(self, level: int):
        maps = random_maps(seed=1, batch=1, height=256, width=384, face=-100.0)
        maps[2 * level][0, 1, 1, 2] = 100.0
        maps[2 * level + 1][:] = 0.0
        stride = STRIDES[level]
        x_centre, y_centre = 2.5 * stride, 1.5 * stride
        box = [x_centre - 2 * stride, y_centre - 2 * stride, x_centre + 2 * stride, y_centre + 2 * stride]
        np.testing.assert_allclose(decode_detections(maps)[0], [[*box, 1.0]], atol=1e-4)

    def test_extreme_confidences_raise_no_warning(self):
        maps = random_maps(seed=2, batch=1, face=-1e4)
        maps[0][0, :, 0, 0] = -1e4, 1e4
        with np.errstate(all="raise"):
            assert decode_detections(maps)[0][:, 4] == pytest.approx([1.0])

    def test_an_empty_batch_gives_an_empty_list(self):
        assert decode_detections([level_map[:0] for level_map in random_maps(seed=3)]) == []


class TestSuppression:
    def test_of_nothing_is_nothing(self):
        assert nms(np.empty((0, 5), np.float32), 0.3).shape == (0, 5)

    def test_counts_both_border_pixels(self):
        # Columns 0 to 9 and 5 to 14 share 5 of 15; as edges they would share 4 of 14.
        pair = np.array([[0, 0, 9, 9, 0.9], [5, 0, 14, 9, 0.8]], np.float32)
        assert len(nms(pair, 0.334)) == 2
        assert len(nms(pair, 0.3)) == 1

    def test_leaves_the_best_of_each_heap_in_order(self):
        rng = np.random.default_rng(0)
        heaps = np.array([[0, 0, 50, 50], [200, 0, 260, 70], [0, 200, 40, 260]], float)
        boxes = np.concatenate([heap + rng.normal(size=(20, 4)) for heap in heaps])
        detections = np.column_stack([boxes, rng.permutation(60) / 60]).astype(np.float32)
        kept = nms(detections, 0.3)
        best = [max(detections[i : i + 20], key=lambda d: d[4]) for i in (0, 20, 40)]
        np.testing.assert_array_equal(kept, sorted(best, key=lambda d: -d[4]))
        np.testing.assert_array_equal(nms(kept, 0.3), kept)
        np.testing.assert_array_equal(nms(detections[::-1], 0.3), kept)


class TestDetector:
    def test_swaps_the_colours_and_subtracts_the_means_in_the_published_order(self):
        frame = np.zeros((2, 3, 3), np.uint8)
        frame[1, 2] = 10, 20, 30  # blue, green, red
        seen = network_input([frame, frame])
        assert seen.shape == (2, 3, 2, 3)
        assert seen.dtype == torch.float32
        assert seen[1, :, 1, 2].tolist() == [30 - 104, 20 - 117, 10 - 123]
        assert seen[0, :, 0, 0].tolist() == [-104, -117, -123]

    def test_gives_the_published_rectangles(self, weights: Path, parity: Path):
        aligner = FaceAlignment(LandmarksType._2D, flip_input=False, face_detector="sfd", weights_path=weights)
        aligner.face_detector.network = lambda _: [torch.from_numpy(m) for m in parity_maps(parity)]
        boxes = aligner.get_detections_for_batch(np.zeros((3, 256, 320, 3), np.uint8))
        expected = np.load(parity / "s3fd_decode.npz")["rects"].tolist()
        assert [[-1] * 4 if box is None else list(box) for box in boxes] == expected

    def test_a_reduced_size_gives_boxes_of_the_whole_frame(self, weights: Path, parity: Path):
        shapes = []

        def network(seen: torch.Tensor) -> list[torch.Tensor]:
            shapes.append(tuple(seen.shape))
            return [torch.from_numpy(m) for m in parity_maps(parity)]

        found = []
        for size, frame in ((0, (256, 320, 3)), (320, (512, 640, 3))):
            aligner = FaceAlignment(face_detector="sfd", weights_path=weights, size=size)
            aligner.face_detector.network = network
            found.append(aligner.detect_faces(np.zeros((3, *frame), np.uint8)))
        assert shapes == [(3, 3, 256, 320)] * 2
        for whole, reduced in zip(*found, strict=True):
            np.testing.assert_allclose(reduced[:, :4], 2 * whole[:, :4], rtol=1e-6)
            np.testing.assert_array_equal(reduced[:, 4], whole[:, 4])

    def test_a_batch_equals_its_frames_one_by_one(self, weights: Path):
        detector = SFDDetector(weights_path=weights, threshold=0.2)
        frames = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), dtype=np.uint8)
        together = detector.detect(frames)
        assert sum(len(faces) for faces in together) > 0
        for frame, faces in zip(frames, together, strict=True):
            np.testing.assert_allclose(detector.detect([frame])[0], faces, atol=1e-2)

    def test_weights_are_found_in_both_places_the_first_one_first(self, places: tuple, weights: Path):
        assert sfd.weights_path() is None
        assert resolve_detector("auto") == "centerface"
        for place in reversed(places):
            place.symlink_to(weights)
            assert sfd.weights_path() == place
            assert resolve_detector("auto") == "sfd"
        assert isinstance(FaceAlignment(face_detector="auto").face_detector, SFDDetector)

    def test_absent_weights_are_named_with_their_places(self, places: tuple):
        with pytest.raises(InputError) as error:
            FaceAlignment(LandmarksType._2D, face_detector="sfd")
        assert all(str(place) in str(error.value) for place in places)
        assert "centerface" in str(error.value)

    @pytest.mark.parametrize(
        "content", [b"", b"<!DOCTYPE html><html>not found</html>", b"\x80\x02 broken", b"PK\x03\x04 cut short"]
    )
    def test_a_damaged_file_is_an_input_error(self, places: tuple, content: bytes):
        places[1].write_bytes(content)
        for name in ("sfd", "auto"):
            with pytest.raises(InputError, match="s3fd.pth"):
                FaceAlignment(LandmarksType._2D, face_detector=name)

    def test_weights_of_another_network_are_an_input_error(self, places: tuple):
        torch.save({"state_dict": {"conv1_1.weight": torch.zeros(64, 3, 3, 3)}}, places[0])
        with pytest.raises(InputError, match="another network"):
            SFDDetector()

    def test_looking_for_weights_does_not_import_torch(self):
        code = """
import sys
from face_detection.api import resolve_detector
resolve_detector("auto")
print("torch" in sys.modules)
"""
        root = Path(__file__).resolve().parent.parent
        run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "False"
