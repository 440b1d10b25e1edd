"""Training samples a second: the loader against the published way, on one core."""

import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.io import wavfile
from torch.utils.data import DataLoader

import audio
from benchmarks.measure import Spread
from hparams import HParams, hparams
from training.clips import FILELISTS, Clip, crop_numbers
from training.data import ExpertDataset, GeneratorDataset, StepSampler, collate, load_clips

KINDS = {"generator": GeneratorDataset, "expert": ExpertDataset}
SEED = 0


class PublishedWay:
    """The samples of a training set, each made from files: crops listed, sound read, mel of the whole clip computed,
    crops decoded and resized.

    The sound, 16-bit PCM at 16 kHz, is read by the cheapest reader there is: a slower one would flatter the comparison.
    """

    def __init__(self, dataset: GeneratorDataset | ExpertDataset):
        self._dataset = dataset

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        whole = self._dataset
        folder = whole.clips[whole.clip_of(index)].folder
        _, samples = wavfile.read(folder / "audio.wav")
        mel = audio.melspectrogram(samples / np.float32(32768)).T
        alone = type(whole)([Clip(folder, crop_numbers(folder), mel)], whole.hp, SEED, train=True)
        return alone.sample(0, np.random.default_rng((SEED, index)))


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--data_root", type=Path, required=True, help="output of preprocess.py")
    parser.add_argument("--filelists", type=Path, default=FILELISTS, help="folder of the file lists")
    parser.add_argument("--split", default="val", help="(default: %(default)s)")
    parser.add_argument("--samples", type=int, default=512, help="of each measurement (default: %(default)s)")


def main(args: Namespace, _: Path) -> None:
    with one_core():
        compare(args)


def compare(args: Namespace) -> None:
    """Print samples a second of each kind of sample, made each way."""
    print(f"one core; samples a second, collated: median (least to most) of {args.repeats}")
    for name, kind in KINDS.items():
        start = time.perf_counter()
        clips = load_clips(args.data_root, args.split, hparams, kind.lead, args.filelists)
        opening = time.perf_counter() - start
        dataset = kind(clips, hparams, SEED, train=True)
        on_demand = [Clip(clip.folder, clip.numbers, clip.mel) for clip in clips]
        ways = {
            "published": (PublishedWay(dataset), args.samples // 4),
            "on demand": (kind(on_demand, hparams, SEED, train=True), args.samples // 4),
            "in memory": (dataset, args.samples * 4),
        }
        rates = interleaved({way: rate_of(*what, hparams) for way, what in ways.items()}, args.repeats)
        first_epoch = len(clips) / (opening + len(clips) / rates["in memory"].median)
        print(f"\n{name}: {len(clips)} clips, opened and decoded in {opening:.1f} s")
        for way, rate in rates.items():
            print(f"{way:12} {rate.show(0)}{times(rate, rates['published'])}")
        print(f"{'first epoch':12} {first_epoch:.0f}, with opening", flush=True)


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process to one core, and its libraries to one thread."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
        if cores:
            os.sched_setaffinity(0, cores)


def rate_of(dataset: object, samples: int, hp: HParams) -> Callable[[], float]:
    """A call that takes that many more samples, in batches as the trainer does, and returns how many a second."""
    sampler = StepSampler(hp.batch_size)
    batches = iter(DataLoader(dataset, batch_sampler=sampler, collate_fn=collate))
    steps = max(1, samples // hp.batch_size)

    def call() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            next(batches)
        return steps * hp.batch_size / (time.perf_counter() - start)

    return call


def interleaved(calls: dict[str, Callable[[], float]], repeats: int) -> dict[str, Spread]:
    """What calls return, taken in turn, so that a busy moment meets all; the first calls do not count."""
    values: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            value = call()
            if turn:
                values[name].append(value)
    return {name: Spread(tuple(each)) for name, each in values.items()}


def times(rate: Spread, base: Spread) -> str:
    """How many times as many samples as `base`, turn by turn."""
    ratios = Spread(tuple(a / b for a, b in zip(rate.values, base.values, strict=True)))
    return "" if rate is base else f", {ratios.show()} times the published way"
