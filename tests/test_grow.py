"""Larger networks out of smaller ones: which levels are shared, that the picture comes through, what is refused."""

import copy
import importlib
import sys

import pytest
import torch
from torch.nn import functional as F

from errors import InputError
from models import SyncNet_color, Wav2Lip, Wav2Lip_disc_qual
from models.checkpoint import read_checkpoint, save_checkpoint
from models.grow import calibrate, grow
from training import initial


@pytest.fixture(scope="module")
def copying():
    """A generator that gives back the reference's lower half: what it makes can be told from noise."""
    torch.manual_seed(0)
    generator = Wav2Lip(width=0.125)
    initial.start_as_copy(generator)
    return generator.eval()


def pictures(size, count=2, seed=1):
    torch.manual_seed(seed)
    stacked = F.interpolate(torch.rand(count, 6, 5, 5) * 0.8 + 0.1, size, mode="bilinear", align_corners=True)
    stacked[:, :3, size[0] // 2 :] = 0
    return stacked


@pytest.mark.parametrize(
    ("size", "taken", "fitted", "new"),
    [
        ((192, 192), {"face_encoder_blocks.2", "face_encoder_blocks.7", "face_decoder_blocks.6"}, set(),
         {"face_encoder_blocks.1", "face_decoder_blocks.7", "output_block.0"}),
        ((288, 192), {"face_encoder_blocks.1", "face_decoder_blocks.6", "output_block.0"},
         {"face_encoder_blocks.6", "face_decoder_blocks.1"}, set()),
        ((512, 512), {"face_encoder_blocks.3", "audio_encoder", "output_block.1"},
         {"face_encoder_blocks.8", "face_decoder_blocks.1"},
         {"face_encoder_blocks.2", "face_decoder_blocks.7", "face_decoder_blocks.8", "output_block.0"}),
    ],
)  # fmt: skip
def test_levels_are_matched_from_the_coarse_end(copying, size, taken, fitted, new):
    large = Wav2Lip(size, 0.125)
    growth = grow(copying, large)
    assert taken <= set(growth.taken) and fitted == set(growth.fitted) and new <= set(growth.new)
    extra = len(large.face_encoder_blocks) - len(copying.face_encoder_blocks)
    for i in range(1, 6):
        mine, theirs = large.face_encoder_blocks[i + extra], copying.face_encoder_blocks[i]
        assert all(
            torch.equal(a, b) for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True)
        )
    assert len(growth.lines()) == 3 and all(len(line) < 150 for line in growth.lines())


@pytest.mark.parametrize("size", [(192, 192), (288, 192), (384, 384)])
@pytest.mark.parametrize("passing", [0, 6])
def test_a_grown_generator_starts_with_the_small_ones_picture(size, passing):
    torch.manual_seed(0)
    copying, large = Wav2Lip(width=0.25), Wav2Lip(size, 0.25)
    initial.start_as_copy(copying)
    copying.eval()
    mel = torch.rand(2, 1, 80, 16)
    with torch.inference_mode():
        expected = F.interpolate(copying(mel, pictures((96, 96))), size, mode="bilinear")
        before = (large.eval()(mel, pictures(size)) - expected).abs().mean()
    grow(copying, large, passing)
    with torch.inference_mode():
        difference = (large.eval()(mel, pictures(size)) - expected).abs().mean()
    assert difference < 0.04 < 0.1 < before


def test_a_grown_generator_starts_so_in_training_mode_too():
    torch.manual_seed(0)
    small = Wav2Lip(width=0.25)
    mel, faces = torch.rand(6, 1, 80, 16), pictures((96, 96)).repeat(3, 1, 1, 1)
    with torch.no_grad():
        for module in small.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        small.train()(mel, faces)  # running statistics
        large = Wav2Lip((192, 192), 0.25)
        grow(small, large)
        expected = F.interpolate(small.eval()(mel, faces), (192, 192), mode="bilinear")
        made = large.train()(mel, pictures((192, 192)).repeat(3, 1, 1, 1))
    assert (made - expected).abs().mean() < 0.1


@torch.inference_mode()
def test_a_grid_in_the_small_ones_features_stays_out_of_the_picture():
    torch.manual_seed(0)
    small, large = Wav2Lip(width=0.25).eval(), Wav2Lip((192, 192), 0.25)
    convolution = small.output_block[0].conv_block[0]
    convolution.weight[:] = convolution.weight.mean((2, 3), keepdim=True)  # evens grids out
    grow(small, large.eval())
    grid = 1.0 - 2 * (torch.arange(48) % 2)
    features = 2 + torch.rand(1, convolution.in_channels, 1, 1) * (grid + grid[:, None])
    grown = large.face_decoder_blocks[-1](features)
    grown = torch.cat(
        (grown, torch.zeros(1, large.output_block[0].conv_block[0].in_channels - grown.size(1), 96, 96)), 1
    )
    inner = slice(4, -4)
    plain, made = (
        picture[0, :, inner, inner].std((1, 2)) for picture in (small.output_block(features), large.output_block(grown))
    )
    assert (made < plain).all()


def test_all_of_a_grown_network_learns(copying):
    large = Wav2Lip((192, 192), 0.125)
    grow(copying, large)
    optimizer = torch.optim.SGD(large.parameters(), 1e-3)
    for _ in range(2):  # blocks that add nothing yet come in after the first step
        optimizer.zero_grad()
        large.train()(torch.rand(2, 1, 80, 16), pictures((192, 192))).sum().backward()
        optimizer.step()
    assert all(parameter.grad.abs().max() > 0 for parameter in large.face_decoder_blocks[-1].parameters()
               if parameter.dim() > 1)  # fmt: skip


def test_calibrated_networks_paint_in_the_smaller_ones_colours(copying):
    """On other pictures than those that they were shown; the channels that pass pictures stay as they are."""
    small, large = copy.deepcopy(copying), Wav2Lip((192, 192), 0.125)
    small.output_block[1].weight.data[:, :-6] = torch.rand(3, small.output_block[1].in_channels - 6, 1, 1)
    initial.start_as_copy(large)
    grow(small, large, pictures=6)
    passed = large.output_block[1].weight[:, -6:].clone()
    mels, shown, others = torch.rand(4, 1, 80, 16), pictures((192, 192), 4, seed=2), pictures((192, 192), 4, seed=3)

    @torch.inference_mode()
    def difference() -> float:
        wanted = F.interpolate(small(mels, F.interpolate(others, (96, 96))), (192, 192))
        return float((large.eval()(mels, others) - wanted).abs().mean())

    before = difference()
    calibrate(small, large, mels, shown, pictures=6)
    assert difference() < 0.7 * before
    assert torch.equal(large.output_block[1].weight[:, -6:], passed)


@pytest.mark.parametrize("kind", [SyncNet_color, Wav2Lip_disc_qual])
def test_the_other_networks_grow(kind):
    small, large = kind(width=0.125), kind((192, 192), 0.125)
    growth = grow(small, large)
    assert len(growth.new) == 1 and not growth.fitted
    for module in (large.face_encoder[2:] if kind is SyncNet_color else large.face_encoder_blocks[2:]).parameters():
        assert any(module.shape == p.shape and torch.equal(module, p) for p in small.parameters())


def test_what_cannot_grow_is_named(copying):
    with pytest.raises(InputError, match=r"models\.widen"):
        grow(copying, Wav2Lip((192, 192), 0.5))
    with pytest.raises(InputError, match="192x192 to 96x96"):
        grow(Wav2Lip((192, 192), 0.125), copying)


def test_training_starts_from_a_smaller_size_and_names_what_it_took(toy, copying, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "expert.pth", SyncNet_color(width=0.125))
    save_checkpoint(tmp_path / "96.pth", copying)
    overrides = "batch_size=2,generator_width=0.125,num_workers=0,eval_windows=1,initial_learning_rate=0"
    argv = ["wav2lip_train", "--data_root", toy[0], "--filelists", toy[1], "--device", "cpu", "--hparams", overrides]
    argv += ["--syncnet_checkpoint_path", tmp_path / "expert.pth", "--init_from", tmp_path / "96.pth", "--steps", 1]
    script = importlib.import_module("wav2lip_train")
    names = {}
    for size in ("192", "96"):
        folder = tmp_path / size
        monkeypatch.setattr(sys, "argv", [*map(str, argv), "--img_size", size, "--checkpoint_dir", str(folder)])
        script.main()
        names[size] = capsys.readouterr().err
        checkpoint = read_checkpoint(folder / "checkpoint_step000000001.pth")
        assert checkpoint.get("dims", {}).get("img_size", (96, 96)) == (int(size), int(size))
        weight = checkpoint["state_dict"][f"face_encoder_blocks.{2 if size == '192' else 1}.0.conv_block.0.weight"]
        assert torch.equal(weight, copying.face_encoder_blocks[1][0].conv_block[0].weight)
    assert "96x96 to 192x192" in names["192"] and "not taken, new: face_encoder_blocks.1," in names["192"]
    assert "taken" not in names["96"]
    assert list((tmp_path / "192/samples_step000000001").glob("*.jpg"))


@pytest.mark.parametrize("held", [False, True])
def test_weights_whose_statistics_were_held_are_named(toy, copying, tmp_path, monkeypatch, capsys, held):
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "expert.pth", SyncNet_color(width=0.125))
    off = copy.deepcopy(copying)
    for block in off.face_decoder_blocks.modules():
        if isinstance(block, torch.nn.BatchNorm2d):
            block.running_var *= 100  # the held statistics make its features a tenth of what a batch's would
    off.output_block[1].weight.data[:, :-6] = 3 * torch.rand(3, off.output_block[1].in_channels - 6, 1, 1)
    save_checkpoint(tmp_path / "96.pth", off)
    overrides = f"batch_size=2,generator_width=0.125,num_workers=0,eval_windows=1,hold_statistics={held}"
    argv = ["wav2lip_train", "--data_root", toy[0], "--filelists", toy[1], "--device", "cpu", "--hparams", overrides]
    argv += ["--syncnet_checkpoint_path", tmp_path / "expert.pth", "--init_from", tmp_path / "96.pth", "--steps", 1]
    monkeypatch.setattr(sys, "argv", [*map(str, argv), "--checkpoint_dir", str(tmp_path / "run")])
    importlib.import_module("wav2lip_train").main()
    said = capsys.readouterr().err
    assert ("96.pth paints worse in training" in said and "hold_statistics=True" in said) != held
