"""Networks for running only: batch norm folded into the convolutions before it, which computes the same in less."""

import copy
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.conv import Conv2d, Conv2dTranspose, output_size

Network = TypeVar("Network", bound=nn.Module)


class FoldedConv(nn.Module):
    """`Conv2d` or `Conv2dTranspose` with its batch norm in the convolution, in place after that."""

    def __init__(self, block: Conv2d | Conv2dTranspose):
        super().__init__()
        conv, norm = block.conv_block
        self.conv = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
        self.residual = getattr(block, "residual", False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        if self.residual:
            out += x
        return out.relu_()

    def output_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """(height, width) of the output for that of the input."""
        conv = self.conv
        if isinstance(conv, nn.ConvTranspose2d):
            terms = zip(size, conv.kernel_size, conv.stride, conv.padding, conv.output_padding, strict=True)
            return tuple((side - 1) * step - 2 * edge + taps + more for side, taps, step, edge, more in terms)
        layers = zip(conv.kernel_size, conv.stride, conv.padding, strict=True)
        return tuple(output_size([layer], side) for layer, side in zip(layers, size, strict=True))


def fold_batch_norm(network: Network) -> Network:
    """A copy of `network` in which every block of convolution and batch norm is a `FoldedConv`.

    Outputs differ by rounding only. The copy has other tensor names than a checkpoint, has no gradients and is not
    meant to be saved; `network` stays as it is. Raises ValueError for a network in training mode, whose batch norm
    depends on the batch.
    """
    if network.training:
        raise ValueError("batch norm can only be folded in a network that is in eval mode")
    blocks = [module for module in network.modules() if isinstance(module, Conv2d | Conv2dTranspose)]
    replaced = {id(block): FoldedConv(block) for block in blocks}  # for deepcopy, as if it had copied these already
    return copy.deepcopy(network, replaced).requires_grad_(False).eval()
