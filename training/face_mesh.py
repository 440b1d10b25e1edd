"""MediaPipe's Face Mesh with attention as what sees where lips are (`models.face_mesh`).

    python3 -m venv tflite && tflite/bin/pip install tflite==2.18.0 torch==2.13.0
    tflite/bin/python -m training.face_mesh --tflite face_landmark_with_attention.tflite --outfile face_mesh.pth

The file is in MediaPipe's wheels on PyPI, under `mediapipe/modules/face_landmark`; the SHA-256 of the one in 0.10.21 is
checked. `checkpoints/face_mesh.pth` holds the outcome already: nothing else needs this.
"""

import argparse
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from errors import InputError, run_script
from models.checkpoint import save_checkpoint
from models.face_mesh import FaceMesh
from training.published import HINT, check_published

DIGEST = "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4"  # SHA-256 of that file
FILE = "face_landmark_with_attention.tflite"
HEADS = "output_mesh", "conv_lips", "conv_faceflag"  # layers that have names of their own


def read_published(path: Path) -> FaceMesh:
    """The network with the weights of the published file. Raises InputError."""
    check_published(path, FILE, DIGEST)
    network = FaceMesh()
    fill(network, tensors_of(path.read_bytes()))
    return network


@torch.no_grad()
def fill(network: FaceMesh, published: dict[str, Tensor]) -> None:
    """Copy published weights into a network, whose layers come in the same order. They are numbered by kind."""
    full, depthwise, act = map(_numbered, ("conv2d", "depthwise_conv2d", "p_re_lu"))
    for name, layer in network.named_modules():
        if isinstance(layer, nn.PReLU):
            layer.weight.copy_(published[f"{next(act)}/Alpha"].flatten())
        elif isinstance(layer, nn.Conv2d):
            alone = layer.groups > 1
            stored = name if name in HEADS else next(depthwise if alone else full)
            # (1, height, width, channels) and (out, height, width, in)
            layer.weight.copy_(published[f"{stored}/Kernel"].permute((3, 0, 1, 2) if alone else (0, 3, 1, 2)))
            layer.bias.copy_(published[f"{stored}/Bias"])


def _numbered(kind: str) -> Iterator[str]:
    yield kind
    yield from (f"{kind}_{number}" for number in count(1))


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
    parser = argparse.ArgumentParser(description="MediaPipe's Face Mesh with attention as what sees where lips are")
    parser.add_argument("--tflite", type=Path, required=True, help="the published file")
    parser.add_argument("--outfile", type=Path, required=True, help="checkpoint, in half precision as published")
    args = parser.parse_args()
    network = read_published(args.tflite)
    save_checkpoint(args.outfile, network, bits=16)
    print(f"{args.outfile}: {sum(value.numel() for value in network.state_dict().values()) / 1e6:.1f} million weights")


if __name__ == "__main__":
    run_script(main)
