"""Networks for running only: batch norm folded into the convolutions before it, which computes the same in less."""

import copy
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def fold_batch_norm(network: Network) -> Network:
    """A copy of `network`, in eval mode, whose convolutions carry the batch norm that followed them.

    Outputs differ by rounding only. The copy has other tensor names than a checkpoint and is not meant to be trained
    or saved; `network` stays as it is. Raises ValueError for a network in training mode, whose batch norm depends on
    the batch.
    """
    if network.training:
        raise ValueError("batch norm can only be folded in a network that is in eval mode")
    folded = copy.deepcopy(network)
    for block in [module for module in folded.modules() if isinstance(module, nn.Sequential)]:
        for at in range(len(block) - 1, 0, -1):
            before = block[at - 1]
            if isinstance(block[at], nn.BatchNorm2d) and isinstance(before, nn.Conv2d | nn.ConvTranspose2d):
                transposed = isinstance(before, nn.ConvTranspose2d)
                block[at - 1] = fuse_conv_bn_eval(before, block[at], transpose=transposed)
                del block[at]
    return folded
