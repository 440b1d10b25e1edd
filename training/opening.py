"""Train the small networks of `models.mouth_cover`, whether a mouth is to be seen, and of `models.speech_shape`, how
open and how wide speech sounds.

    python -m training.opening --data_root packed --target_dir runs/opening

They learn from a landmark model's judgement: `training.landmarks` comes first. They serve `--reference fitting`, and
are shipped, so that this is needed for other data only.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn
from torch.nn import functional as F

import audio
from errors import InputError, run_script
from hparams import HParams, hparams
from models.checkpoint import (
    HEARD_SHAPE,
    MOUTH_COVER,
    load_heard_shape,
    load_network,
    save_checkpoint,
)
from models.mouth_cover import MouthCover
from models.speech_encoder import SpeechEncoder
from models.speech_shape import AHEAD, CONTEXT, FIRST, LAST, NEIGHBOURS, SpeechShape, windows_along, windows_so_far
from training.clips import Clip, add_data_arguments
from training.data import data_fps, load_clips
from training.distributed import Workers
from training.labels import Labels, read_labels
from training.supervised import Draws, Labelled, Plan, learn
from training.variety import PIXELS, in_other_voice, moved_with_points, partly_covered

MIN_KNOWN = 0.7  # of a clip's crops, for it to teach hearing
SMOOTHING = 0.7  # frames (standard deviation), of openings that are heard: landmarks tremble
CLOSENESS = (0.15, 0.3, 0.5, 1, 0.5, 0.3, 0.15)  # weights of the frames about the one that is heard
NEIGHBOUR_SECONDS = 0.04  # from one of these to the next
PLACES = (FIRST, 76, 96, 116, LAST)  # in the windows that teach hearing
EVERY = 2  # frames: from one of these windows to the next
COVERED, FREE = 0.35, 0.1  # shares of a mouth: from the first on it is not to be seen, up to the second it is


def read_labelled(data_root: Path, split: str, filelists: Path, hp: HParams) -> tuple[list[Clip], Labels]:
    """The clips of a split and the labels of all their crops. Raises InputError."""
    clips = load_clips(data_root, split, hp, 0, filelists)
    return clips, read_labels(data_root, split, clips)


def seen(clips: list[Clip], values: np.ndarray, hp: HParams) -> Labelled:
    """All crops that the landmark model found a face in, and the values that it gave them."""
    faces = np.stack([clip.face(at, hp.face_size) for clip in clips for at in range(len(clip.numbers))])
    clip = torch.repeat_interleave(torch.arange(len(clips)), torch.tensor([len(clip.numbers) for clip in clips]))
    values = torch.from_numpy(values)
    known = ~values.reshape(len(values), -1).isnan().any(1)
    return Labelled(torch.from_numpy(faces).permute(0, 3, 1, 2)[known], values[known], clip[known])


@dataclass(frozen=True)
class Talk:
    """A clip whose mouth is known.

    Attributes:
        speech: (80, T), see `audio.speech_spectrogram`.
        numbers: (n,) of its frames.
        fps: frames a second.
        above: (n, 3) openings, widths and openings by a second opinion, above their means.
        clip: which clip it is.
    """

    speech: np.ndarray
    numbers: np.ndarray
    fps: float
    above: np.ndarray
    clip: int


def talks(clips: list[Clip], labels: Labels, hp: HParams) -> list[Talk]:
    """The clips of most of whose crops openings and widths are known; the others are interpolated."""
    found = []
    ends = np.cumsum([len(clip.numbers) for clip in clips])
    values = np.stack((labels.openings, labels.widths, labels.second), axis=1)
    for index, (clip, raw) in enumerate(zip(clips, np.split(values, ends[:-1]), strict=True)):
        known = ~np.isnan(raw).any(1)
        if known.mean() >= MIN_KNOWN:
            whole = [np.interp(clip.numbers, clip.numbers[known], each[known]) for each in raw.T]
            smooth = gaussian_filter1d(np.stack(whole, axis=1), SMOOTHING, axis=0)
            found.append(Talk(clip.speech(), clip.numbers, hp.fps, smooth - smooth.mean(0), index))
    return found


def heard(talks: list[Talk]) -> Labelled:
    """Windows of speech (n, 1, 80, `WINDOW`), and what is known above its clip's mean at `PLACES` in each, of
    those frames and of the `NEIGHBOURS` before and after: (n, places, 3, 2 x `NEIGHBOURS` + 1), not a number where
    there is no frame."""
    shown, above, of = [], [], []
    earlier = (LAST - np.array(PLACES)) / audio.SPEECH_FRAMES_PER_SECOND  # seconds
    offsets = NEIGHBOUR_SECONDS * np.arange(-NEIGHBOURS, NEIGHBOURS + 1)
    for talk in talks:
        latest = np.arange(talk.numbers[0], talk.numbers[-1] + 1, EVERY)
        frames = latest[:, None] - talk.fps * earlier
        around = [np.interp(frames[..., None] + talk.fps * offsets, talk.numbers, each) for each in talk.above.T]
        known = np.stack(around, axis=2)
        known[frames < talk.numbers[0]] = np.nan
        windows = audio.stretches_at(talk.speech, audio.speech_places(latest, talk.fps), CONTEXT, AHEAD)
        shown.append(windows[:, None].astype(np.float16))
        above.append(known.astype(np.float32))
        of.append(np.full(len(latest), talk.clip))
    return Labelled(*(torch.from_numpy(np.concatenate(part)) for part in (shown, above, of)))


def figures_of(said: Tensor, known: Tensor, clips: Tensor, smoothing: float) -> dict[str, float]:
    """Correlation with the landmark model's values: of all, and the mean of the clips that have 10 or more.

    Values of a clip are smoothed over `smoothing` frames first.
    """
    within = []
    for clip in clips.unique():
        of = clips == clip
        if of.sum() >= 10:
            a, b = (values[of].numpy() for values in (said, known))
            if smoothing:
                a, b = (gaussian_filter1d(values, smoothing) for values in (a, b))
            within.append(correlation(torch.from_numpy(a), torch.from_numpy(b)))
    return {"correlation": correlation(said, known), "within_clips": float(np.mean(within))}


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's; 0 where either does not change."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-9))


@torch.inference_mode()
def told_apart(network: MouthCover, data: Labelled, seed: int) -> float:
    """Of mouths that were covered at random, or not, the share that is told right."""
    torch.manual_seed(seed)
    right, device = [], next(network.parameters()).device
    for shown, known in zip(data.shown.split(512), data.known.split(512), strict=True):
        faces, covered = partly_covered(shown.to(device).float() / 255, PIXELS * known.to(device))
        sure = (covered < FREE) | (covered > COVERED)
        right.append(((network(faces) > 0) == (covered < FREE))[sure].float().cpu())
    return float(torch.cat(right).mean())


def teach_mouth_cover(network: MouthCover, train: Labelled, val: Labelled, plan: Plan, draws: Draws) -> dict:
    """Returns figures on `val`, as the one below."""

    def loss(faces: Tensor, lips: Tensor) -> Tensor:
        faces, covered = partly_covered(faces, lips)
        sure = (covered < FREE) | (covered > COVERED)
        return F.binary_cross_entropy_with_logits(network(faces)[sure], (covered[sure] < FREE).float())

    learn(network, train, PIXELS * train.known, plan, draws, loss)
    return {"right": told_apart(network, val, draws.seed)}


def teach_hearing(network: SpeechShape, train: list[Talk], val: list[Talk], plan: Plan, draws: Draws) -> dict:
    """The encoder is left as it is."""
    network.encoder.requires_grad_(False)
    data = heard(train)
    in_the_middle = data.known[..., NEIGHBOURS].flatten(0, 1)
    network.std.copy_(in_the_middle[~in_the_middle.isnan().any(1)].std(0))
    weights = torch.tensor(CLOSENESS, device=network.std.device)
    places = torch.tensor(PLACES, device=network.std.device)

    def loss(speech: Tensor, known: Tensor) -> Tensor:
        there = ~known[:, :, 0, 0].isnan()
        said = network.of_each(speech[:, 0], places.expand(len(speech), -1))[:, there]
        wanted = (known[there] / network.std[:, None]).expand_as(said)
        return (weights * F.smooth_l1_loss(said, wanted, reduction="none")).mean()

    learn(network, data, data.known, plan, draws, loss)
    known, clip = (
        torch.from_numpy(np.concatenate(part))
        for part in zip(*((talk.above, np.full(len(talk.above), talk.clip)) for talk in val), strict=True)
    )
    figures = {}
    for where, windows in (("live_", windows_so_far), ("", windows_along)):
        said = torch.cat([said_of(network, talk, windows) for talk in val])
        for at, what in enumerate(("opening", "width")):
            found = figures_of(said[:, at], known[:, at], clip, 1)
            figures |= {f"{where}{what}_{name}": value for name, value in found.items()}
    # Over the unseen: it says more of what it has learnt by heart.
    network.spread.copy_(said.std(0))
    return figures


@torch.inference_mode()
def said_of(network: SpeechShape, talk: Talk, windows: Callable[..., Iterator]) -> Tensor:
    """What is heard of each frame, in standard deviations: (n, 2)."""
    device, places = network.std.device, audio.speech_places(talk.numbers, talk.fps)
    said = [network.standardised(*(part.to(device) for part in each))[0] for each in windows(talk.speech, places)]
    return torch.cat(said).cpu()


@dataclass(frozen=True)
class Lesson:
    """What a network learns from: what it is shown, and how it is taught."""

    kind: type[nn.Module]
    file: Path
    read: Callable[[list[Clip], Labels, HParams], Any]
    teach: Callable[[nn.Module, Any, Any, Plan, Draws], dict[str, float]]
    plan: Plan
    bits: int  # of weights in the file


LESSONS = {
    "mouth_cover": Lesson(
        MouthCover, MOUTH_COVER, lambda clips, labels, hp: seen(clips, labels.lips, hp), teach_mouth_cover,
        Plan(2600, 64, 2e-3, 0.02, moved_with_points), 16,
    ),
    "speech_shape": Lesson(
        SpeechShape, HEARD_SHAPE, talks, teach_hearing, Plan(700, 64, 2e-3, 0.05, in_other_voice), 8,
    ),
}  # fmt: skip


def read_encoder(path: Path | None) -> SpeechEncoder:
    """The encoder of a file of training.speech_encoder, by default what the shipped network stands on. Raises
    InputError."""
    return load_heard_shape().encoder if path is None else load_network(SpeechEncoder, path)


def how_often(clips: list[Clip], wanted: list[str]) -> Tensor | None:
    """How often each clip is drawn, by `FOLDER=TIMES` or else once: (clips,); None for all alike. Raises InputError."""
    if not wanted:
        return None
    folders = [clip.folder.parts[-2] for clip in clips]
    often = torch.ones(len(clips))
    for text in wanted:
        folder, _, times = text.partition("=")
        try:
            factor = float(times)
        except ValueError:
            factor = 0.0
        if not 0 < factor < math.inf:
            raise InputError(f"--often {text}: give FOLDER=TIMES, a number over 0")
        if folder not in folders:
            raise InputError(f"--often {text}: the training set has no folder {folder}")
        often[[folder == each for each in folders]] = factor
    return often


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the networks that see and hear mouths")
    add_data_arguments(parser)
    files = ", ".join(lesson.file.name for lesson in LESSONS.values())
    parser.add_argument("--target_dir", type=Path, required=True, help=f"for {files}")
    parser.add_argument("--only", nargs="+", choices=LESSONS, default=list(LESSONS), help="networks (default: all)")
    parser.add_argument("--speech_encoder", type=Path, help="of training.speech_encoder (default: what is shipped)")
    parser.add_argument(
        "--often", nargs="+", default=[], metavar="FOLDER=TIMES",
        help="folders of clips, drawn so many times as often: of the language that is to be spoken, say",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, help="of each network (default: 2600, 700)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.steps is not None and args.steps < 2:
        raise InputError("--steps takes a number from 2")
    device = Workers(args.device).device
    hp = hparams.override(f"fps={data_fps(args.data_root, 'train')}")
    splits = [read_labelled(args.data_root, split, args.filelists, hp) for split in ("train", "val")]
    draws = Draws(args.seed, how_often(splits[0][0], args.often))
    for name in args.only:
        lesson = LESSONS[name]
        train, val = (lesson.read(clips, labels, hp) for clips, labels in splits)
        torch.manual_seed(args.seed)
        network = lesson.kind()
        if isinstance(network, SpeechShape):
            network.encoder = read_encoder(args.speech_encoder)
        network.to(device)
        plan = lesson.plan if args.steps is None else dataclasses.replace(lesson.plan, steps=args.steps)
        figures = lesson.teach(network, train, val, plan, draws)
        file = lesson.file.name
        print(file, *(f"{name} {value:.3f}" for name, value in figures.items()), "on unseen speakers", flush=True)
        save_checkpoint(args.target_dir / file, network.cpu(), bits=lesson.bits)


if __name__ == "__main__":
    run_script(main)
