"""Train the three small networks of `models.opening`: how far a mouth is open, where lips are, and how open and how
wide speech sounds.

    python -m training.opening --data_root packed --target_dir runs/opening

They learn from a landmark model's judgement: `training.landmarks` comes first. They serve
`--reference fitting` and `training.matching`, and are shipped, so that this is needed for other data only.
"""

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import audio
from errors import InputError, run_script
from hparams import HParams, hparams
from models.checkpoint import (
    HEARD_SHAPE,
    MOUTH_SHAPE,
    SEEN_OPENING,
    SPEECH_EMBEDDING,
    load_network,
    save_checkpoint,
)
from models.opening import AHEAD, CONTEXT, LISTENERS, NEIGHBOURS, MouthOpening, MouthShape, SpeechShape
from models.speech_embedding import SpeechEmbedding
from training.clips import FILELISTS, Clip
from training.data import data_fps, load_clips
from training.distributed import Workers
from training.landmarks import Labels, labels_paths
from training.variety import PIXELS, in_other_voice, moved_a_little, moved_with_points, partly_covered

MIN_KNOWN = 0.7  # of a clip's crops, for it to teach hearing
SMOOTHING = 0.7  # frames (standard deviation), of openings that are heard: landmarks tremble
CLOSENESS = (0.15, 0.3, 0.5, 1, 0.5, 0.3, 0.15)  # weights of the frames about the one that is heard
COVERED, FREE = 0.35, 0.1  # shares of a mouth: from the first on it is not to be seen, up to the second it is


@dataclass(frozen=True)
class Plan:
    """How a network learns: AdamW over one cycle of the learning rate."""

    steps: int
    batch: int
    rate: float  # the highest
    weight_decay: float
    varied: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # what is shown, and what is to be said of it


@dataclass(frozen=True)
class Labelled:
    """What is shown (n, ...), faces or mel windows; what is known of it (n, ...), openings or lips; its clip (n,)."""

    shown: Tensor
    known: Tensor
    clip: Tensor

    @property
    def standardised(self) -> Tensor:
        """(n,) openings of mean 0 and standard deviation 1."""
        return (self.known - self.known.mean()) / self.known.std()


def read_labels(data_root: Path, split: str, filelists: Path, hp: HParams) -> tuple[list[Clip], Labels]:
    """The clips of a split and the labels of all their crops. Raises InputError."""
    paths = labels_paths(data_root, split)
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path} is missing: make it with training.landmarks")
    clips = load_clips(data_root, split, hp, 0, filelists)
    try:
        labels = Labels(*(np.load(path, allow_pickle=False) for path in paths))
    except (ValueError, EOFError) as error:
        raise InputError(f"labels of {data_root} are damaged ({error}): run training.landmarks again") from error
    crops = sum(len(clip.numbers) for clip in clips)
    for path, values in zip(paths, labels, strict=True):
        if len(values) != crops:
            raise InputError(f"{path} is of {len(values)} crops and not of {crops}: run training.landmarks again")
    return clips, labels


def seen(clips: list[Clip], values: np.ndarray, hp: HParams) -> Labelled:
    """All crops that the landmark model found a face in, and the values that it gave them."""
    faces = np.stack([clip.face(at, hp.face_size) for clip in clips for at in range(len(clip.numbers))])
    clip = torch.repeat_interleave(torch.arange(len(clips)), torch.tensor([len(clip.numbers) for clip in clips]))
    values = torch.from_numpy(values)
    known = ~values.reshape(len(values), -1).isnan().any(1)
    return Labelled(torch.from_numpy(faces).permute(0, 3, 1, 2)[known], values[known], clip[known])


def heard(clips: list[Clip], labels: Labels, hp: HParams) -> Labelled:
    """Mel windows (n, 1, 80, 60), see `SpeechShape`, and openings and widths above their clips' means, of their frames
    and of the `NEIGHBOURS` before and after: (n, 2, 2 x `NEIGHBOURS` + 1)."""
    shown, above, of = [], [], []
    ends = np.cumsum([len(clip.numbers) for clip in clips])
    values = np.stack((labels.openings, labels.widths), axis=1)
    offsets = np.arange(-NEIGHBOURS, NEIGHBOURS + 1)
    for index, (clip, raw) in enumerate(zip(clips, np.split(values, ends[:-1]), strict=True)):
        known = ~np.isnan(raw).any(1)
        if known.mean() < MIN_KNOWN:
            continue
        whole = np.stack([np.interp(clip.numbers, clip.numbers[known], each[known]) for each in raw.T], axis=1)
        smooth = gaussian_filter1d(whole, SMOOTHING, axis=0)
        around = np.clip(np.arange(len(smooth))[:, None] + offsets, 0, len(smooth) - 1)
        starts = audio.mel_starts(np.maximum(clip.numbers - 1, 0), hp.fps)
        fits = (clip.numbers > 0) & (starts + audio.MEL_STEP_SIZE <= len(clip.mel))
        shown.append(clip.mel_windows(clip.numbers[fits] - 1, hp.fps, CONTEXT, AHEAD)[:, None])
        above.append((smooth - smooth.mean(0))[around][fits].transpose(0, 2, 1))
        of.append(np.full(fits.sum(), index))
    parts = (np.concatenate(part) for part in (shown, above, of))
    return Labelled(*(torch.from_numpy(part).float() for part in parts))


def learn(
    network: nn.Module,
    shown: Tensor,
    known: Tensor,
    plan: Plan,
    seed: int,
    loss_of: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """A loss of random batches of what is shown and of what is known of it, both changed at random by `plan.varied`."""
    draw = torch.Generator().manual_seed(seed)
    device = next(network.parameters()).device

    def loss() -> Tensor:
        chosen = torch.randint(len(known), (plan.batch,), generator=draw)
        return loss_of(*plan.varied(shown[chosen].to(device).float(), known[chosen].to(device)))

    descend(network, plan.steps, plan.rate, plan.weight_decay, loss)


def descend(network: nn.Module, steps: int, rate: float, weight_decay: float, loss_of: Callable[[], Tensor]) -> None:
    """AdamW on `loss_of()` over one cycle of the learning rate, at most `rate`; in eval mode afterwards."""
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps)
    network.train()
    bar = tqdm(range(steps), desc=type(network).__name__, unit="step")
    for _ in bar:
        loss = loss_of()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    network.eval()


@torch.inference_mode()
def judged(network: nn.Module, data: Labelled, scale: float) -> Tensor:
    """What a network says of what is shown, divided by `scale`: openings (n,), or openings and widths (n, 2)."""
    device = next(network.parameters()).device
    return torch.cat([network(part.to(device).float() / scale).cpu() for part in data.shown.split(512)])


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
def shape_figures(network: MouthShape, data: Labelled, seed: int) -> dict[str, float]:
    """The mean distance from the landmark model's points in `PIXELS` a side, the correlation of the inner gaps; and of
    mouths that were covered at random, the share that is told from free ones."""
    torch.manual_seed(seed)
    said, right = [], []
    for shown, known in zip(data.shown.split(512), data.known.split(512), strict=True):
        faces = shown.to(network.mean.device).float() / 255
        said.append(network(faces)[0].cpu())
        faces, covered = partly_covered(faces, PIXELS * known.to(faces.device))
        sure = (covered < FREE) | (covered > COVERED)
        right.append(((network(faces)[1] > 0) == (covered < FREE))[sure].float().cpu())
    said = torch.cat(said)
    gap, known = (points[:, 3, 1] - points[:, 2, 1] for points in (said, data.known))
    return {
        "pixels": PIXELS * float((said - data.known).norm(dim=2).mean()),
        "gap_correlation": correlation(gap, known),
        "visible_right": float(torch.cat(right).mean()),
    }


def teach_mouth_opening(network: MouthOpening, train: Labelled, val: Labelled, plan: Plan, seed: int) -> dict:
    """Returns figures on `val`, as do the two below."""
    network.mean.fill_(train.known.mean())
    network.std.fill_(train.known.std())

    def loss(faces: Tensor, wanted: Tensor) -> Tensor:
        return F.smooth_l1_loss(network.standardised(faces), wanted)

    learn(network, train.shown, train.standardised, plan, seed, loss)
    return figures_of(judged(network, val, 255), val.known, val.clip, 0)


def teach_mouth_shape(network: MouthShape, train: Labelled, val: Labelled, plan: Plan, seed: int) -> dict:
    network.mean.copy_(train.known.mean(0))

    def loss(faces: Tensor, wanted: Tensor) -> Tensor:
        faces, covered = partly_covered(faces, wanted)
        said, visible = network(faces)
        free = (covered < FREE).float()
        off = F.smooth_l1_loss(PIXELS * said, wanted, reduction="none").mean((1, 2))
        sure = (covered < FREE) | (covered > COVERED)
        seen_or_not = F.binary_cross_entropy_with_logits(visible[sure], free[sure])
        return ((0.1 + free) * off).mean() + seen_or_not

    learn(network, train.shown, PIXELS * train.known, plan, seed, loss)
    return shape_figures(network, val, seed)


def teach_hearing(network: SpeechShape, train: Labelled, val: Labelled, plan: Plan, seed: int) -> dict:
    embedding = load_network(SpeechEmbedding, SPEECH_EMBEDDING, network.std.device)
    network.embedding = embedding.requires_grad_(False)
    network.std.copy_(train.known[:, :, NEIGHBOURS].std(0))
    weights = torch.tensor(CLOSENESS, device=network.std.device)

    def loss(mel: Tensor, known: Tensor) -> Tensor:
        wanted = (known / network.std[:, None]).expand(LISTENERS, -1, -1, -1)
        return (weights * F.smooth_l1_loss(network.of_each(mel), wanted, reduction="none")).mean()

    learn(network, train.shown, train.known, plan, seed, loss)
    said = judged(network, val, 1)
    # Over the unseen: it says more of what it has learnt by heart.
    network.spread.copy_(said.std(0) / network.std.cpu())
    found = (figures_of(said[:, at], val.known[:, at, NEIGHBOURS], val.clip, 1) for at in range(2))
    return {
        f"{what}_{name}": value
        for what, figures in zip(("opening", "width"), found, strict=True)
        for name, value in figures.items()
    }


@dataclass(frozen=True)
class Lesson:
    """What a network learns from: what it is shown, and how it is taught."""

    kind: type[nn.Module]
    file: Path
    read: Callable[[list[Clip], Labels, HParams], Labelled]
    teach: Callable[[nn.Module, Labelled, Labelled, Plan, int], dict[str, float]]
    plan: Plan


LESSONS = {
    "mouth_opening": Lesson(
        MouthOpening, SEEN_OPENING, lambda clips, labels, hp: seen(clips, labels.openings, hp), teach_mouth_opening,
        Plan(1800, 128, 3e-3, 0.02, moved_a_little),
    ),
    "mouth_shape": Lesson(
        MouthShape, MOUTH_SHAPE, lambda clips, labels, hp: seen(clips, labels.lips, hp), teach_mouth_shape,
        Plan(2600, 64, 2e-3, 0.02, moved_with_points),
    ),
    "speech_shape": Lesson(
        SpeechShape, HEARD_SHAPE, heard, teach_hearing, Plan(1000, 256, 2e-3, 0.05, in_other_voice),
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the networks that see and hear mouths")
    parser.add_argument("--data_root", type=Path, required=True, help="output of preprocess.py, or of training.pack")
    parser.add_argument("--filelists", type=Path, default=FILELISTS, help="folder of <split>.txt; a pack has its own")
    files = ", ".join(lesson.file.name for lesson in LESSONS.values())
    parser.add_argument("--target_dir", type=Path, required=True, help=f"for {files}")
    parser.add_argument("--only", nargs="+", choices=LESSONS, default=list(LESSONS), help="networks (default: all)")
    parser.add_argument("--steps", type=int, help="of each network (default: 1800, 2600, 1000)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.steps is not None and args.steps < 2:
        raise InputError("--steps takes a number from 2")
    device = Workers(args.device).device
    hp = hparams.override(f"fps={data_fps(args.data_root, 'train')}")
    splits = [read_labels(args.data_root, split, args.filelists, hp) for split in ("train", "val")]
    for name in args.only:
        lesson = LESSONS[name]
        train, val = (lesson.read(clips, labels, hp) for clips, labels in splits)
        torch.manual_seed(args.seed)
        network = lesson.kind().to(device)
        plan = lesson.plan if args.steps is None else dataclasses.replace(lesson.plan, steps=args.steps)
        figures = lesson.teach(network, train, val, plan, args.seed)
        file = lesson.file.name
        print(file, *(f"{name} {value:.3f}" for name, value in figures.items()), "on unseen speakers", flush=True)
        save_checkpoint(args.target_dir / file, network.cpu(), bits=16)


if __name__ == "__main__":
    run_script(main)
