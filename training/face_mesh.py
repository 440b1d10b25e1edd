"""MediaPipe's Face Mesh, with attention as what sees where lips are, or without as a second opinion
(`models.face_mesh`, `training.landmarks`).

    python3 -m venv tflite && tflite/bin/pip install tflite==2.18.0 torch==2.13.0
    tflite/bin/python -m training.face_mesh --tflite face_landmark_with_attention.tflite --outfile face_mesh.pth

The files are in MediaPipe's wheels on PyPI, under `mediapipe/modules/face_landmark`; the SHA-256 of those in 0.10.21 is
checked. `checkpoints/face_mesh.pth` holds the outcome of this one already; `face_landmark.tflite` is the one without
attention.
"""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from errors import InputError, run_script
from models.face_mesh import FaceMesh, PlainFaceMesh
from training.published import HINT, check_published, convert


class Published(NamedTuple):
    """A published file, and how its layers are called."""

    name: str
    digest: str  # SHA-256
    kind: type[PlainFaceMesh]
    first: int  # number of the first layer of each kind; 0 is not written
    heads: tuple[str, ...]  # layers that have names of their own


FILES = (
    Published(
        "face_landmark_with_attention.tflite", "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4",
        FaceMesh, 0, ("output_mesh", "conv_lips", "conv_faceflag"),
    ),
    Published(
        "face_landmark.tflite", "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
        PlainFaceMesh, 1, (),
    ),
)  # fmt: skip


def read_published(path: Path) -> PlainFaceMesh:
    """The network with the weights of a published file. Raises InputError."""
    digest = check_published(path, {file.digest: file.name for file in FILES})
    file = next(file for file in FILES if file.digest == digest)
    network = file.kind()
    fill(network, tensors_of(path.read_bytes()), file)
    return network


@torch.no_grad()
def fill(network: PlainFaceMesh, published: dict[str, Tensor], file: Published) -> None:
    """Copy published weights into a network, whose layers come in the same order. They are numbered by kind."""
    full, depthwise, act = (_numbered(kind, file.first) for kind in ("conv2d", "depthwise_conv2d", "p_re_lu"))
    for name, layer in network.named_modules():
        if isinstance(layer, nn.PReLU):
            layer.weight.copy_(published[f"{next(act)}/Alpha"].flatten())
        elif isinstance(layer, nn.Conv2d):
            alone = layer.groups > 1
            stored = name if name in file.heads else next(depthwise if alone else full)
            # (1, height, width, channels) and (out, height, width, in)
            layer.weight.copy_(published[f"{stored}/Kernel"].permute((3, 0, 1, 2) if alone else (0, 3, 1, 2)))
            layer.bias.copy_(published[f"{stored}/Bias"])


def _numbered(kind: str, first: int) -> Iterator[str]:
    yield from (f"{kind}_{number}" if number else kind for number in count(first))


def tensors_of(content: bytes) -> dict[str, Tensor]:
    """The constants of half precision in a TensorFlow Lite file, by name. Raises InputError."""
    try:
        import tflite
    except ImportError as error:
        raise InputError(f"{error}: training.face_mesh runs in an environment of its own, {HINT}") from error
    model = tflite.Model.GetRootAsModel(content, 0)
    graph, found = model.Subgraphs(0), {}
    for tensor in map(graph.Tensors, range(graph.TensorsLength())):
        if tensor.Type() == tflite.TensorType.FLOAT16:
            values = np.frombuffer(model.Buffers(tensor.Buffer()).DataAsNumpy().tobytes(), np.float16)
            found[tensor.Name().decode()] = torch.from_numpy(values.reshape(tensor.ShapeAsNumpy()).astype(np.float32))
    return found


def main() -> None:
    convert(read_published, 16, "--tflite", "file", "Read the weights of MediaPipe's Face Mesh")


if __name__ == "__main__":
    run_script(main)
