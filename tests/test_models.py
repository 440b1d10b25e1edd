"""Networks: every name, shape and number of the published ones; other sizes; checkpoints as the field trades them."""

import json
import pickle

import numpy as np
import pytest
import torch
from parity_fill import fill, x

from errors import InputError
from models import SyncNet_color, Wav2Lip, Wav2Lip_disc_qual, export, widen
from models.checkpoint import (
    ModelDims,
    load_discriminator,
    load_expert,
    load_generator,
    load_network,
    read_checkpoint,
    read_state_dict,
    save_checkpoint,
)
from models.discriminator import stack_window
from models.fuse import fold_batch_norm
from training.initial import start_as_copy

KINDS = {"wav2lip": Wav2Lip, "syncnet": SyncNet_color, "disc": Wav2Lip_disc_qual}


def filled(kind: type) -> torch.nn.Module:
    network = kind()
    network.load_state_dict(fill(network.state_dict()))
    return network.eval()


def tensor(name: str, *shape: int) -> torch.Tensor:
    return torch.from_numpy(x(name, *shape))


@pytest.mark.parametrize("name", KINDS)
def test_names_and_shapes_are_the_published_ones(parity, name):
    published = json.loads((parity / "state_dicts.json").read_text())[name]
    assert {key: list(value.shape) for key, value in KINDS[name]().state_dict().items()} == published


def test_numbers_are_the_published_ones(parity):
    outputs = np.load(parity / "outputs.npz")
    generator = filled(Wav2Lip)
    with torch.inference_mode():
        made = {
            "wav2lip_4d": generator(8 * tensor("mel4", 2, 1, 80, 16) - 4, tensor("img4", 2, 6, 96, 96)),
            "wav2lip_5d": generator(8 * tensor("mel5", 1, 5, 1, 80, 16) - 4, tensor("img5", 1, 6, 5, 96, 96)),
            "disc": filled(Wav2Lip_disc_qual)(tensor("disc", 1, 3, 5, 96, 96)),
        }
        embeddings = filled(SyncNet_color)(8 * tensor("smel", 3, 1, 80, 16) - 4, tensor("sface", 3, 15, 48, 96))
    made |= dict(zip(sorted(key for key in outputs.files if key.startswith("syncnet")), embeddings, strict=True))
    for key, value in made.items():
        np.testing.assert_allclose(value.numpy(), outputs[key], atol=1e-4, err_msg=key)


def test_parameters_and_operations():
    assert sum(p.numel() for p in Wav2Lip().parameters()) == pytest.approx(36.3e6, rel=1e-3)
    assert sum(p.numel() for p in SyncNet_color().parameters()) == pytest.approx(16.4e6, rel=3e-3)


@pytest.mark.parametrize("img_size", [(96, 96), (192, 192), (256, 256), (288, 192), (384, 384)])
def test_other_sizes_go_forward_and_backward(img_size):
    torch.manual_seed(0)
    height, width = img_size
    faces = Wav2Lip(img_size, 0.125)(torch.rand(2, 1, 80, 16), torch.rand(2, 6, height, width))
    assert faces.shape == (2, 3, height, width)
    window = torch.stack((faces,) * 5, dim=2)
    audio_embedding, face_embedding = SyncNet_color(img_size, 0.125)(torch.rand(2, 1, 80, 16), stack_window(window))
    judged = Wav2Lip_disc_qual(img_size, 0.125)(window)
    assert judged.shape == (10, 1)
    ((audio_embedding * face_embedding).sum() + judged.sum()).backward()


@pytest.mark.parametrize("img_size", [(512, 512), (1280, 640)])
def test_largest_sizes_go_forward(img_size):
    with torch.inference_mode():
        network = Wav2Lip(img_size, 0.125).eval()
        assert network(torch.rand(1, 1, 80, 16), torch.rand(1, 6, *img_size)).shape == (1, 3, *img_size)


def test_size_that_does_not_halve_is_refused():
    with pytest.raises(ValueError, match="100 x 90"):
        Wav2Lip((100, 90))


def test_time_is_folded_first():
    generator = Wav2Lip(width=0.125).eval()
    mels, faces = torch.rand(2, 3, 1, 80, 16), torch.rand(2, 6, 3, 96, 96)
    with torch.inference_mode():
        together = generator(mels, faces)
        apart = torch.stack([generator(mels[:, t], faces[:, :, t]) for t in range(3)], dim=2)
    torch.testing.assert_close(together, apart)


def test_cosine_of_embeddings_is_in_range():
    torch.manual_seed(1)
    a, b = SyncNet_color(width=0.25).eval()(torch.rand(4, 1, 80, 16), torch.rand(4, 15, 48, 96))
    cosine = (a * b).sum(1)
    assert ((cosine >= 0) & (cosine <= 1 + 1e-6)).all()


# Checkpoints


def test_checkpoint_rebuilds_the_network_it_holds(tmp_path):
    network = Wav2Lip((192, 192), 0.25)
    save_checkpoint(tmp_path / "a.b.pth", network, global_step=7)
    loaded = load_generator(tmp_path / "a.b.pth")
    assert ModelDims.of(loaded) == ModelDims((192, 192), 0.25)
    assert not loaded.training
    assert read_checkpoint(tmp_path / "a.b.pth")["global_step"] == 7


def test_generator_keeps_its_mel_lead_and_published_files_have_none(tmp_path):
    network = Wav2Lip(width=0.125)
    save_checkpoint(tmp_path / "as_published.pth", network)
    network.mel_lead_ms = 40.0
    save_checkpoint(tmp_path / "trained_here.pth", network)
    assert load_generator(tmp_path / "as_published.pth").mel_lead_ms == 0
    assert load_generator(tmp_path / "trained_here.pth").mel_lead_ms == 40
    assert widen.widen(load_generator(tmp_path / "trained_here.pth"), 0.25).mel_lead_ms == 40
    assert fold_batch_norm(load_generator(tmp_path / "trained_here.pth")).mel_lead_ms == 40


def test_half_precision_is_widened(tmp_path):
    network = SyncNet_color(width=0.25)
    save_checkpoint(tmp_path / "half.pth", network, bits=16)
    loaded = load_expert(tmp_path / "half.pth")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    assert not any(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("layout", ["module prefix", "bare", "legacy file"])
def test_layouts_of_the_field_load(tmp_path, layout):
    network = Wav2Lip_disc_qual(width=1.0)
    weights = network.state_dict()
    content = {"state_dict": weights, "optimizer": None, "global_step": 1, "global_epoch": 0}
    if layout == "module prefix":
        content["state_dict"] = {f"module.{name}": value for name, value in weights.items()}
    elif layout == "bare":
        content = dict(weights)
    path = tmp_path / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=layout != "legacy file")
    loaded = load_discriminator(path)
    torch.testing.assert_close(loaded.state_dict()["binary_pred.0.weight"], weights["binary_pred.0.weight"])


class Evil:
    def __reduce__(self):
        return (print, ("pickled code ran",))


def test_bad_checkpoints_are_named(tmp_path, capsys):
    path = tmp_path / "x.pth"
    with pytest.raises(InputError, match="does not exist"):
        load_generator(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        load_generator(path)
    path.write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    with pytest.raises(InputError, match="web page"):
        load_generator(path)
    path.write_bytes(b"\x00\x01garbage" * 100)
    with pytest.raises(InputError, match="damaged"):
        load_generator(path)
    torch.save({"state_dict": {"weight": Evil()}}, path)
    with pytest.raises(InputError, match="pickled code"):
        load_generator(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError):
        load_generator(path)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="no network weights"):
        load_generator(path)
    save_checkpoint(path, SyncNet_color(width=0.25))
    with pytest.raises(InputError, match="another network"):
        load_generator(path)
    save_checkpoint(path, Wav2Lip(width=0.25))
    path.write_bytes(path.read_bytes()[:10000])
    with pytest.raises(InputError, match="damaged"):
        load_network(Wav2Lip, path)
    assert "pickled code ran" not in capsys.readouterr().out


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    save_checkpoint(path, SyncNet_color(width=0.25))
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, SyncNet_color(width=0.25))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("bits", [16, 8])
def test_export_keeps_the_network_and_shortens_the_file(tmp_path, monkeypatch, bits):
    torch.manual_seed(0)
    network = Wav2Lip(width=0.5).eval()
    start_as_copy(network)  # with layers in which small errors are seen at once
    save_checkpoint(tmp_path / "long.pth", network, optimizer={"state": torch.zeros(10**6)}, global_step=3)
    argv = ["export", str(tmp_path / "long.pth"), str(tmp_path / "short.pth"), "--bits", str(bits)]
    monkeypatch.setattr("sys.argv", argv)
    export.main()
    assert (tmp_path / "short.pth").stat().st_size < 1.1 * bits / 8 * sum(p.numel() for p in network.parameters())
    mel, faces = torch.rand(1, 1, 80, 16), torch.rand(1, 6, 96, 96)
    with torch.inference_mode():
        difference = load_generator(tmp_path / "short.pth")(mel, faces) - network(mel, faces)
    assert difference.abs().max() < 2e-3  # half a grey level


def test_export_writes_the_mean_of_two_runs(tmp_path, monkeypatch):
    networks = [SyncNet_color(width=width) for width in (0.125, 0.125, 0.25)]
    networks.append(SyncNet_color(img_size=(192, 192), width=0.125))  # which has more layers
    for name, network in zip("abcd", networks, strict=True):
        save_checkpoint(tmp_path / f"{name}.pth", network)
    words = ["export", tmp_path / "a.pth", tmp_path / "mean.pth", "--mean_with", tmp_path / "b.pth"]
    monkeypatch.setattr("sys.argv", list(map(str, words)))
    export.main()
    first, second = (network.state_dict() for network in networks[:2])
    for name, value in read_state_dict(tmp_path / "mean.pth").items():
        torch.testing.assert_close(
            value.float(), (first[name].float() + second[name].float()) / 2, rtol=1e-2, atol=1e-3
        )
    for wrong in ("c.pth", "d.pth"):
        monkeypatch.setattr("sys.argv", [*map(str, words[:-1]), str(tmp_path / wrong)])
        with pytest.raises(InputError, match="another network or size"):
            export.main()


@pytest.mark.parametrize("training", [False, True])
def test_widened_generator_computes_the_same_and_its_new_channels_learn(tmp_path, monkeypatch, training):
    torch.manual_seed(0)
    narrow = Wav2Lip(width=0.125)
    save_checkpoint(tmp_path / "narrow.pth", narrow)
    argv = ["widen", str(tmp_path / "narrow.pth"), str(tmp_path / "wide.pth"), "--width", "0.25"]
    monkeypatch.setattr("sys.argv", argv)
    widen.main()
    wide = load_generator(tmp_path / "wide.pth").train(training)
    inputs = tensor("mel", 3, 1, 80, 16), tensor("img", 3, 6, 96, 96)
    made = wide(*inputs)
    torch.testing.assert_close(made, narrow.train(training)(*inputs), rtol=0, atol=1e-5)
    made.square().mean().backward()
    heard, all_heard = (net.face_decoder_blocks[-1][-1].conv_block[0].out_channels for net in (narrow, wide))
    unheard = wide.output_block[0].conv_block[0].weight.grad[:, heard:all_heard]
    assert unheard.abs().max() > 0


def test_widened_expert_judges_nearly_the_same():
    torch.manual_seed(0)
    narrow = SyncNet_color(width=0.125).eval()
    wide = widen.widen(narrow, 0.25)
    inputs = tensor("mel", 3, 1, 80, 16), tensor("img", 3, 15, 48, 96)
    cosines = [(a * v).sum(1) for a, v in (narrow(*inputs), wide(*inputs))]
    torch.testing.assert_close(*cosines, rtol=0, atol=0.05)
    with pytest.raises(InputError, match="not above"):
        widen.widen(wide, 0.25)
