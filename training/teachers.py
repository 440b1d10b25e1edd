"""Teachers of the expert: small networks that see lips as a landmark model's points and hear speech as what Whisper's
encoder makes of it.

    python -m training.landmarks --data_root packed
    python -m training.teachers --data_root packed

They learn what the expert learns, which lips and which speech are of one moment (paper section 3.1), in a minute, and
generalise better from few speakers: points are alike whoever's lips they are, and the encoder knows very many voices.
Nobody has landmarks and tokens where the expert works, so it stays what it is and learns from theirs: knowledge
distillation (Hinton et al., 2015) from privileged information (Vapnik and Vashist, 2009). `color_syncnet_train.py` does
so with `--hparams teachers_wt=...`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import audio
from errors import InputError, run_script
from hparams import hparams
from models.face_mesh import LIP_POINTS, MIRRORED
from models.speech_encoder import CHANNELS, SpeechEncoder, token_at
from models.syncnet import CONSECUTIVE, PUBLISHED_FPS, SYNCNET_T
from training import losses
from training.clips import Clip, add_data_arguments
from training.data import data_fps
from training.distributed import Workers
from training.labels import Labels
from training.opening import read_encoder, read_labelled
from training.supervised import descend
from training.taught import EMBEDDING, TAUGHT, TEACHERS, taught_path
from whole import written_whole

HIDDEN, NARROW = 256, 64
HEARD = range(-2, 10)  # tokens of 20 ms from a window's first frame on
SILENCE = 50  # frames of speech spectrograms before and after a clip: half a second
POINTS, PLACE = 20.0, 5.0  # scales: of points about the mouth's middle and of where that is, to be about 1
SEEN = 2 * len(LIP_POINTS) + 4  # numbers that are known of a crop
CLIPS, WINDOWS = 24, 8  # clips of a batch and windows of each
DISTANCE, FAR = 3, 5  # frames of 40 ms between windows that are told apart, in training and to measure
STEPS, RATE, WEIGHT_DECAY = 2000, 2e-3, 0.05


class Teacher(nn.Module):
    """Embeddings of length 1 of speech and of lips, near to each other where they are of one moment."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(CHANNELS)
        self.narrow = nn.Sequential(nn.Dropout(0.1), nn.Linear(CHANNELS, NARROW), nn.ReLU())
        self.heard = nn.Sequential(nn.Dropout(0.3), *_layers(len(HEARD) * NARROW), nn.Linear(HIDDEN, EMBEDDING))
        self.seen = nn.Sequential(
            nn.BatchNorm1d(SYNCNET_T * SEEN), nn.Dropout(0.1),
            *_layers(SYNCNET_T * SEEN), *_layers(HIDDEN), nn.Linear(HIDDEN, EMBEDDING),
        )  # fmt: skip
        self.scale = nn.Parameter(torch.tensor(10.0).log())  # the logarithm of InfoNCE's factor on cosines

    def hear(self, tokens: Tensor) -> Tensor:
        """Tokens (N, 12, 384), `HEARD` of a window's first frame -> (N, 128)."""
        narrowed = self.narrow(self.norm(tokens.flatten(0, 1)))
        return F.normalize(self.heard(narrowed.view(len(tokens), -1)), dim=1)

    def see(self, lips: Tensor) -> Tensor:
        """What `described` says of the five crops of a window (N, 5, 26) -> (N, 128)."""
        return F.normalize(self.seen(lips.flatten(1)), dim=1)


def _layers(channels: int) -> tuple[nn.Module, ...]:
    return nn.Linear(channels, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Dropout(0.3)


class Windows:
    """All windows of some clips whose lips are known.

    Attributes:
        first: (n,) each window's first crop, counted over all clips.
        start: (n,) the number of its first frame, in frames of 40 ms.
        clip: (n,) its clip.
    """

    def __init__(self, clips: list[Clip], labels: Labels, encoder: SpeechEncoder, fps: float):
        lips, openings = (torch.from_numpy(each) for each in (labels.lips, labels.openings))
        second = torch.from_numpy(labels.second)
        mirrored = (lips * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0]))[:, MIRRORED]
        self._lips = torch.stack([described(each, openings, second) for each in (lips, mirrored)])
        known = ~self._lips[0].isnan().any(1)
        first, frames, clip, tokens, self._places = [], [], [], [], []
        crops = heard = 0
        for number, source in enumerate(clips):
            starts = source.window_starts(fps, 0)
            at = crops + np.searchsorted(source.numbers, starts)
            whole = known[at[:, None] + CONSECUTIVE].all(1).numpy()
            first.append(at[whole])
            frames.append(starts[whole] * PUBLISHED_FPS / fps)
            clip.append(np.full(whole.sum(), number))
            tokens.append(tokens_of(source.speech(), encoder))
            places = torch.from_numpy(audio.speech_places(source.numbers, fps) + SILENCE)
            around = token_at(places)[:, None] + torch.tensor(HEARD)
            self._places.append(heard + around.clamp(0, len(tokens[-1]) - 1))
            crops, heard = crops + len(source.numbers), heard + len(tokens[-1])
        self.first, self.start, self.clip = (torch.from_numpy(np.concatenate(each)) for each in (first, frames, clip))
        self._tokens, self._places = torch.cat(tokens), torch.cat(self._places)
        self.crops = crops

    def tokens(self, first: Tensor) -> Tensor:
        """What is heard of the windows that begin at crops (n,): (n, 12, 384)."""
        return self._tokens[self._places[first]].float()

    def lips(self, first: Tensor, mirrored: Tensor | None = None) -> Tensor:
        """What is seen of them (n, 5, 26); in a mirror where `mirrored` (n,) is true."""
        side = torch.zeros_like(first) if mirrored is None else mirrored.long()
        return self._lips[side[:, None], first[:, None] + torch.tensor(CONSECUTIVE)]


def described(lips: Tensor, openings: Tensor, second: Tensor) -> Tensor:
    """Lips (n, 11, 2) about the mouth's middle, upright, the mouth's openings by both opinions (n,) and where it is:
    (n, 26); not a number where they are not known."""
    middle, along = (lips[:, 0] + lips[:, 1]) / 2, lips[:, 1] - lips[:, 0]
    angle = torch.atan2(along[:, 1], along[:, 0])
    cos, sin = angle.cos(), angle.sin()
    upright = torch.stack((torch.stack((cos, sin), -1), torch.stack((-sin, cos), -1)), 1)
    about = (lips - middle[:, None]) @ upright.transpose(1, 2)
    gaps = torch.stack((openings, second), 1)
    return torch.cat((POINTS * about.flatten(1), POINTS * gaps, PLACE * (middle - 0.5)), 1)


@torch.inference_mode()
def tokens_of(speech: np.ndarray, encoder: SpeechEncoder) -> Tensor:
    """The encoder's tokens (n, 384) of a clip's speech spectrogram (80, T) with `SILENCE` before and after it."""
    around = audio.stretches_at(speech, np.zeros(1, int), SILENCE, speech.shape[1] + SILENCE)
    return encoder(torch.from_numpy(around))[0].half()


def teach(data: Windows, steps: int, seed: int, device: torch.device) -> Teacher:
    """A teacher that has learnt from windows of many clips. Raises InputError where too little is known."""
    torch.manual_seed(seed)
    of_clip = [torch.nonzero(data.clip == clip)[:, 0] for clip in data.clip.unique()]
    of_clip = [windows for windows in of_clip if len(windows) > WINDOWS]
    if len(of_clip) < 2:
        raise InputError("lips are known in too few clips: teachers need two clips of some tens of crops with a face")
    draw = torch.Generator().manual_seed(seed)
    often = torch.tensor([float(len(windows)) for windows in of_clip]).sqrt()
    teacher = Teacher().to(device)
    count = min(CLIPS, len(of_clip))

    def loss() -> Tensor:
        chosen = torch.multinomial(often, count, generator=draw)
        drawn = torch.cat([of_clip[at][torch.randperm(len(of_clip[at]), generator=draw)[:WINDOWS]] for at in chosen])
        first, mirrored = data.first[drawn], torch.rand(len(drawn), generator=draw) < 0.5
        heard = teacher.hear(data.tokens(first).to(device))
        similarity = teacher.scale.exp() * heard @ teacher.see(data.lips(first, mirrored).to(device)).T
        windows = data.clip[drawn].to(device), data.start[drawn].to(device), DISTANCE
        return sum(losses.info_nce(similarity, *windows, same_clip_only=only) for only in (False, True)) / 2

    descend(teacher, steps, RATE, WEIGHT_DECAY, loss)
    return teacher


@torch.inference_mode()
def embeddings(teachers: list[Teacher], data: Windows) -> tuple[Tensor, Tensor]:
    """What they make of speech and of lips, side by side (n, `TAUGHT`): cosines are the means of theirs."""
    device = teachers[0].scale.device

    def all_of(made: Callable[[Teacher, Tensor], Tensor]) -> Tensor:
        parts = (torch.cat([made(each, first) for each in teachers], 1).cpu() for first in data.first.split(1024))
        return torch.cat(list(parts)) / len(teachers) ** 0.5

    heard = all_of(lambda teacher, first: teacher.hear(data.tokens(first).to(device)))
    seen = all_of(lambda teacher, first: teacher.see(data.lips(first).to(device)))
    return heard, seen


def pair_accuracy(heard: Tensor, seen: Tensor, data: Windows) -> float:
    """The share of all pairs of windows of a clip, `FAR` or more apart, of which the own ones are nearer; mean over
    clips and of both ways: of lips for speech and of speech for lips."""
    shares = []
    for clip in data.clip.unique():
        of = data.clip == clip
        cosine, start = heard[of] @ seen[of].T, data.start[of]
        far = (start[:, None] - start[None]).abs() >= FAR
        if far.any():
            own = cosine.diagonal()
            shares += [(each > cosine)[far].float().mean() for each in (own[:, None], own[None])]
    return float(torch.stack(shares).mean()) if shares else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the expert's teachers, from landmarks and Whisper's tokens")
    add_data_arguments(parser)
    parser.add_argument("--speech_encoder", type=Path, help="of training.speech_encoder (default: what is shipped)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each teacher (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.steps < 2:
        raise InputError("--steps takes a number from 2")
    device = Workers(args.device).device
    fps = data_fps(args.data_root, "train")
    encoder, splits = read_encoder(args.speech_encoder), {}
    for split in ("train", "val"):
        clips, labels = read_labelled(args.data_root, split, args.filelists, hparams.override(f"fps={fps}"))
        splits[split] = Windows(clips, labels, encoder, fps)
    teachers = [teach(splits["train"], args.steps, args.seed + number, device) for number in range(TEACHERS)]
    for split, data in splits.items():
        made = embeddings(teachers, data)
        print(f"{split}: {pair_accuracy(*made, data):.1%} of pairs, by {TEACHERS} teachers", flush=True)
        if split == "train":
            rows = {name: np.full((data.crops, TAUGHT), np.nan, np.float16) for name in ("heard", "seen")}
            for values, found in zip(rows.values(), made, strict=True):
                values[data.first] = found
            with written_whole(taught_path(args.data_root)) as aside, aside.open("wb") as file:
                np.savez(file, **rows)


if __name__ == "__main__":
    run_script(main)
