"""The three training scripts on a toy data set: losses, schedules, checkpoints, resume, interruption, two processes."""

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT
from torch.optim.swa_utils import AveragedModel

from errors import InputError
from hparams import hparams
from models import SyncNet_color, Wav2Lip, Wav2Lip_disc_qual
from models.checkpoint import load_expert, load_generator, read_checkpoint, save_checkpoint
from training import losses
from training.schedules import learning_rate_factor, moving_average
from training.stages import GeneratorStage, QualityStage, generator_input

SMALL = (
    "batch_size=2,syncnet_batch_size=4,generator_width=0.125,syncnet_width=0.125,disc_width=0.125,num_workers=0,"
    "checkpoint_interval=2,syncnet_checkpoint_interval=2,eval_interval=2,syncnet_eval_interval=2,eval_windows=1"
)


@pytest.fixture(scope="module")
def expert_path(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("expert") / "expert.pth"
    save_checkpoint(path, SyncNet_color(width=0.125))
    return path


def arguments(toy, folder, *more):
    return ["--data_root", str(toy[0]), "--filelists", str(toy[1]), "--checkpoint_dir", str(folder), *map(str, more)]


def run(script, monkeypatch, argv, overrides=""):
    monkeypatch.setattr(sys, "argv", [script, *argv, "--hparams", f"{SMALL},{overrides}", "--device", "cpu"])
    importlib.import_module(script).main()


def records(folder, split):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def assert_same_weights(a, b):
    first, second = (read_checkpoint(path)["state_dict"] for path in (a, b))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-6, msg=name)


# Losses


def test_cosine_bce_is_defined_a_hair_outside_the_range():
    ones = torch.full((2, 8), 8**-0.5 * (1 + 1e-6))
    assert losses.cosine_bce(ones, ones, torch.ones(2, 1)) < 1e-3
    assert math.isfinite(losses.cosine_bce(ones, ones, torch.zeros(2, 1)))


def test_chance_is_ln_2():
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 3**0.5 / 2]])
    assert losses.cosine_bce(a, b, torch.ones(1, 1)) == pytest.approx(losses.CHANCE, abs=1e-3)


def test_info_nce_leaves_out_near_windows_of_the_same_clip():
    similarity = torch.tensor([[1.0, 9.0, 0.0], [9.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    clip, start = torch.tensor([0, 0, 1]), torch.tensor([4, 6, 4])
    assert losses.info_nce(similarity, clip, start, 3) < 0.7 < losses.info_nce(similarity, clip, start, 2)


def test_pairwise_bce_is_the_published_loss_over_true_and_far_pairs():
    cosine = torch.tensor([[0.9, 0.2, 0.7, 0.6], [0.3, 0.8, 0.7, 0.6], [0.7, 0.7, 0.5, 0.4], [0.7, 0.7, 0.1, 1.0]])
    clip, start = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 9, 0, 3])  # the second clip's windows are too near
    expected = (-cosine.diagonal().log().mean() - (1 - torch.tensor([0.2, 0.3])).log().mean()) / 2
    assert losses.pairwise_bce(cosine, clip, start, 5) == pytest.approx(float(expected), abs=1e-6)
    with pytest.raises(ValueError, match="far enough"):
        losses.pairwise_bce(cosine, clip, start, 50)


def test_expert_must_be_in_eval_mode():
    with pytest.raises(ValueError, match="eval mode"):
        losses.sync_loss(SyncNet_color(width=0.125).train(), torch.rand(2, 1, 80, 16), torch.rand(2, 3, 5, 96, 96))


def test_sync_loss_shows_the_expert_lower_halves_time_major():
    expert = SyncNet_color(width=0.125).eval()
    mel, faces = torch.rand(2, 1, 80, 16), torch.rand(2, 3, 5, 96, 96)
    stacked = torch.cat([faces[:, :, t, 48:] for t in range(5)], dim=1)
    expected = losses.cosine_bce(*expert(mel, stacked), torch.ones(2, 1))
    torch.testing.assert_close(losses.sync_loss(expert, mel, faces), expected)


def test_lips_loss_looks_at_lower_halves_and_is_relative():
    torch.manual_seed(0)
    expert = SyncNet_color(width=0.125).eval()
    truth, other = torch.rand(2, 3, 5, 96, 96), torch.rand(2, 3, 5, 96, 96)
    other_eyes, blurred = truth.clone(), truth.clone()
    other_eyes[..., :48, :] = 0
    blurred[..., 48:, :] = (truth[..., 48:, :] + other[..., 48:, :]) / 2
    expected = losses.look(expert, truth)
    assert [a.shape[-1] for a in expected[:-1]] == [47, 24, 12, 6, 3]  # the embedding is last
    distances = [losses.lips_of(losses.look(expert, faces), expected) for faces in (other_eyes, blurred, other)]
    assert distances[0] == 0 < distances[1] < distances[2] < 2


def test_contrast_loss_is_high_for_lips_that_say_the_references_speech():
    own, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert losses.contrast_of(own, other, own) < 1e-3
    assert losses.contrast_of(own, other, (own + other) / 2) == pytest.approx(losses.CHANCE, abs=1e-3)
    assert losses.contrast_of(own, other, other) == pytest.approx(losses.CONTRAST, abs=1e-3)


def test_shade_loss_sees_a_dark_mouth_and_no_texture():
    torch.manual_seed(0)
    truth = torch.full((2, 3, 5, 96, 96), 0.5)
    opened, eyes, texture = truth.clone(), truth.clone(), truth.clone()
    opened[..., 70:80, 40:56] = 0.2
    eyes[..., 30:40, 40:56] = 0.2
    texture += 0.3 * (1 - 2 * (torch.arange(96) % 2))  # of the same contrast, even in each cell
    assert losses.shade_loss(opened, truth) > 100 * losses.shade_loss(eyes, truth)
    assert losses.shade_loss(opened, truth) > 100 * losses.shade_loss(texture, truth)
    tinted = truth + torch.tensor([0.1, 0.0, -0.1]).view(1, 3, 1, 1, 1)
    assert losses.shade_loss(tinted, truth) < 1e-9


def test_mouth_weighs_more_when_asked():
    truth = torch.zeros(1, 3, 5, 96, 96)
    at_mouth, at_edge = truth.clone(), truth.clone()
    at_mouth[..., 75, 48] = at_edge[..., 20, 48] = 1
    assert losses.reconstruction_loss(at_mouth, truth) == losses.reconstruction_loss(at_edge, truth)
    heavy = losses.reconstruction_loss(at_mouth, truth, mouth_wt=8)
    assert heavy == pytest.approx(9 * float(losses.reconstruction_loss(at_edge, truth, mouth_wt=8)), rel=0.01)


def test_discriminator_losses_are_of_real_and_of_detached_fake():
    torch.manual_seed(0)
    discriminator = Wav2Lip_disc_qual(width=0.125)
    real, fake = torch.rand(2, 3, 5, 96, 96), torch.rand(2, 3, 5, 96, 96, requires_grad=True)
    on_real, on_fake = losses.discriminator_loss(discriminator, real, fake)
    bce = torch.nn.functional.binary_cross_entropy
    torch.testing.assert_close(on_real, bce(discriminator(real), torch.ones(10, 1)))
    torch.testing.assert_close(on_fake, bce(discriminator(fake), torch.zeros(10, 1)))
    (on_real + on_fake).backward()
    assert fake.grad is None


def test_generator_sees_no_lower_half_of_the_target():
    batch = {"target": torch.rand(2, 3, 5, 96, 96), "reference": torch.rand(2, 3, 5, 96, 96)}
    stacked = generator_input(batch)
    assert stacked.shape == (2, 6, 5, 96, 96)
    assert (stacked[:, :3, :, 48:] == 0).all()
    torch.testing.assert_close(stacked[:, :3, :, :48], batch["target"][..., :48, :])
    torch.testing.assert_close(stacked[:, 3:], batch["reference"])


@pytest.mark.parametrize(("stage", "weight"), [(GeneratorStage, 0.01), (QualityStage, 0.03)])
def test_sync_weight_is_switched_on_under_the_threshold(stage, weight):
    hp = hparams.override("generator_width=0.125,disc_width=0.125")
    trained = stage(hp, SyncNet_color(width=0.125))
    trained.after_evaluation({"sync": 0.76})
    assert trained.sync_wt == 0
    trained.after_evaluation({"sync": 0.74})
    assert trained.sync_wt == weight
    trained.after_evaluation({"sync": 0.9})
    assert trained.sync_wt == weight  # it stays
    resumed = stage(hp, SyncNet_color(width=0.125))
    resumed.load_state(trained.state())
    assert resumed.sync_wt == weight


def test_quality_loss_is_the_published_sum():
    hp = hparams.override("generator_width=0.125,disc_width=0.125,syncnet_wt=0.03")
    torch.manual_seed(0)
    stage = QualityStage(hp, SyncNet_color(width=0.125))
    batch = {
        "target": torch.rand(1, 3, 5, 96, 96),
        "reference": torch.rand(1, 3, 5, 96, 96),
        "indiv_mels": torch.rand(1, 5, 1, 80, 16),
        "mel": torch.rand(1, 1, 80, 16),
    }
    shown = stage.step(stage.prepare(batch), lambda *_: None)
    expected = 0.03 * shown["sync"] + 0.07 * shown["perceptual"] + (1 - 0.03 - 0.07) * shown["l1"]
    torch.testing.assert_close(shown["loss"], expected)


def test_learning_rate_is_constant_unless_asked():
    assert {learning_rate_factor(step, hparams) for step in (0, 10, 10**6)} == {1.0}
    hp = hparams.override("warmup_steps=10,decay_steps=100")
    assert learning_rate_factor(0, hp) == pytest.approx(0.1, rel=0.01)
    assert learning_rate_factor(100, hp) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("pair", "demand"),
    [
        ("eval_interval=0", "above 0"),
        ("batch_size=-4", "above 0"),
        ("syncnet_width=0", "above 0"),
        ("syncnet_windows=0", "above 0"),
        ("hop_size=0", "above 0"),
        ("initial_learning_rate=-1e-4", "0 or more"),
        ("accumulate_steps=-1", "0 or more"),
        ("weight_decay=nan", "0 or more"),
        ("opened_share=1.5", "from 0 to 1"),
        ("ema_decay=1", "at least 0 and below 1"),
        ("fps=0", "frames a second from 1 to 480"),
        ("syncnet_loss=cosine", "bce, bce_pairs or infonce"),
        ("infonce_negatives=clips", "batch or clip"),
    ],
)
def test_hyper_parameters_out_of_their_range(pair: str, demand: str):
    with pytest.raises(InputError, match=f"{pair.partition('=')[0]} must be {demand}"):
        hparams.override(pair)


def test_averaged_weights_forget_their_start():
    layer = torch.nn.Linear(1, 1)
    average = AveragedModel(layer, multi_avg_fn=moving_average(0.99))
    for value in range(31):
        torch.nn.init.constant_(layer.weight, value)
        average.update_parameters(layer)
    assert 20 < average.module.weight.item() < 30  # a plain 0.99 would still be at 4


# Scripts


def test_expert_trains_resumes_exactly_and_keeps_the_published_layout(toy, tmp_path, monkeypatch):
    run("color_syncnet_train", monkeypatch, arguments(toy, tmp_path / "a", "--steps", 4))
    checkpoint = read_checkpoint(tmp_path / "a/checkpoint_step000000004.pth")
    assert {"state_dict", "optimizer", "global_step", "global_epoch"} <= checkpoint.keys()
    assert (checkpoint["global_step"], checkpoint["global_epoch"]) == (4, 4)
    assert {"loss", "accuracy", "pair_accuracy"} <= records(tmp_path / "a", "val")[-1].keys()
    assert list((tmp_path / "a/tensorboard").glob("events*"))
    load_expert(tmp_path / "a/checkpoint_best.pth")

    halfway = tmp_path / "a/checkpoint_step000000002.pth"
    run("color_syncnet_train", monkeypatch, arguments(toy, tmp_path / "b", "--steps", 4, "--checkpoint_path", halfway))
    assert_same_weights(tmp_path / "a/checkpoint_step000000004.pth", tmp_path / "b/checkpoint_step000000004.pth")
    assert records(tmp_path / "a", "val")[-1]["loss"] == pytest.approx(records(tmp_path / "b", "val")[-1]["loss"])


def test_best_checkpoint_has_the_weights_that_autocast_computed_with(toy, tmp_path, monkeypatch):
    run("color_syncnet_train", monkeypatch, arguments(toy, tmp_path, "--steps", 2, "--precision", "bf16"))
    best, last = (load_expert(tmp_path / f"checkpoint_{name}.pth") for name in ("best", "step000000002"))
    rounded = {name: parameter.bfloat16().float() for name, parameter in last.named_parameters()}
    convolutions = {name for name in rounded if ".conv_block.0." in name}
    assert convolutions < rounded.keys()
    for name, parameter in best.named_parameters():
        assert torch.equal(parameter, rounded[name]) == (name in convolutions), name
    assert not any(torch.equal(parameter, rounded[name]) for name, parameter in last.named_parameters())


@pytest.mark.parametrize("loss", ["infonce", "bce_pairs"])
def test_expert_learns_from_all_pairs_of_a_batch(toy, tmp_path, monkeypatch, loss):
    overrides = f"syncnet_loss={loss},syncnet_batch_size=8,syncnet_windows=4,augment=True,ema_decay=0.9,grad_clip=1"
    run("color_syncnet_train", monkeypatch, arguments(toy, tmp_path, "--steps", 2), overrides)
    assert "average" in read_checkpoint(tmp_path / "checkpoint_step000000002.pth")


def test_generator_trains_and_resumes_with_its_sync_weight(toy, expert_path, tmp_path, monkeypatch):
    expert = ("--syncnet_checkpoint_path", expert_path)
    argv = arguments(toy, tmp_path / "a", "--steps", 4, *expert)
    run("wav2lip_train", monkeypatch, argv, "syncnet_threshold=99")  # w is switched on at the first evaluation
    halfway = tmp_path / "a/checkpoint_step000000002.pth"
    assert read_checkpoint(halfway)["trainer"]["stage"]["sync_wt"] == 0.01
    argv = arguments(toy, tmp_path / "b", "--steps", 4, "--checkpoint_path", halfway, *expert)
    run("wav2lip_train", monkeypatch, argv, "syncnet_threshold=0")
    assert_same_weights(tmp_path / "a/checkpoint_step000000004.pth", tmp_path / "b/checkpoint_step000000004.pth")
    sheets = list((tmp_path / "a/samples_step000000002").glob("*.jpg"))
    assert len(sheets) == 2 * 5  # a picture a frame of each validation clip
    expected = {"l1", "sync", "sync_real", "psnr_lower", "ssim_lower", "lse_d", "lse_c", "in_sync"}
    assert expected <= records(tmp_path / "a", "val")[-1].keys()


def test_generator_learns_on_toy_data(toy, expert_path, tmp_path, monkeypatch):
    argv = arguments(toy, tmp_path, "--steps", 40, "--syncnet_checkpoint_path", expert_path)
    run("wav2lip_train", monkeypatch, argv, "initial_learning_rate=1e-3,eval_interval=20,checkpoint_interval=40")
    first, last = (record["l1"] for record in records(tmp_path, "val"))
    assert last < 0.9 * first


def test_quality_training_writes_both_networks_and_resumes_both(toy, expert_path, tmp_path, monkeypatch):
    expert = ("--syncnet_checkpoint_path", expert_path)
    run("hq_wav2lip_train", monkeypatch, arguments(toy, tmp_path / "a", "--steps", 4, *expert))
    both = [tmp_path / f"a/{prefix}checkpoint_step000000002.pth" for prefix in ("", "disc_")]
    resume = ("--checkpoint_path", both[0], "--disc_checkpoint_path", both[1])
    run("hq_wav2lip_train", monkeypatch, arguments(toy, tmp_path / "b", "--steps", 4, *resume, *expert))
    for prefix in ("", "disc_"):
        name = f"{prefix}checkpoint_step000000004.pth"
        assert_same_weights(tmp_path / "a" / name, tmp_path / "b" / name)


def test_published_checkpoint_resumes(toy, expert_path, tmp_path, monkeypatch):
    network = Wav2Lip(width=0.125)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    weights = {f"module.{name}": value for name, value in network.state_dict().items()}
    content = {"state_dict": weights, "optimizer": optimizer.state_dict(), "global_step": 8, "global_epoch": 1}
    torch.save({**content, "dims": {"img_size": [96, 96], "width": 0.125}}, tmp_path / "old.pth")
    argv = arguments(toy, tmp_path / "run", "--steps", 9, "--checkpoint_path", tmp_path / "old.pth")
    run("wav2lip_train", monkeypatch, [*argv, "--syncnet_checkpoint_path", str(expert_path)])
    load_generator(tmp_path / "run/checkpoint_step000000009.pth")


def test_same_seed_gives_the_same_run(toy, tmp_path, monkeypatch):
    found = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.seed()
        run("color_syncnet_train", monkeypatch, arguments(toy, tmp_path / name, "--steps", 1, "--seed", seed))
        found.append(read_checkpoint(tmp_path / name / "checkpoint_step000000001.pth")["state_dict"])
    first, again, other = found
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_experts_other_losses_take_part():
    torch.manual_seed(0)
    extra = "augment=True,sync_colours=False,syncnet_wt=0.01,contrast_wt=0.1,lips_wt=0.2,shade_wt=3,mouth_wt=1"
    stage = GeneratorStage(hparams.override(f"{SMALL},{extra}"), SyncNet_color(width=0.125))
    batch = {name: torch.rand(2, 3, 5, 96, 96) for name in ("target", "reference")}
    batch |= {name: torch.rand(2, 1, 80, 16) for name in ("mel", "reference_mel")}
    batch |= {name: torch.rand(2, 5, 1, 80, 16) for name in ("indiv_mels", "reference_indiv_mels")}
    batch["jitter"] = torch.rand(2, 5) * 2 - 1
    learnt = []
    shown = stage.step(stage.prepare(batch), lambda prefix, loss: learnt.append(loss))
    weights = {"l1": 0.99, "sync": 0.01, "contrast": 0.1, "lips": 0.2, "shade": 3}
    torch.testing.assert_close(learnt[0], sum(weight * shown[name] for name, weight in weights.items()))


def test_training_stops_at_the_first_loss_that_is_no_number(toy, expert_path, tmp_path, monkeypatch):
    argv = arguments(toy, tmp_path, "--steps", 4, "--syncnet_checkpoint_path", expert_path)
    monkeypatch.setattr(losses, "reconstruction_loss", lambda generated, *_: generated.mean() * float("nan"))
    with pytest.raises(InputError, match="diverged at step 1"):
        run("wav2lip_train", monkeypatch, argv)


def test_bad_arguments_are_named(toy, expert_path, tmp_path, monkeypatch):
    argv = arguments(toy, tmp_path)
    with pytest.raises(InputError, match="another network"):
        run("color_syncnet_train", monkeypatch, [*argv, "--init_from", str(expert_path)], "syncnet_width=0.25")
    with pytest.raises(InputError, match="does not exist"):
        run("wav2lip_train", monkeypatch, [*argv, "--syncnet_checkpoint_path", str(tmp_path / "none.pth")])
    with pytest.raises(InputError, match="give one of them"):
        run("color_syncnet_train", monkeypatch, [*argv, "--init_from", "a.pth", "--checkpoint_path", "b.pth"])
    with pytest.raises(InputError, match="--steps"):
        run("color_syncnet_train", monkeypatch, [*argv, "--steps", "0"])


def start(script, argv, launcher=(), **kwargs):
    command = [sys.executable, *launcher, str(ROOT / f"{script}.py"), *argv, "--hparams", SMALL, "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, **kwargs
    )


def test_ctrl_c_saves_a_checkpoint_and_leaves(toy, tmp_path):
    process = start("color_syncnet_train", arguments(toy, tmp_path))
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("checkpoint_step*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    last_step = max(line["step"] for line in records(tmp_path, "train") + records(tmp_path, "val"))
    steps = [int(path.stem[-9:]) for path in tmp_path.glob("checkpoint_step*.pth")]
    assert max(steps) >= last_step
    assert not list(tmp_path.glob(".*part"))


def test_no_usable_clip_ends_in_one_line(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "train.txt").write_text("a/1\na/2\n")
    argv = ["--data_root", tmp_path / "data", "--filelists", tmp_path, "--checkpoint_dir", tmp_path / "c"]
    process = start("color_syncnet_train", [str(part) for part in argv])
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in stderr
    assert "2 missing" in stderr.splitlines()[-1]
