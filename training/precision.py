"""In which precision networks are trained, and what that leaves in their weights."""

import copy

import torch
from torch import nn

ROUNDED = (nn.Conv2d, nn.ConvTranspose2d)  # of experts and generators: autocast computes with their weights rounded


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """What `--precision` (auto, fp32, bf16 or fp16) means on a device: the dtype of autocast, None without it."""
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


@torch.no_grad()
def as_computed(network: nn.Module, autocast: torch.dtype | None) -> nn.Module:
    """A network, in float32, with the weights that autocast to a dtype computes with; itself without autocast.

    Training has seen its losses with rounded weights. What lies between two roundings was never judged, and adds up: a
    generator's faces are a grey level off, where they should pass, when float32 computes with it.
    """
    if autocast is None:
        return network
    network = copy.deepcopy(network)
    for layer in network.modules():
        if isinstance(layer, ROUNDED):
            for weights in layer.parameters():
                weights.copy_(weights.to(autocast))
    return network
