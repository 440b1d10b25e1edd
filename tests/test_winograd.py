"""Convolutions in fewer multiplications: the numbers of direct convolution, whatever the batch and the threads."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from parity_fill import fill, x
from torch import nn

from lipsync.synthesis import Synthesizer
from models import Wav2Lip
from models.checkpoint import save_checkpoint
from models.cpu import CellConv, for_cpu
from models.fuse import FoldedConv, fold_batch_norm
from models.winograd import DOUBLING, SAME, WinogradConv, quickest_form

CPU = torch.device("cpu")


def last(*shape: int) -> torch.Tensor:
    return torch.from_numpy(x(str(shape), *shape)).contiguous(memory_format=torch.channels_last) - 0.5


def same(cin: int, cout: int) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, 3, 1, 1)


def grown(cin: int, cout: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(cin, cout, 3, 2, 1, 1)


def check(conv: nn.Module, form, inputs: torch.Tensor, residual: bool) -> None:
    with torch.inference_mode():
        out = conv.double()(inputs.double())
        expected = (out + inputs if residual else out).relu()
        made = WinogradConv(conv.float(), residual, form)(inputs)
    assert made.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(made.double(), expected, rtol=0, atol=1e-5)


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("form", SAME, ids=["4 of 6", "3 of 5", "plain"])
@pytest.mark.parametrize(
    ("shape", "cout"), [((3, 16, 7, 13), 16), ((1, 48, 1, 1), 32), ((2, 32, 24, 3), 32), ((40, 16, 9, 9), 16)]
)
def test_numbers_are_those_of_direct_convolution(form, shape, cout, threads):
    torch.manual_seed(0)
    for residual in {False, shape[1] == cout}:
        check(same(shape[1], cout), form, last(*shape), residual)


@pytest.mark.parametrize("form", DOUBLING, ids=["3 of 4", "plain"])
@pytest.mark.parametrize(("shape", "cout"), [((3, 16, 7, 13), 32), ((1, 48, 1, 1), 16), ((40, 16, 6, 6), 16)])
def test_numbers_are_those_of_transposed_convolution(form, shape, cout, threads):
    torch.manual_seed(0)
    check(grown(shape[1], cout), form, last(*shape), False)


@pytest.mark.parametrize("bias", [np.nan, np.inf])
def test_what_is_no_number_shows(bias):
    conv = same(16, 16)
    with torch.inference_mode():
        conv.bias.fill_(bias)
        torch.testing.assert_close(
            WinogradConv(conv, False, SAME[0])(last(1, 16, 4, 4)), torch.full((1, 16, 4, 4), bias), equal_nan=True
        )


def test_a_picture_gives_the_same_to_the_bit_in_any_batch_and_any_thread():
    conv = WinogradConv(same(32, 32), True, SAME[0])
    inputs = last(23, 32, 18, 10)
    with torch.inference_mode():
        together = conv(inputs)
        parts = [inputs[start : start + 1 + start % 3] for start in range(0, 21)]
    with ThreadPoolExecutor(4) as pool:  # without inference mode, which each thread has for itself
        for start, made in enumerate(pool.map(conv, parts)):
            assert torch.equal(made, together[start : start + len(made)])


def test_other_tensors_are_refused():
    conv = WinogradConv(same(16, 16), False, SAME[0])
    for wrong in (last(1, 32, 4, 4), last(1, 16, 4, 4).double(), torch.rand(16, 4, 4)):
        with pytest.raises(ValueError, match=r"made for \(N, 16, H, W\)"):
            conv(wrong)


def test_the_rule_takes_small_tiles_for_small_pictures_and_leaves_other_kinds_alone():
    def products(conv: nn.Module, size: int) -> int | None:
        form = quickest_form(conv, 8, (size, size))
        return form and form.products

    assert [products(same(512, 512), size) for size in (96, 24, 12, 6, 3)] == [36, 36, 36, 25, 9]
    assert [products(grown(512, 512), size) for size in (48, 12, 6, 3)] == [49, 49, 9, 9]
    others = [
        same(6, 16),
        same(16, 24),
        grown(64, 24),
        nn.Conv2d(16, 16, 3, 2, 1),
        nn.Conv2d(16, 16, 3, 1, 0),
        nn.Conv2d(16, 16, 3, 1, 1, groups=2),
        nn.Conv2d(16, 16, 7, 1, 3),
        nn.ConvTranspose2d(64, 64, 3, 1, 0),
        nn.ConvTranspose2d(64, 64, 3, 2, 1, 0),
    ]
    assert [products(conv, 12) for conv in others] == [None] * len(others)


# The generator


def generator(width: float) -> nn.Module:
    network = Wav2Lip(width=width)
    network.load_state_dict(fill(network.state_dict()))
    return network.eval()


def inputs_of(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(8 * x("mel", count, 1, 80, 16) - 4), last(count, 6, 96, 96) + 0.5


def test_generator_agrees_with_the_network():
    network, inputs = generator(0.5), inputs_of(2)
    folded = fold_batch_norm(network).to(memory_format=torch.channels_last)
    quick = for_cpu(folded, *inputs_of(8))
    kinds = [type(module) for module in quick.modules()]
    assert kinds.count(WinogradConv) > 20
    assert kinds.count(CellConv) == 6
    assert kinds.count(FoldedConv) > 5
    with torch.inference_mode():
        torch.testing.assert_close(quick(*inputs), network(*inputs), atol=1e-5, rtol=0)


def test_narrow_generator_of_another_size_agrees():
    network = Wav2Lip((288, 192), 0.125).eval()
    inputs = inputs_of(1)[0], last(1, 6, 288, 192) + 0.5
    quick = for_cpu(fold_batch_norm(network).to(memory_format=torch.channels_last), *inputs)
    with torch.inference_mode():
        torch.testing.assert_close(quick(*inputs), network(*inputs), atol=1e-5, rtol=0)


def test_single_cell_products_are_those_of_convolution():
    torch.manual_seed(0)
    for conv, inputs in (
        (nn.Conv2d(16, 8, (3, 2)), last(3, 16, 3, 2)),
        (nn.ConvTranspose2d(8, 16, 3), last(3, 8, 1, 1)),
    ):
        with torch.inference_mode():
            made = CellConv(conv)(inputs)
            torch.testing.assert_close(made, conv(inputs).relu())
            assert torch.equal(CellConv(conv)(inputs[:1]), made[:1])


@pytest.fixture
def checkpoint(tmp_path):
    save_checkpoint(tmp_path / "generator.pth", generator(0.25))
    return tmp_path / "generator.pth"


def kinds_of(synthesizer: Synthesizer) -> set[type]:
    return {type(module) for module in synthesizer._model.modules()}


def test_only_float32_is_computed_so(checkpoint):
    assert WinogradConv in kinds_of(Synthesizer(checkpoint, CPU))
    assert not kinds_of(Synthesizer(checkpoint, CPU, "bf16")) & {WinogradConv, CellConv}


def test_without_llvmlite_convolutions_are_pytorchs(checkpoint, monkeypatch):
    face, mel = (255 * x("face", 96, 96, 3)).astype(np.uint8), (8 * x("mel", 80, 16) - 4).astype(np.float32)
    expected = Synthesizer(checkpoint, CPU)([(face, mel)])[0]
    for name in ("models.winograd", "models.vector_code"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    synthesizer = Synthesizer(checkpoint, CPU)
    assert WinogradConv not in kinds_of(synthesizer)
    made = synthesizer([(face, mel)])[0]
    assert np.abs(made.astype(int) - expected).max() <= 1
