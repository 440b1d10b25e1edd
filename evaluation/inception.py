"""Inception v3 features of faces, for FID (Heusel et al. 2017). torchvision is needed for nothing else here."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from errors import InputError
from evaluation.judges import digest
from evaluation.tracks import DETAIL
from models.checkpoint import load_weights, read_state_dict

BATCH = 16
CACHED = "inception_v3_google-0cc3c7bd.pth"  # torchvision's weights, in the cache of torch.hub


class Inception:
    """torchvision's Inception v3 up to its last pooling: faces in, (n, 2048) features out.

    Figures by these weights are not those by the TensorFlow weights of the published FID.

    Attributes:
        name: which weights.
    """

    def __init__(self, path: Path, device: str):
        from torchvision.models import inception_v3

        self._device = device
        network = inception_v3(weights=None, aux_logits=True, init_weights=False)
        load_weights(network, read_state_dict(path), path)
        network.fc = nn.Identity()
        self._network = network.to(device).eval()
        self.name = f"{path.name} (sha256 {digest(path)[:12]})"

    @torch.inference_mode()
    def __call__(self, faces: Sequence[np.ndarray]) -> np.ndarray:
        """Features (n, 2048) float32 of faces (h, w, 3) uint8 BGR of any size."""
        features = [np.zeros((0, 2048), np.float32)]
        for first in range(0, len(faces), BATCH):
            fitted = np.stack([cv2.resize(face, DETAIL[::-1])[..., ::-1] for face in faces[first : first + BATCH]])
            pixels = torch.from_numpy(fitted).to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1
            features.append(self._network(pixels).cpu().numpy())
        return np.concatenate(features)


def find_inception(path: Path | None, device: str) -> tuple[Inception | None, str]:
    """The network, or None, and which weights it has, or why there is none.

    Raises InputError when weights were given that cannot be used.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:  # a build for another PyTorch raises the latter
        if path is not None:
            raise InputError(
                f"--inception needs torchvision ({error}): install the one made for this PyTorch, as pytorch.org says"
            ) from error
        return None, "torchvision is not installed"
    weights = path or Path(torch.hub.get_dir()) / "checkpoints" / CACHED
    if path is None and not weights.is_file():
        return None, f"no Inception weights: give --inception {CACHED}"
    network = Inception(weights, device)
    return network, network.name
