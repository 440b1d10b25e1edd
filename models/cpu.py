"""Folded networks in the forms that are quickest on a CPU, in float32."""

from functools import partial

import torch
from torch import Tensor, nn

from models.fuse import FoldedConv


class CellConv(nn.Module):
    """A convolution whose kernel sees every pixel, or a transposed one of a single pixel, and ReLU: a matrix product.

    PyTorch would sort the weights anew in each call, which takes longer than the product. Channels last, no residual.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d):
        super().__init__()
        self.grows = isinstance(conv, nn.ConvTranspose2d)
        # to (rows, columns, cin, cout), or (cin, rows, columns, cout)
        weight = conv.weight.detach().permute(*((0, 2, 3, 1) if self.grows else (2, 3, 1, 0)))
        self.cells = conv.kernel_size if self.grows else (1, 1)
        self.weight = nn.Parameter(weight.reshape(-1, self.cells[0] * self.cells[1] * conv.out_channels), False)
        self.bias = nn.Parameter(conv.bias.detach().repeat(self.cells[0] * self.cells[1]), False)

    def forward(self, x: Tensor) -> Tensor:
        count = x.size(0)
        rows = x.permute(0, 2, 3, 1).reshape(count, -1)
        if count == 1:  # as two: a product of a single row would be summed in another order
            rows = rows.expand(2, -1).contiguous()
        out = (rows @ self.weight)[:count].add_(self.bias).relu_()
        return out.view(count, *self.cells, -1).permute(0, 3, 1, 2)


def for_cpu(network: nn.Module, *inputs: Tensor) -> nn.Module:
    """The same network with its folded convolutions in the forms that are quickest for inputs of these sizes.

    Outputs differ by rounding only (models/winograd.py). Inputs of other batch sizes work as well. The network is for
    float32 on the CPU from then on; it is changed in place and takes channels_last memory.

    Args:
        network: from `fold_batch_norm`.
        inputs: what it is called with; of any values.
    """
    for conv, (_, _, *size) in _input_shapes(network, tuple(given[:1] for given in inputs)).items():
        quick = _quick(conv, len(inputs[0]), tuple(size))
        if quick is not None:
            parent, _, name = _name_of(network, conv).rpartition(".")
            setattr(network.get_submodule(parent), name, quick)
    return network


def _quick(folded: FoldedConv, pictures: int, size: tuple[int, ...]) -> nn.Module | None:
    conv = folded.conv
    seen = (1, 1) if isinstance(conv, nn.ConvTranspose2d) else conv.kernel_size
    if size == seen and conv.padding == (0, 0) and not folded.residual and not any(conv.output_padding):
        return CellConv(conv)
    try:
        from models.winograd import WinogradConv, quickest_form
    except ImportError:  # without llvmlite, which makes its machine code, PyTorch computes the convolution
        return None
    form = quickest_form(conv, pictures, size)
    return form and WinogradConv(conv, folded.residual, form)


def _name_of(network: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in network.named_modules() if module is wanted)


def _input_shapes(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[FoldedConv, tuple[int, ...]]:
    """The shape that each folded convolution is given. No convolution is computed: its output is made up."""
    shapes = {}

    def made_up(conv: FoldedConv, x: Tensor) -> Tensor:
        shapes[conv] = tuple(x.shape)
        return x.new_zeros(1).expand(x.size(0), conv.conv.out_channels, *conv.output_size(tuple(x.shape[2:])))

    convolutions = [module for module in network.modules() if isinstance(module, FoldedConv)]
    for conv in convolutions:
        conv.forward = partial(made_up, conv)
    try:
        with torch.inference_mode():
            network(*inputs)
    finally:
        for conv in convolutions:
            del conv.forward
    return shapes
