"""The perceptual loss with VGG-16 (Johnson et al., arXiv 1603.08155): faces are compared by what a network sees.

torchvision and its weights are needed for this loss alone.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from errors import InputError
from models.checkpoint import CHECKPOINTS, read_state_dict
from training.losses import relative_distance

WEIGHTS_NAME = "vgg16-397923af.pth"  # torchvision's VGG16_Weights.IMAGENET1K_V1
LAYERS = (3, 8, 15, 22)  # relu1_2, relu2_2, relu3_3, relu4_3
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours, RGB in [0, 1]


class VGGFeatures(nn.Module):
    """What VGG-16 holds at the end of each of its first resolutions: faces (N, 3, H, W), BGR in [0, 1] -> 4 maps.

    Raises InputError when torchvision or the weights are missing.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            from torchvision.models import vgg16
        except ImportError as error:
            raise InputError("perceptual_wt needs torchvision: pip install torchvision, or leave it at 0") from error
        network = vgg16(weights=None).features[: LAYERS[-1] + 1]
        path = find_weights()
        weights = {name.removeprefix("features."): value for name, value in read_state_dict(path).items()}
        try:
            network.load_state_dict({name: weights[name] for name in network.state_dict()})
        except (KeyError, RuntimeError) as error:
            raise InputError(f"{path} holds other weights than VGG-16's: download torchvision's file again") from error
        for layer in network:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        self.layers = network
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, faces: Tensor) -> list[Tensor]:
        x = (faces.flip(1) - self.mean) / self.deviation
        kept = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in LAYERS:
                kept.append(x)
        return kept


def find_weights() -> Path:
    """VGG-16's weights, in checkpoints/ or where torchvision keeps them. Raises InputError when they are in neither."""
    for folder in (CHECKPOINTS, Path(torch.hub.get_dir()) / "checkpoints"):
        if (folder / WEIGHTS_NAME).is_file():
            return folder / WEIGHTS_NAME
    raise InputError(
        f"perceptual_wt needs VGG-16's weights: put {WEIGHTS_NAME} (download.pytorch.org/models/{WEIGHTS_NAME}) into "
        f"{CHECKPOINTS.name}/, or leave it at 0"
    )


def vgg_loss(features: nn.Module, generated: Tensor, truth: Tensor) -> Tensor:
    """Mean over resolutions of the L1 distance of the maps, each relative to the true ones' size.

    Faces (B, 3, T, H, W): of each window one frame, drawn from torch's random state, so that it stays affordable.
    """
    at = int(torch.randint(generated.size(2), ()))
    with torch.no_grad():
        expected = features(truth[:, :, at].float())
    found = features(generated[:, :, at].float())
    return relative_distance(found, expected)
