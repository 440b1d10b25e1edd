"""MediaPipe's Face Mesh: the published numbers, wherever and however large the face is, and how its file is read."""

import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from errors import InputError
from lipsync.video import FrameReader
from models.checkpoint import load_face_mesh, load_network
from models.face_mesh import EYE_CORNERS, LIP_POINTS, POINTS, SIDE, FaceMesh, PlainFaceMesh
from training import face_mesh
from training.published import digest_of

# Of MediaPipe's graph "FaceLandmarkCpu" with attention, 0.10.21, for the drawn face.
PUBLISHED = {
    1: (96.973, 111.334),
    13: (96.614, 133.602),
    14: (96.492, 134.925),
    61: (74.570, 134.434),
    291: (118.903, 133.726),
}


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    return load_face_mesh()


def drawn_face() -> np.ndarray:
    """(192, 192, 3) RGB in [0, 1], in 8 bits."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) / (SIDE - 1) - 0.5

    def ellipse(middle: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
        return ((x - middle[0]) / radii[0]) ** 2 + ((y - middle[1]) / radii[1]) ** 2 < 1

    face = np.full((SIDE, SIDE, 3), 0.2, np.float32)
    face[ellipse((0, 0), (0.3, 0.4))] = (0.8, 0.6, 0.5)
    for side in (-0.12, 0.12):
        face[ellipse((side, -0.1), (0.05, 0.025))] = 0.1
    face[ellipse((0, 0.05), (0.03, 0.1))] = (0.7, 0.5, 0.4)
    face[ellipse((0, 0.2), (0.12, 0.04))] = (0.6, 0.2, 0.2)
    return np.round(face * 255) / 255


@torch.inference_mode()
def test_the_published_points_come_out(mesh):
    points, presence = mesh(torch.from_numpy(drawn_face()).permute(2, 0, 1)[None])
    assert points.shape == (1, POINTS, 2)
    np.testing.assert_allclose(points[0, list(PUBLISHED)], list(PUBLISHED.values()), atol=0.02)
    flat = torch.full((1, 3, SIDE, SIDE), 0.5)
    assert float(presence) > 5 > 0 > float(mesh(flat)[1])  # no face
    both = mesh(torch.cat((flat, torch.from_numpy(drawn_face()).permute(2, 0, 1)[None])))
    torch.testing.assert_close(both[0][1:], points, atol=1e-3, rtol=0)  # whatever else is in the batch


@pytest.fixture(scope="module")
def seen(shared) -> np.ndarray:
    """A real face's box."""
    return next(iter(FrameReader(shared / "clips/talking_720p_24fps.mp4")))[110:450, 550:850]


def test_points_are_where_the_face_is(mesh, seen):
    """Shares of the box's sides: of a small, a squeezed and a mirrored one they are the same."""
    points, presence = mesh.closely(seen)
    assert presence > 5
    left, right = points[list(EYE_CORNERS)]
    lips = points[list(LIP_POINTS)]
    assert left[0] < lips[:, 0].min() and lips[:, 0].max() < right[0]
    assert max(left[1], right[1]) < lips[:, 1].min() and lips[:, 1].max() < 1
    np.testing.assert_allclose(lips, mesh.lips_of(seen))
    for size in ((75, 85), (96, 96), (600, 680)):
        np.testing.assert_allclose(mesh.lips_of(cv2.resize(seen, size)), lips, atol=0.015)
    mirrored, _ = mesh.closely(np.ascontiguousarray(seen[:, ::-1]))
    assert mirrored[[14, 13], 0] == pytest.approx(1 - points[[14, 13], 0], abs=0.015)


def test_leaning_heads_are_seen_upright(mesh, seen):
    height, width = seen.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 35, 1)
    leaning = cv2.warpAffine(seen, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
    size, truth = (width, height), mesh.closely(seen)[0]
    expected = (truth * size) @ turn[:, :2].T + turn[:, 2]
    errors = [np.linalg.norm(found[0] * size - expected, axis=1).mean() for found in
              (mesh.points_of(leaning), mesh.closely(leaning))]  # fmt: skip
    assert errors[1] < 0.02 * height and errors[1] < 0.7 * errors[0]


def published_names(attention: bool) -> list[str]:
    """The layers with weights, in the order of the network."""
    kinds = ("conv2d", "depthwise_conv2d", "p_re_lu")
    numbered = {kind: iter([*([kind] * attention), *(f"{kind}_{number}" for number in range(1, 33))]) for kind in kinds}

    def those(*kinds: str) -> list[str]:
        return [next(numbered[kind]) for kind in kinds]

    block = ("depthwise_conv2d", "conv2d", "p_re_lu")
    narrowed = ("conv2d", "p_re_lu", *block)
    body = those("conv2d", "p_re_lu", *(block * 17), *narrowed)
    if not attention:
        return [*body, *those("conv2d")]
    return [*body, "output_mesh", *those(*(block * 11), *narrowed), "conv_lips", "conv_faceflag"]


def as_published(network: PlainFaceMesh) -> dict[str, np.ndarray]:
    """Its weights as the file has them, by name."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.PReLU)]
    stored = {}
    for name, layer in zip(published_names(isinstance(network, FaceMesh)), layers, strict=True):
        weight = layer.weight.detach()
        if isinstance(layer, nn.PReLU):
            stored[f"{name}/Alpha"] = weight[None, None]
            continue
        stored[f"{name}/Kernel"] = weight.permute((1, 2, 3, 0) if layer.groups > 1 else (0, 2, 3, 1))
        stored[f"{name}/Bias"] = layer.bias.detach()
    return {name: value.numpy().astype(np.float16) for name, value in stored.items()}


def stand_in_for_tflite(tensors: dict[str, np.ndarray]) -> SimpleNamespace:
    """The package, which gives these tensors and one of whole numbers, whatever the file."""

    def tensor(name: str, values: np.ndarray, kind: int) -> SimpleNamespace:
        return SimpleNamespace(
            Type=lambda: kind, Name=name.encode, ShapeAsNumpy=lambda: np.array(values.shape), Buffer=lambda: values
        )

    found = [*(tensor(name, values, 1) for name, values in tensors.items()), tensor("pads", np.zeros((4, 2)), 2)]
    graph = SimpleNamespace(TensorsLength=lambda: len(found), Tensors=found.__getitem__)
    buffer = lambda values: SimpleNamespace(DataAsNumpy=lambda: np.frombuffer(values.tobytes(), np.uint8))  # noqa: E731
    model = SimpleNamespace(Subgraphs=lambda _: graph, Buffers=buffer)
    kinds = SimpleNamespace(FLOAT16=1)
    return SimpleNamespace(Model=SimpleNamespace(GetRootAsModel=lambda content, offset: model), TensorType=kinds)


@pytest.mark.parametrize(("number", "kind"), [(0, FaceMesh), (1, PlainFaceMesh)])
def test_published_files_are_read_layer_by_layer(number, kind, tmp_path, monkeypatch):
    torch.manual_seed(0)
    source = kind().half().float()
    path = tmp_path / "published.tflite"
    path.write_bytes(b"published")
    files = list(face_mesh.FILES)
    files[number] = files[number]._replace(digest=digest_of(path))
    monkeypatch.setattr(face_mesh, "FILES", files)
    monkeypatch.setitem(sys.modules, "tflite", stand_in_for_tflite(as_published(source)))
    monkeypatch.setattr("sys.argv", ["face_mesh", "--tflite", str(path), "--outfile", str(tmp_path / "mesh.pth")])
    face_mesh.main()
    read = load_network(kind, tmp_path / "mesh.pth").state_dict()
    assert all(torch.equal(read[name], value) for name, value in source.state_dict().items())
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(InputError, match="environment of its own"):
        face_mesh.main()
    path.write_bytes(b"another")
    with pytest.raises(InputError, match="not the published .*attention.tflite or face_landmark.tflite"):
        face_mesh.main()
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        face_mesh.main()
