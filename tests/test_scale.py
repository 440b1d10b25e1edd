"""Training in several processes: the same as in one; going on with another number of them."""

import importlib
import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from torch import distributed as dist
from torch import nn

from models import SyncNet_color
from models.checkpoint import read_checkpoint, save_checkpoint
from training.distributed import GlobalBatchNorm2d

SMALL = "generator_width=0.125,syncnet_width=0.125,num_workers=0,eval_windows=1,augment=True"


LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def in_two_processes(argv, **environment):
    """Run a script in two processes (gloo)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([*LAUNCHER, *map(str, argv)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def train(toy, monkeypatch):
    """Run a training script with a number of samples a step in all, in one process or two."""

    def call(script, ranks, total_batch, folder, overrides, *more):
        each = total_batch // ranks
        hp = f"{SMALL},batch_size={each},syncnet_batch_size={each},{overrides}"
        argv = ["--data_root", toy[0], "--filelists", toy[1], "--checkpoint_dir", folder, "--device", "cpu"]
        argv = list(map(str, [*argv, "--hparams", hp, *more]))
        if ranks == 2:
            return in_two_processes([ROOT / f"{script}.py", *argv])
        monkeypatch.setattr(sys, "argv", [script, *argv])
        return importlib.import_module(script).main()

    return call


def curves(folder):
    """Everything that a run logged, but for the time of day."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {f"{line['split']} {line['step']} {name}": value for line in lines for name, value in line.items()
            if name not in ("time", "split")}  # fmt: skip


def test_two_processes_learn_what_one_does_with_as_many_samples(train, tmp_path):
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "expert.pth", SyncNet_color(width=0.125))
    more = ("--steps", 10, "--syncnet_checkpoint_path", tmp_path / "expert.pth")
    overrides = "syncnet_wt=0.03,eval_interval=10,checkpoint_interval=10"
    for ranks in (1, 2):
        train("wav2lip_train", ranks, 4, tmp_path / str(ranks), overrides, *more)
    one, two = (curves(tmp_path / str(ranks)) for ranks in (1, 2))
    assert {"train 10 sync", "val 10 l1"} <= one.keys()
    assert two == pytest.approx(one, rel=1e-3, abs=5e-4)
    files = [sorted(path.name for path in (tmp_path / str(ranks)).glob("*.pth")) for ranks in (1, 2)]
    assert files[0] == files[1] == ["checkpoint_best.pth", "checkpoint_step000000010.pth"]


def test_run_goes_on_with_another_number_of_processes(train, tmp_path):
    overrides = "syncnet_loss=infonce,syncnet_windows=4,syncnet_eval_interval=6,syncnet_checkpoint_interval=6"
    more = ("--steps", 12)
    train("color_syncnet_train", 1, 16, tmp_path / "one", overrides, *more)
    halfway = tmp_path / "one/checkpoint_step000000006.pth"
    train("color_syncnet_train", 2, 16, tmp_path / "two", overrides, *more, "--checkpoint_path", halfway)
    first, second = (curves(tmp_path / name) for name in ("one", "two"))
    second = {name: value for name, value in second.items() if name.startswith("val 12")}
    assert second and second == pytest.approx({name: first[name] for name in second}, rel=5e-3, abs=2e-3)
    first, second = (read_checkpoint(tmp_path / name / "checkpoint_step000000012.pth") for name in ("one", "two"))
    assert first["trainer"]["samples"] == second["trainer"]["samples"] == 12 * 4
    assert first["global_epoch"] == second["global_epoch"]


def test_two_processes_on_a_cpu_train_in_half_precision(train, tmp_path):
    overrides = "syncnet_loss=bce_pairs,syncnet_windows=4,syncnet_eval_interval=2,syncnet_checkpoint_interval=2"
    train("color_syncnet_train", 2, 8, tmp_path, overrides, "--steps", 2, "--precision", "bf16")
    weights = read_checkpoint(tmp_path / "checkpoint_step000000002.pth")["state_dict"]
    assert all(value.dtype != torch.bfloat16 and value.isfinite().all() for value in weights.values())


def test_batch_norm_of_two_processes_has_the_whole_batch(tmp_path):
    torch.manual_seed(1)
    x, target = 3 + 2 * torch.randn(6, 4, 5, 5), torch.randn(6, 4, 5, 5)
    plain = nn.BatchNorm2d(4)
    plain.weight.data.uniform_()
    torch.save((x, target, plain.state_dict()), tmp_path / "given.pth")
    code = f"""
import torch
from torch import nn
from errors import run_script
from training.distributed import Workers

def main():
    workers = Workers("cpu")
    x, target, state = torch.load({str(tmp_path / "given.pth")!r}, weights_only=True)
    norm = nn.BatchNorm2d(4)
    norm.load_state_dict(state)
    network = workers.wrap(nn.Sequential(norm))
    part = slice(3 * workers.rank, 3 * workers.rank + 3)
    mine = x[part].clone().requires_grad_()
    loss = (network(mine) - target[part]).square().mean()
    loss.backward()
    result = (norm.state_dict(), [p.grad for p in norm.parameters()], mine.grad)
    torch.save(result, {str(tmp_path)!r} + f"/{{workers.rank}}.pth")
    workers.close()

run_script(main)
"""
    (tmp_path / "ranks.py").write_text(code)
    in_two_processes([tmp_path / "ranks.py"], PYTHONPATH=str(ROOT))
    x.requires_grad_()
    (plain(x) - target).square().mean().backward()
    for rank in range(2):
        state, gradients, at_input = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(state[name], value)
        for mine, whole in zip(gradients, plain.parameters(), strict=True):
            torch.testing.assert_close(mine, whole.grad)
        torch.testing.assert_close(at_input / 2, x.grad[3 * rank : 3 * rank + 3])  # of a mean over half of the batch


def test_batch_norm_in_eval_mode_asks_no_other_process():
    assert not dist.is_initialized()
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(GlobalBatchNorm2d(3).eval()(x), nn.BatchNorm2d(3).eval()(x))


@pytest.mark.parametrize("ending, status", [("print('all done')", 0), ("raise InputError('no such file')", 1)])
def test_process_of_several_ends_without_going_down_in_parts(ending, status):
    # what a gloo thread does when it wants the interpreter that is on its way down, here on purpose
    code = f"""
import atexit, os
from errors import InputError, run_script

def main():
    {ending}

atexit.register(os.abort)
run_script(main)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == status
    assert done.stdout + done.stderr == ("error: no such file\n" if status else "all done\n")
