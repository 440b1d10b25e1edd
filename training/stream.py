"""Training samples out of shards that are read from front to back: see `training.shards`."""

import random
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from errors import InputError, warn
from hparams import HParams
from training.clips import Clip, Steps, why_unusable
from training.shards import ShardSet, clips_of

Sample = dict[str, np.ndarray]
FRUITLESS_EPOCHS = 100  # in a row without a usable clip, after which a reader gives up


class Windows(Protocol):
    """What makes samples of clips in memory: a dataset of `training.data`."""

    def sample(self, clip: int, rng: np.random.Generator) -> Sample: ...

    def replace(self, at: int, clip: Clip) -> None: ...


class ShardStream(IterableDataset):
    """Endless samples of the clips of shards, by the same code as samples of clips in memory.

    Each reader, which is a loader process of a rank, holds a buffer of clips. A sample comes from a random one of them;
    a clip leaves after `hp.shard_visits` samples and the next of the reader's shards takes its place. In every epoch
    the shards are dealt out anew, each to one reader. A lost or damaged shard, or crop, is named and left out.

    A resumed run goes on with the epoch in which it stopped, in another order: only trees and packs repeat a run
    exactly, and only there does the number of ranks not matter.

    Args:
        shards: of the training split.
        make: a dataset of clips, which makes samples.
        hp, lead, steps: what a clip needs, see `training.clips`.
    """

    def __init__(
        self, shards: ShardSet, make: Callable[[list[Clip]], Windows], hp: HParams, lead: int, steps: Steps, seed: int
    ):
        self.shards, self._make, self._seed = shards, make, seed
        self._hp, self._lead, self._steps = hp, lead, steps
        self._first_sample, self._rank, self._ranks = 0, 0, 1

    @property
    def epoch_size(self) -> int:
        """Samples of an epoch."""
        return self.shards.clips * self._hp.shard_visits

    def share(self, first_sample: int, rank: int, ranks: int) -> int:
        """Make this the stream of one rank, from a place in all ranks' samples on; returns its most readers.

        Raises InputError when there are fewer shards than ranks.
        """
        count = len(self.shards.shards)
        readers = count // ranks
        if not readers:
            smaller = "python -m training.shards --shard_clips N"
            raise InputError(f"{count} shards are too few for {ranks} processes: write smaller ones with {smaller}")
        self._first_sample, self._rank, self._ranks = first_sample, rank, ranks
        return readers

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        reader, readers = self._rank * workers + number, self._ranks * workers
        rng = np.random.default_rng((self._seed, self._first_sample, reader))
        clips = self._clips(reader, readers)
        size = max(1, min(self._hp.shard_buffer, self.shards.clips // readers))
        windows = self._make([next(clips) for _ in range(size)])
        left = [self._hp.shard_visits] * size
        while True:
            at = int(rng.integers(size))
            try:
                sample = windows.sample(at, rng)
            except InputError as error:
                warn(f"{error}: going on without this clip")
                left[at] = 1
            else:
                yield sample
            left[at] -= 1
            if not left[at]:
                windows.replace(at, next(clips))
                left[at] = self._hp.shard_visits

    def _clips(self, reader: int, readers: int) -> Iterator[Clip]:
        """A reader's usable clips, epoch after epoch. Raises InputError when there are none any more."""
        epoch, fruitless = self._first_sample // self.epoch_size, 0
        while fruitless < FRUITLESS_EPOCHS:
            fruitless += 1
            shards = list(self.shards.shards)
            random.Random(f"{self._seed} {epoch}").shuffle(shards)
            for shard in shards[reader::readers]:
                for clip in clips_of(shard):
                    if why_unusable(clip, self._hp, self._lead, self._steps) is None:
                        fruitless = 0
                        yield clip
            epoch += 1
        raise InputError(f"no shard such as {self.shards.shards[0].path} holds a usable clip: see the warnings above")
