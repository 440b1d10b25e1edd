"""What makes large faces affordable changes nothing that is learnt: checkpointing, parts of batches, their number."""

import json
import sys
import types
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from errors import InputError
from hparams import hparams
from models import SyncNet_color, Wav2Lip, Wav2Lip_disc_qual
from models.checkpoint import save_checkpoint
from training import memory, perceptual, trainer
from training.clips import free_memory
from training.data import collate
from training.stages import GeneratorStage, QualityStage
from training.trainer import Trainer, TrainOptions

SMALL = "batch_size=4,generator_width=0.125,disc_width=0.125,num_workers=0,eval_windows=1"


def hp(more=""):
    return hparams.override(f"{SMALL},{more}")


def expert():
    torch.manual_seed(0)
    return SyncNet_color(width=0.125)


# Activation checkpointing


@pytest.mark.parametrize("kind", [Wav2Lip, Wav2Lip_disc_qual])
def test_recomputed_activations_give_the_same_gradients_and_statistics(kind):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = kind((192, 192), 0.125).train()
        network.checkpointing = checkpointing
        if kind is Wav2Lip:
            made = network(torch.rand(2, 1, 80, 16), torch.rand(2, 6, 192, 192))
        else:
            made = network(torch.rand(1, 3, 2, 192, 192))
        made.square().mean().backward()
        found.append({name: p.grad for name, p in network.named_parameters()} | dict(network.named_buffers()))
    plain, recomputed = found
    for name, value in plain.items():
        torch.testing.assert_close(recomputed[name], value, msg=name)


def kept_bytes(checkpointing):
    kept = {}
    network = Wav2Lip((192, 192), 0.125).train()
    network.checkpointing = checkpointing

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made = network(torch.rand(2, 1, 80, 16), torch.rand(2, 6, 192, 192))
    return sum(kept.values()) + 0 * made.numel()


def test_checkpointing_keeps_less():
    assert kept_bytes(True) < 0.4 * kept_bytes(False)


# Parts of a batch


@pytest.fixture
def quality_trainer(toy, tmp_path):
    extra = "augment=True,syncnet_wt=0.03,mouth_wt=1"
    stage = QualityStage(hp(extra), expert())
    options = TrainOptions(toy[0], tmp_path, toy[1], {}, device="cpu")
    return Trainer(stage, options, hp(extra))


def gradients(trainer, parts, batch):
    trainer.parts = parts
    for network in trainer.stage.networks.values():
        network.eval()  # batch norm's statistics are those of the part
    trainer.stage.hp.augment = False  # random for each part
    shown = trainer._gradients(trainer.stage.prepare(batch))
    found = {f"{prefix}{name}": p.grad.clone() for prefix, net in trainer.stage.networks.items()
             for name, p in net.named_parameters()}  # fmt: skip
    return found, shown


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_parts_of_a_batch_give_the_gradients_of_the_whole(quality_trainer, parts):
    batch = collate([quality_trainer.train_set[i] for i in range(4)])
    whole, shown = gradients(quality_trainer, 1, batch)
    cut, shown_in_parts = gradients(quality_trainer, parts, batch)
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, rtol=1e-3, atol=1e-6, msg=name)
    for name, value in shown.items():
        torch.testing.assert_close(shown_in_parts[name], value, rtol=1e-3, atol=1e-6, msg=name)


def test_parts_hold_every_sample_once():
    batch = {"mel": torch.arange(7), "spoken_over": None}
    parts = list(memory.split(batch, 3))
    assert [part["mel"].tolist() for _, part in parts] == [[0, 1, 2], [3, 4, 5], [6]]
    assert sum(share for share, _ in parts) == pytest.approx(1)
    assert parts[0][1]["spoken_over"] is None


def test_which_samples_speak_over_is_drawn_for_the_whole_batch(toy, tmp_path):
    stage = GeneratorStage(hp("spoken_over_share=0.5"), expert())
    dataset = stage.dataset(toy[0], "train", 0, toy[1])
    batch = stage.prepare(collate([dataset[i] for i in range(4)]))
    parts = [part["spoken_over"].tolist() for _, part in memory.split(batch, 2)]
    assert parts == [[True, True], [False, False]]


# How many parts


def runs_out_above(most, tried, error=torch.OutOfMemoryError):
    def attempt(count):
        tried.append(count)
        if count > most:
            raise error("CUDA out of memory")

    return attempt


def test_parts_are_halved_until_they_run():
    tried = []
    assert memory._largest_that_runs(runs_out_above(5, tried), 16, 1, torch.device("cpu")) == 4
    assert tried == [16, 8, 4]
    with pytest.raises(InputError, match="activation_checkpointing"):
        memory._largest_that_runs(runs_out_above(0, tried), 16, 2, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="another"):
        memory._largest_that_runs(lambda count: (_ for _ in ()).throw(RuntimeError("another")), 4, 1, "cpu")


def test_parts_on_a_cpu_follow_from_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "peak_bytes", lambda call: call() or 10**9)
    for free, expected in ((100e9, 16), (12e9, 16), (10e9, 14), (3e9, 4)):
        monkeypatch.setattr(memory, "free_memory", lambda free=free: free)
        assert memory._largest_that_is_free(lambda count: None, 16, 2) == expected
    monkeypatch.setattr(memory, "free_memory", lambda: 1e9)
    with pytest.raises(InputError, match="runs out"):
        memory._largest_that_is_free(lambda count: None, 16, 2)


def test_free_memory_is_the_machines_or_the_containers(tmp_path):
    assert free_memory(tmp_path) == float("inf")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert free_memory(tmp_path) == 4000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    for name, content in {"max": "3000000\n", "current": "1500000\n", "stat": "anon 1\ninactive_file 500000\n"}.items():
        (group / f"memory.{name}").write_text(content)
    assert free_memory(tmp_path) == 2_000_000
    (group / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) == 4000 * 1024
    assert 0 < free_memory() < 2**50


def test_memory_of_a_call_is_measured():
    assert 300e6 < memory.peak_bytes(lambda: torch.ones(100 * 2**20)) < 600e6


def test_finding_out_changes_nothing(toy):
    stage = QualityStage(hp(), expert())
    dataset = stage.dataset(toy[0], "train", 0, toy[1])
    state = {prefix: {k: v.clone() for k, v in net.state_dict().items()} for prefix, net in stage.networks.items()}
    random = torch.get_rng_state()
    assert memory.parts_that_fit(stage, dataset, torch.device("cpu"), nullcontext) == 1
    assert torch.equal(random, torch.get_rng_state())
    for prefix, network in stage.networks.items():
        assert all(torch.equal(value, state[prefix][name]) for name, value in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())


@pytest.fixture(scope="module")
def expert_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("expert") / "expert.pth"
    save_checkpoint(path, expert())
    return path


def train(toy, folder, expert_path, monkeypatch, *more, overrides=""):
    import wav2lip_train

    argv = ["x", "--data_root", toy[0], "--filelists", toy[1], "--checkpoint_dir", folder, "--device", "cpu"]
    argv += ["--syncnet_checkpoint_path", expert_path, "--steps", 1, "--hparams", f"{SMALL},{overrides}", *more]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    wav2lip_train.main()


def test_training_with_batches_that_fit(toy, expert_path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "_largest_that_is_free", lambda attempt, total, smallest: attempt(smallest) or 2)
    train(toy, tmp_path, expert_path, monkeypatch, "--batch_size", "auto", overrides="activation_checkpointing=True")
    assert "batches of 4 in 2 parts of at most 2" in capsys.readouterr().out
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["l1"] > 0


def test_memory_that_runs_out_is_named(toy, expert_path, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.Trainer, "_gradients", lambda self, batch: runs_out_above(0, [])(1))
    with pytest.raises(InputError, match="--batch_size auto"):
        train(toy, tmp_path, expert_path, monkeypatch)


# The perceptual loss


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A package that looks like torchvision, with a narrow network in VGG-16's place, and its weights."""

    def vgg16(weights=None):
        plan, layers, channels = (4, 4, "M", 4, 4, "M", 8, 8, 8, "M", 8, 8, 8), [], 3
        for step in plan:
            if step == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, step, 3, padding=1), nn.ReLU(inplace=True)]
                channels = step
        return types.SimpleNamespace(features=nn.Sequential(*layers))

    models = types.ModuleType("torchvision.models")
    models.vgg16 = vgg16
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(perceptual, "CHECKPOINTS", Path(tmp_path / "none"))
    path = tmp_path / "hub/checkpoints" / perceptual.WEIGHTS_NAME
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    weights = {f"features.{name}": value for name, value in vgg16().features.state_dict().items()}
    torch.save({**weights, "classifier.0.weight": torch.zeros(1)}, path)
    return path


def test_perceptual_loss_takes_part(stand_in, toy, expert_path, tmp_path, monkeypatch):
    train(toy, tmp_path / "run", expert_path, monkeypatch, overrides="perceptual_wt=0.1")
    stage = GeneratorStage(hp("perceptual_wt=0.1"), expert())
    dataset = stage.dataset(toy[0], "train", 0, toy[1])
    batch = memory.to_device(stage.prepare(collate([dataset[i] for i in range(2)])), torch.device("cpu"))
    learnt = []
    shown = stage.step(batch, lambda _, loss: learnt.append(loss))
    torch.testing.assert_close(learnt[0], shown["l1"] + 0.1 * shown["vgg"])
    learnt[0].backward()
    features = stage.vgg
    assert [
        len(features(torch.rand(1, 3, 32, 32))),
        perceptual.vgg_loss(features, batch["target"], batch["target"]),
    ] == [4, 0]
    assert all(parameter.grad is None for parameter in features.parameters())


@pytest.mark.parametrize("missing", ["torchvision", "weights", "other weights"])
def test_perceptual_loss_names_what_it_needs(stand_in, monkeypatch, missing):
    if missing == "torchvision":
        monkeypatch.setitem(sys.modules, "torchvision.models", None)
    elif missing == "weights":
        stand_in.unlink()
    else:
        torch.save({"features.0.weight": torch.zeros(1)}, stand_in)
    message = {"torchvision": "pip install torchvision", "weights": "download.pytorch.org", "other weights": "again"}
    with pytest.raises(InputError, match=message[missing]):
        GeneratorStage(hp("perceptual_wt=1"), expert())
