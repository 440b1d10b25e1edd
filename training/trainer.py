"""The one training loop: steps, evaluation, checkpoints, resume, logging, devices."""

import math
import os
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from errors import InputError
from hparams import HParams
from models.checkpoint import ModelDims, build_network, load_weights, read_checkpoint, save_checkpoint
from models.grow import grow
from training.data import StepSampler, collate
from training.distributed import Workers, bare, without_sync
from training.logs import Logs, write_sheets
from training.memory import out_of_memory, parts_that_fit, split, to_device
from training.precision import as_computed, autocast_dtype
from training.schedules import learning_rate_factor, moving_average
from training.stage import Batch, Stage
from training.stream import ShardStream

SHOWN_STEPS = 50  # the bar shows means over this many steps
TRIED_WITH = 8  # training samples that first weights are tried on
SHEET_CLIPS = 8  # validation samples in a sample sheet


@dataclass(frozen=True)
class TrainOptions:
    """What a training script is told, besides hyper-parameters."""

    data_root: Path
    checkpoint_dir: Path
    filelists: Path
    checkpoints: dict[str, Path]  # to resume from, by network prefix
    init_from: Path | None = None  # weights to start from at step 0
    steps: int | None = None  # the global step at which the run is done; None: until interrupted
    checkpoint_interval: int = 3000
    eval_interval: int = 3000
    device: str = "auto"
    precision: str = "auto"
    seed: int = 0


class Trainer:
    """Trains a stage. `run` returns when the steps are done, or after a checkpoint when interrupted."""

    def __init__(self, stage: Stage, options: TrainOptions, hp: HParams):
        self.stage, self.options, self.hp = stage, options, hp
        self.workers = Workers(options.device)
        torch.manual_seed(options.seed + self.workers.rank)
        self.global_step = 0
        self.samples = 0  # drawn so far, by all processes together
        self.best = math.inf
        self.interrupted = False
        self.recent: dict[str, deque[float]] = {}
        self.waited = 0.0

        device = self.workers.device
        self.autocast = autocast_dtype(options.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.autocast is torch.float16)
        self.train_set = stage.dataset(options.data_root, "train", options.seed, options.filelists)
        if options.init_from:
            self._start_from(options.init_from)
        self.parts = min(hp.accumulate_steps, stage.loader_batch) or self._parts_that_fit()
        self.optimizers = {}
        for prefix, network in stage.networks.items():
            stage.networks[prefix] = self.workers.wrap(network)
            self.optimizers[prefix] = torch.optim.AdamW(
                network.parameters(), stage.learning_rates[prefix], stage.betas, weight_decay=hp.weight_decay
            )
        for network in stage.frozen:
            network.to(device, memory_format=torch.channels_last)
        self.average = None
        if hp.ema_decay:
            self.average = AveragedModel(
                bare(stage.networks[""]), multi_avg_fn=moving_average(hp.ema_decay), use_buffers=True
            )
        if hp.compile:
            for network in stage.networks.values():
                bare(network).compile()
        self._resume()
        self.eval_set = stage.dataset(options.data_root, "val", options.seed, options.filelists)

    def _start_from(self, path: Path) -> None:
        """Weights of a network of the same size, or what one for smaller faces has in common. Raises InputError."""
        checkpoint, network = read_checkpoint(path), self.stage.networks[""]
        if ModelDims.from_checkpoint(checkpoint, path).img_size == network.img_size:
            load_weights(network, checkpoint["state_dict"], path)
            self.stage.after_loading(path, self._first_samples)
            return
        small = build_network(type(network), checkpoint, path)
        try:
            growth = grow(small, network, self.stage.passing)
        except InputError as error:
            raise InputError(f"--init_from {path}: {error}") from error
        self.stage.after_growth(path, small.eval(), self._first_samples)
        if self.workers.leads:
            sizes = ("x".join(map(str, size)) for size in (small.img_size, network.img_size))
            tqdm.write("\n  ".join([f"{path}: {' to '.join(sizes)}", *growth.lines()]), file=sys.stderr)

    def _first_samples(self) -> Batch:
        """A few samples to try first weights on, on the CPU."""
        samples = collate(list(islice(iter(self.train_set), TRIED_WITH)))
        return to_device(self.stage.prepare(samples), torch.device("cpu"))

    def _parts_that_fit(self) -> int:
        """In how many parts a batch fits into memory, in every process."""
        parts = parts_that_fit(self.stage, self.train_set, self.workers.device, self._autocasting)
        return self.workers.most(parts)

    # Steps

    def run(self) -> None:
        """Train to the last step; Ctrl-C saves a checkpoint first and raises KeyboardInterrupt."""
        options = self.options
        previous = {kind: signal.signal(kind, self._interrupt) for kind in (signal.SIGINT, signal.SIGTERM)}
        options.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        saved_at = self.global_step
        started = time.perf_counter()
        try:
            with Logs(options.checkpoint_dir, self.workers.leads) as logs, self._bar() as bar:
                batches = iter(self._train_loader())
                while options.steps is None or self.global_step < options.steps:
                    waiting = time.perf_counter()
                    batch = next(batches)
                    self.waited += time.perf_counter() - waiting
                    self._step(batch, logs, bar)
                    if self.global_step % options.eval_interval == 0:
                        self._evaluate(logs, bar)
                    stop = self.workers.any(self.interrupted)
                    if stop or self.global_step % options.checkpoint_interval == 0:
                        self._save()
                        saved_at = self.global_step
                    if stop:  # in any process: all leave together
                        self.interrupted = True
                        break
                if not self.interrupted and self.global_step % options.eval_interval:
                    self._evaluate(logs, bar)
                if saved_at != self.global_step:
                    self._save()
        finally:
            for kind, handler in previous.items():
                signal.signal(kind, handler)
            self.workers.close()
        share = self.waited / max(1e-9, time.perf_counter() - started)
        if self.workers.leads:
            tqdm.write(
                f"step {self.global_step}: checkpoints in {options.checkpoint_dir}; "
                f"{share:.0%} of the time went into waiting for data"
            )
        if self.interrupted:
            raise KeyboardInterrupt

    def _interrupt(self, *_: Any) -> None:
        if self.interrupted:  # a second Ctrl-C does not wait
            sys.exit(130)
        self.interrupted = True

    def _step(self, batch: dict[str, Tensor], logs: Logs, bar: tqdm) -> None:
        self.stage.train_mode()
        for prefix in self.stage.networks:
            for group in self.optimizers[prefix].param_groups:
                group["lr"] = self.stage.learning_rates[prefix] * learning_rate_factor(self.global_step, self.hp)
        try:
            shown = self._gradients(self.stage.prepare(batch))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise InputError(
                f"memory runs out for {math.ceil(self.stage.loader_batch / self.parts)} samples at once: use "
                "--batch_size auto, or --hparams accumulate_steps and activation_checkpointing"
            ) from error
        for prefix in self.stage.networks:
            self._update(prefix)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(bare(self.stage.networks[""]))
        self.global_step += 1
        self.samples += self._samples_a_step
        values = {name: float(value) for name, value in shown.items()}
        self._stop_if_not_finite(values)
        for name, value in values.items():
            self.recent.setdefault(name, deque(maxlen=SHOWN_STEPS)).append(value)
        bar.update()
        if self.global_step % 10 == 0:
            means = {name: sum(recent) / len(recent) for name, recent in self.recent.items()}
            means = self.workers.mean_by_name(means)
            bar.set_postfix({name: f"{mean:.4f}" for name, mean in means.items()}, refresh=False)
            lr = self.optimizers[""].param_groups[0]["lr"]
            logs.write("train", self.global_step, {**means, "lr": lr, **self.stage.state()})

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Gradients of a whole batch, part by part; with fp16, scaled so that small ones survive. Losses to show."""
        shown: dict[str, Tensor] = {}
        networks = self.stage.networks.values()
        for prefix in self.stage.networks:
            self.optimizers[prefix].zero_grad(set_to_none=True)
        parts = list(split(batch, self.parts))
        for number, (share, part) in enumerate(parts, 1):

            def learn(_: str, loss: Tensor, share: float = share) -> None:
                with torch.autocast(self.workers.device.type, enabled=False):
                    self.scaler.scale(loss * share if share < 1 else loss).backward()

            with without_sync(networks, active=number < len(parts)), self._autocasting():
                found = self.stage.step(to_device(part, self.workers.device), learn)
            for name, value in found.items():
                shown[name] = shown.get(name, 0.0) + share * value.detach()
        return shown

    def _update(self, prefix: str) -> None:
        """One optimiser step of a network."""
        network, optimizer = self.stage.networks[prefix], self.optimizers[prefix]
        self.scaler.unscale_(optimizer)
        if self.hp.grad_clip:
            nn.utils.clip_grad_norm_(network.parameters(), self.hp.grad_clip)
        self.scaler.step(optimizer)

    def _stop_if_not_finite(self, values: dict[str, float]) -> None:
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if self.workers.any(bool(broken)):
            raise InputError(
                f"training diverged at step {self.global_step} ({', '.join(broken)} is not finite): "
                "resume from the last checkpoint with a lower learning rate or --precision fp32"
            )

    @property
    def _samples_a_step(self) -> int:
        """Items of the training set that a step takes, in all processes together."""
        return self.stage.loader_batch * self.workers.size

    def _train_loader(self) -> DataLoader:
        workers, batch_size = self.workers, self.stage.loader_batch
        count = _loader_processes(self.hp, workers)
        if isinstance(self.train_set, ShardStream):
            count = min(count, self.train_set.share(self.samples, workers.rank, workers.size))
            order = {"batch_size": batch_size}
        else:
            order = {"batch_sampler": StepSampler(batch_size, self.samples, workers.rank, workers.size)}
        return DataLoader(
            self.train_set,
            **order,
            num_workers=count,
            pin_memory=self.workers.device.type == "cuda",
            persistent_workers=count > 0,
            worker_init_fn=_ignore_interrupt,
            collate_fn=collate,
        )

    def _autocasting(self) -> torch.autocast:
        return torch.autocast(
            self.workers.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None
        )

    def _bar(self) -> tqdm:
        return tqdm(
            total=self.options.steps, initial=self.global_step, unit="step", disable=not self.workers.leads,
            desc=type(self.stage).__name__.removesuffix("Stage").lower(), dynamic_ncols=True, mininterval=1.0,
        )  # fmt: skip

    # Evaluation

    def _evaluate(self, logs: Logs, bar: tqdm) -> None:
        """Validation on fixed windows, shared among the processes; then the schedule, samples and the best state."""
        network = self._evaluated()
        for trained in self.stage.networks.values():
            trained.eval()
        items = self.stage.eval_items(self.eval_set)
        most = math.ceil(self.stage.batch_size / self.parts)
        batch_size = max(2, most // 2 * 2)  # even: a pair of the expert stays together
        firsts = range(self.workers.rank * batch_size, items, batch_size * self.workers.size)
        sums: dict[str, float] = {}
        seen = 0
        with torch.inference_mode(), self._autocasting():
            for first in firsts:
                batch = self._collated(range(first, min(items, first + batch_size)))
                count = len(batch["mel"])
                for name, mean in self.stage.evaluate(batch, network).items():
                    sums[name] = sums.get(name, 0.0) + float(mean) * count
                seen += count
            sheets, of_clips = None, {}
            if self.workers.leads:
                of_clips = self.stage.measure_clips(self.eval_set.clips, network)
                sheets = self._sheets(min(items, SHEET_CLIPS), batch_size, network)
        totals = self.workers.sum_by_name({**sums, "seen": float(seen)})
        seen = totals.pop("seen")
        metrics = {name: total / seen for name, total in sorted(totals.items())} | of_clips
        self.stage.after_evaluation(metrics)
        logs.write("val", self.global_step, metrics)
        if self.workers.leads:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            bar.write(f"step {self.global_step} validation: {shown}", file=sys.stderr)
        if sheets is not None:
            write_sheets(sheets, self.options.checkpoint_dir / f"samples_step{self.global_step:09d}")
            logs.picture("samples", self.global_step, sheets)
        if metrics[self.stage.score] < self.best:
            self.best = metrics[self.stage.score]
            if self.workers.leads:
                rounded = as_computed(network, self.autocast)
                self._write("", self.options.checkpoint_dir / "checkpoint_best.pth", rounded)

    def _sheets(self, count: int, batch_size: int, network: nn.Module) -> np.ndarray | None:
        """Sample sheets of the first validation items, as many at once as memory holds."""
        firsts = range(0, count, batch_size)
        batches = (self._collated(range(first, min(count, first + batch_size))) for first in firsts)
        sheets = [self.stage.sample_sheets(batch, network) for batch in batches]
        return None if sheets[0] is None else np.concatenate(sheets)

    def _collated(self, indices: range) -> Batch:
        """Validation items on the device."""
        return to_device(collate([self.eval_set[index] for index in indices]), self.workers.device)

    def _evaluated(self) -> nn.Module:
        """The network that validation sees: the averaged one where weights are averaged."""
        return self.average.module.eval() if self.average is not None else bare(self.stage.networks[""])

    # Checkpoints

    def _save(self) -> None:
        if self.workers.leads:
            for prefix, network in self.stage.networks.items():
                name = f"{prefix}checkpoint_step{self.global_step:09d}.pth"
                self._write(prefix, self.options.checkpoint_dir / name, bare(network))
        self.workers.barrier()

    def _write(self, prefix: str, path: Path, network: nn.Module) -> None:
        entries: dict[str, Any] = {
            "optimizer": self.optimizers[prefix].state_dict() if self.hp.save_optimizer_state else None,
            "global_step": self.global_step,
            "global_epoch": self.samples // self.train_set.epoch_size,
        }
        if prefix == "":
            entries["trainer"] = {
                "best": self.best,
                "samples": self.samples,
                "stage": self.stage.state(),
                "torch_rng": torch.get_rng_state(),
                "scaler": self.scaler.state_dict(),
            }
            if self.average is not None:
                entries["average"] = self.average.state_dict()
        save_checkpoint(path, network, **entries)

    def _resume(self) -> None:
        """Go on from checkpoints; those of the published scripts have no `trainer` entry and resume too."""
        for prefix, path in self.options.checkpoints.items():
            checkpoint = read_checkpoint(path)
            load_weights(bare(self.stage.networks[prefix]), checkpoint["state_dict"], path)
            if checkpoint.get("optimizer"):
                try:
                    self.optimizers[prefix].load_state_dict(checkpoint["optimizer"])
                except (ValueError, KeyError) as error:
                    raise InputError(
                        f"checkpoint {path}: its optimizer state does not fit ({error}); use --init_from to start anew"
                    ) from error
            if prefix != "":
                continue
            self.global_step = int(checkpoint.get("global_step", 0))
            trainer = checkpoint.get("trainer", {})
            self.best = float(trainer.get("best", math.inf))
            self.samples = int(trainer.get("samples", self.global_step * self._samples_a_step))
            self.stage.load_state(trainer.get("stage", {}))
            if "torch_rng" in trainer and self.workers.size == 1:
                torch.set_rng_state(trainer["torch_rng"])
            if trainer.get("scaler"):
                self.scaler.load_state_dict(trainer["scaler"])
            if self.average is not None:
                if "average" in checkpoint:
                    self.average.load_state_dict(checkpoint["average"])
                else:
                    self.average.module.load_state_dict(checkpoint["state_dict"])


def _loader_processes(hp: HParams, workers: Workers) -> int:
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(hp.num_workers, max(1, (os.cpu_count() or 1) // local))


def _ignore_interrupt(_: int) -> None:
    """Ctrl-C reaches the whole process group; the loop decides when its loaders end."""
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)
    cv2.setNumThreads(0)
