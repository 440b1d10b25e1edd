"""3 x 3 convolutions in fewer multiplications, for float32 on the CPU (Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016).

A picture is cut into tiles. Each tile, and each kernel, is multiplied by small matrices from both sides; the products
of their values, summed over channels, are large matrix products; another small matrix makes a tile of the output.
"""

import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from llvmlite import ir
from torch import Tensor, nn

from models.vector_code import LANES, VECTOR, TileLoop, compiled

TAPS = 3
BLOCK = 144  # tiles at once: 72 to 288 are about as fast; fewer make the products slow, more take memory
FLOAT = 4  # bytes
# What reading a matrix of weights costs, in rows of the matrix product that it serves (the forms' costs then follow
# the times measured on sizes of 3 to 96 pixels, 16 to 1024 channels and batches of 2 and 8; AVX-512).
WEIGHT_ROWS = 40
LEAST_SHARED = 2**18  # values of a transform for each thread: less is done sooner than another thread has started

Matrices = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of the input (products, values), the weight (products, taps) and the output (outputs, products)."""


@dataclass(frozen=True, eq=False)
class Form:
    """How one dimension is computed: output x ((weight x taps) * (input x values)).

    Args:
        input: (products, values of a tile).
        weight: (products, 3).
        output: (outputs of a tile, products).
        step: pixels of the input from one tile to the next.
        margin: pixels before a tile that belong to it.
    """

    input: np.ndarray
    weight: np.ndarray
    output: np.ndarray
    step: int
    margin: int

    @property
    def products(self) -> int:
        """Matrix products of both dimensions."""
        return len(self.input) ** 2

    @property
    def growth(self) -> int:
        """Output pixels to an input pixel, in one dimension."""
        return len(self.output) // self.step

    def tiles(self, size: tuple[int, int]) -> tuple[int, int]:
        """Down and across a picture of (height, width)."""
        return math.ceil(size[0] / self.step), math.ceil(size[1] / self.step)


def toom_cook(outputs: int, taps: int, points: Sequence[float]) -> Matrices:
    """Matrices in which the products are as few as can be: outputs + taps - 1.

    `points`, one fewer, are where the polynomials are evaluated whose product this is; the last one is infinity.
    """
    others = [np.delete(points, place) for place in range(len(points))]
    scales = [np.prod(point - other) for point, other in zip(points, others, strict=True)]
    inputs = [np.append(np.poly(other)[::-1], 0) for other in others]
    weight = [np.power(point, np.arange(taps)) / scale for point, scale in zip(points, scales, strict=True)]
    output = [np.power(point, np.arange(outputs)) for point in points]
    return (
        np.array([*inputs, np.poly(points)[::-1]]),
        np.array([*weight, np.eye(taps)[-1]]),
        np.array([*output, np.eye(outputs)[-1]]).T,
    )


def plain(taps: int) -> Matrices:
    """Matrices that save nothing: one output, as many products as taps."""
    return np.eye(taps), np.eye(taps), np.ones((1, taps))


def same_size(matrices: Matrices) -> Form:
    """Of a convolution with padding 1."""
    return Form(*matrices, step=len(matrices[2]), margin=1)


def doubling(matrices: Matrices) -> Form:
    """Of a transposed convolution with stride 2, padding 1 and output padding 1, by matrices for two taps.

    Its even outputs are x[i] w[1]; its odd ones, x[i] w[2] + x[i + 1] w[0], are a convolution of two taps.
    """
    odd_input, odd_weight, odd_output = matrices
    step, count = odd_output.shape
    output = np.zeros((2 * step, step + count))
    output[0::2, :step], output[1::2, step:] = np.eye(step), odd_output
    return Form(
        input=np.concatenate((np.eye(step, step + 1), odd_input)),
        weight=np.concatenate((np.tile([0, 1, 0], (step, 1)), odd_weight @ [[0, 0, 1], [1, 0, 0]])),
        output=output,
        step=step,
        margin=0,
    )


SAME = (
    same_size(toom_cook(4, TAPS, (0, 1, -1, 2, -2))),  # 4 multiplications of direct convolution become 1
    same_size(toom_cook(3, TAPS, (0, 1, -1, 2))),  # 3.2
    same_size(plain(TAPS)),  # 1: for few pixels, where PyTorch sorts the weights anew in each call
)
DOUBLING = (
    doubling(toom_cook(3, 2, (0, 1, -1))),  # 1.7
    doubling(plain(2)),
)


def quickest_form(conv: nn.Module, pictures: int, size: tuple[int, int]) -> Form | None:
    """The form to compute a convolution in, for `pictures` of (height, width); None if direct convolution is better.

    It is the one with the fewest multiplications, those counted for which weights must be read. Layer by layer, the
    generators of width 0.5 and 1.0 took 0.3 to 0.9 of the time of direct convolution, but in transposed ones with few
    channels 0.8 to 1.15. In whole networks those gained, too.
    """
    if conv.kernel_size != (TAPS, TAPS) or conv.padding != (1, 1) or conv.dilation != (1, 1) or conv.groups != 1:
        return None
    if conv.in_channels % LANES or conv.out_channels % LANES:
        return None
    if isinstance(conv, nn.ConvTranspose2d):
        doubles = conv.stride == (2, 2) and conv.output_padding == (1, 1)
        forms = DOUBLING if doubles else ()
    else:
        forms = SAME if conv.stride == (1, 1) else ()
    return min(
        forms, key=lambda form: form.products * (pictures * math.prod(form.tiles(size)) + WEIGHT_ROWS), default=None
    )


class WinogradConv(nn.Module):
    """A convolution in a `Form`, an optional residual add and ReLU: float32 on the CPU, channels last, no gradients.

    The same picture gives the same numbers in any batch and in any number of threads.

    Args:
        conv: `Conv2d` or `ConvTranspose2d` of a kind that `quickest_form` has a form for.
        residual: whether its input is added to its output.
        form: as that says.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, residual: bool, form: Form):
        super().__init__()
        self.residual, self.form = residual, form
        weight = conv.weight if isinstance(conv, nn.ConvTranspose2d) else conv.weight.transpose(0, 1)
        both = torch.from_numpy(np.kron(form.weight, form.weight)).float()
        weight = both @ weight.detach().permute(2, 3, 0, 1).reshape(TAPS**2, -1)
        weight = weight.view(form.products, conv.in_channels, conv.out_channels)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False)
        self._zeros = np.zeros(conv.in_channels, np.float32)  # what lies around a picture
        _machine_code(form, residual)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) -> (N, cout, H', W'). Raises ValueError for other kinds of tensors."""
        products, cin, cout = self.weight.shape
        if x.dtype != torch.float32 or x.device.type != "cpu" or x.shape[1:2] != (cin,) or x.dim() != 4:
            raise ValueError(f"{tuple(x.shape)} {x.dtype} on {x.device}: made for (N, {cin}, H, W) float32 on the CPU")
        form, threads = self.form, torch.get_num_threads()
        read, write = _machine_code(form, self.residual).result()
        x = x.contiguous(memory_format=torch.channels_last)
        count, size = x.size(0), tuple(x.shape[2:])
        grown = tuple(form.growth * side for side in size)
        out = torch.empty((count, cout, *grown), memory_format=torch.channels_last)
        tiles = form.tiles(size)
        total = count * math.prod(tiles)
        blocks = math.ceil(total / (BLOCK * threads))
        most = max(2, math.ceil(total / max(1, blocks)))  # a product of a single row would be summed in another order
        space = _workspace(products * most * (cin + cout) + cout)
        spare = space[-cout:]  # where the pixels go that tiles have beyond the picture
        ends = [total * part // max(1, blocks) for part in range(blocks + 1)]
        for first, end in zip(ends, ends[1:], strict=False):
            rows = max(2, end - first)
            values, sums = space[: products * rows * cin], space[products * most * cin :][: products * rows * cout]

            def transform_input(start: int, stop: int, into=values, first=first, rows=rows) -> None:
                at = into.ctypes.data + FLOAT * (start - first) * cin
                read(x.data_ptr(), self._zeros.ctypes.data, at, *size, cin, *tiles, start, stop, rows * cin)

            def transform_output(start: int, stop: int, of=sums, first=first, rows=rows) -> None:
                at = of.ctypes.data + FLOAT * (start - first) * cout
                arrays = at, self.bias.data_ptr(), x.data_ptr(), out.data_ptr(), spare.ctypes.data
                write(*arrays, *grown, cout, *tiles, start, stop, rows * cout)

            _shared_out(transform_input, first, end, min(threads, values.size // LEAST_SHARED))
            matrices = torch.from_numpy(values).view(products, rows, cin)
            torch.bmm(matrices, self.weight, out=torch.from_numpy(sums).view(products, rows, cout))
            _shared_out(transform_output, first, end, min(threads, sums.size // LEAST_SHARED))
        return out


@cache
def _machine_code(form: Form, residual: bool) -> Future[list[Callable[..., None]]]:
    """Transforms of the input and of the output, made in another thread meanwhile."""

    def make() -> list[Callable[..., None]]:
        module = ir.Module()
        return compiled(module, [_write_input_code(module, form), _write_output_code(module, form, residual)])

    compiler = ThreadPoolExecutor(1)
    made = compiler.submit(make)
    compiler.shutdown(wait=False)
    return made


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count())


def _write_input_code(module: ir.Module, form: Form) -> tuple[str, int]:
    """Arrays: pictures, zeros for what lies around them, matrices."""
    loop = TileLoop(module, 3)
    pictures, zeros, matrices = loop.arrays
    products, size = form.input.shape
    half_done = loop.table(VECTOR, products * size)
    with loop.tiles() as tile:
        (pixels,) = loop.find_pixels(tile, form.step, form.margin, size, [(pictures, zeros)])
        with loop.vectors() as channel:
            with loop.places(size) as j:
                column = [loop.load(loop.kept(pixels, loop.at(i, size, j)), channel) for i in range(size)]
                for i, value in enumerate(loop.product(form.input, column)):
                    loop.keep(value, half_done, loop.at(i, size, j))
            with loop.places(products) as i:
                row = [loop.kept(half_done, loop.at(i, size, j)) for j in range(size)]
                rows = loop.rows(tile, matrices, loop.at(i, products, 0), products)
                for value, address in zip(loop.product(form.input, row), rows, strict=True):
                    loop.store(value, address, channel)
    return loop.finish()


def _write_output_code(module: ir.Module, form: Form, residual: bool) -> tuple[str, int]:
    """Arrays: matrices, bias, pictures to add, pictures to make, and memory for pixels that are not in them."""
    loop = TileLoop(module, 5)
    matrices, bias, added, made, spare = loop.arrays
    size, products = form.output.shape
    half_done = loop.table(VECTOR, size * products)
    with loop.tiles() as tile:
        targets, terms = loop.find_pixels(tile, size, 0, size, [(made, spare), (added, bias)])
        with loop.vectors() as channel:
            with loop.places(products) as j:
                rows = loop.rows(tile, matrices, j, products, by=products)
                column = [loop.load(address, channel) for address in rows]
                for i, value in enumerate(loop.product(form.output, column)):
                    loop.keep(value, half_done, loop.at(i, products, j))
            shift = loop.load(bias, channel)
            with loop.places(size) as i:
                row = [loop.kept(half_done, loop.at(i, products, j)) for j in range(products)]
                for j, value in enumerate(loop.product(form.output, row)):
                    value = loop.add(value, shift)
                    if residual:
                        value = loop.add(value, loop.load(loop.kept(terms, loop.at(i, size, j)), channel))
                    loop.store(loop.relu(value), loop.kept(targets, loop.at(i, size, j)), channel)
    return loop.finish()


_local = threading.local()


def _workspace(size: int) -> np.ndarray:
    """(size,) float32 of this thread, of any values; the same memory at each call."""
    if getattr(_local, "memory", None) is None or _local.memory.size < size:
        _local.memory = np.empty(size, np.float32)
    return _local.memory[:size]


def _shared_out(work: Callable[[int, int], None], first: int, end: int, threads: int) -> None:
    """`work(first, end)`, divided among threads."""
    if threads < 2:
        work(first, end)
        return
    bounds = [first + (end - first) * part // threads for part in range(threads + 1)]
    for done in [_pool().submit(work, *part) for part in zip(bounds, bounds[1:], strict=False)]:
        done.result()
