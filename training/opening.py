"""Train the two small networks that see and hear how far a mouth is open (`models.opening`).

    python -m training.opening --data_root packed --target_dir runs/opening

They learn from a landmark model's judgement: `training.landmarks` comes first. They serve
`--reference fitting` and `training.matching`, and are shipped, so that this is needed for other data only. The third
network of that file, which finds lips, was made elsewhere.
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
from models.checkpoint import HEARD_OPENING, SEEN_OPENING, save_checkpoint
from models.opening import CONTEXT, LISTENERS, MouthOpening, SpeechOpening
from training.augment import JITTER_DRAWS, jitter
from training.clips import FILELISTS, Clip
from training.data import data_fps, load_clips
from training.distributed import Workers
from training.landmarks import labels_path

MIN_KNOWN = 0.7  # of a clip's crops, for it to teach hearing
SILENT_BANDS = 10
SILENT_FRAMES = 4
SMOOTHING = 0.7  # frames (standard deviation), of openings that are heard: landmarks tremble


@dataclass(frozen=True)
class Plan:
    """How a network learns: AdamW over one cycle of the learning rate."""

    steps: int
    batch: int
    rate: float  # the highest
    weight_decay: float
    varied: Callable[[Tensor], Tensor]  # of what is shown


@dataclass(frozen=True)
class Labelled:
    """What has a known opening: `shown` (n, ...), faces or mel windows; opening (n,) in eye distances; clip (n,)."""

    shown: Tensor
    opening: Tensor
    clip: Tensor

    @property
    def standardised(self) -> Tensor:
        """(n,) openings of mean 0 and standard deviation 1."""
        return (self.opening - self.opening.mean()) / self.opening.std()


def read_openings(data_root: Path, split: str, filelists: Path, hp: HParams) -> tuple[list[Clip], list[np.ndarray]]:
    """The clips of a split and the openings of each clip's crops, NaN where unknown. Raises InputError."""
    path = labels_path(data_root, split)
    if not path.is_file():
        raise InputError(f"{path} is missing: make it with training.landmarks")
    clips = load_clips(data_root, split, hp, 0, filelists)
    openings = np.load(path)
    ends = np.cumsum([len(clip.numbers) for clip in clips])
    if len(openings) != ends[-1]:
        raise InputError(f"{path} is of {len(openings)} crops and not of {ends[-1]}: run training.landmarks again")
    return clips, np.split(openings, ends[:-1])


def seen(clips: list[Clip], openings: list[np.ndarray], hp: HParams) -> Labelled:
    """All crops that the landmark model found a face in."""
    known = torch.from_numpy(~np.isnan(np.concatenate(openings)))
    faces = np.stack([clip.face(at, hp.face_size) for clip in clips for at in range(len(clip.numbers))])
    counts = torch.tensor([len(opening) for opening in openings])
    clip = torch.repeat_interleave(torch.arange(len(clips)), counts)
    opening = torch.from_numpy(np.concatenate(openings))
    return Labelled(torch.from_numpy(faces).permute(0, 3, 1, 2)[known], opening[known], clip[known])


def heard(clips: list[Clip], openings: list[np.ndarray], hp: HParams) -> Labelled:
    """Mel windows (n, 1, 80, 48), see `SpeechOpening`, and the openings of their frames above their clips' means."""
    shown, opening, of = [], [], []
    for index, (clip, raw) in enumerate(zip(clips, openings, strict=True)):
        known = ~np.isnan(raw)
        if known.mean() < MIN_KNOWN:
            continue
        smooth = gaussian_filter1d(np.interp(clip.numbers, clip.numbers[known], raw[known]), SMOOTHING)
        starts = audio.mel_starts(np.maximum(clip.numbers - 1, 0), hp.fps)
        fits = (clip.numbers > 0) & (starts + audio.MEL_STEP_SIZE <= len(clip.mel))
        shown.append(clip.mel_windows(clip.numbers[fits] - 1, hp.fps, CONTEXT)[:, None])
        opening.append((smooth - smooth.mean())[fits])
        of.append(np.full(fits.sum(), index))
    parts = (np.concatenate(part) for part in (shown, opening, of))
    return Labelled(*(torch.from_numpy(part).float() for part in parts))


def learn(network: nn.Module, data: Labelled, plan: Plan, seed: int, device: torch.device) -> None:
    """Smooth L1 of standardised openings, over random batches that `plan.varied` changes at random."""
    draw = torch.Generator().manual_seed(seed)
    expected = data.standardised

    def loss() -> Tensor:
        chosen = torch.randint(len(expected), (plan.batch,), generator=draw)
        shown = plan.varied(data.shown[chosen].to(device).float())
        return F.smooth_l1_loss(network.standardised(shown), expected[chosen].to(device))

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


def in_other_light(faces: Tensor) -> Tensor:
    """Faces (B, 3, H, W) in [0, 255] mirrored, moved, in other light, half of them blurred or noisy; in [0, 1]."""
    draws = torch.rand(len(faces), JITTER_DRAWS, device=faces.device) * 2 - 1
    faces = jitter(faces[:, :, None] / 255, draws)[:, :, 0]
    gain, bias, kind = torch.rand(3, len(faces), 1, 1, 1, device=faces.device)
    faces = (faces - 0.5) * (0.7 + 0.6 * gain) + 0.5 + 0.3 * (bias - 0.5)
    height, width = faces.shape[-2:]
    blurred = F.interpolate(F.avg_pool2d(faces, 2), (height, width), mode="bilinear")
    noisy = faces + 0.03 * torch.randn_like(faces)
    return torch.where(kind < 0.25, blurred, torch.where(kind < 0.5, noisy, faces))


def in_other_voice(mel: Tensor) -> Tensor:
    """Mel windows (B, 1, 80, T) louder or softer; in half of the batches some bands are silent, in half a moment."""
    mel = mel + 0.3 * torch.randn(len(mel), 1, 1, 1, device=mel.device)
    if torch.rand(()) < 0.5:
        first = int(torch.randint(mel.shape[2] - SILENT_BANDS, ()))
        mel[:, :, first : first + SILENT_BANDS] = -4
    if torch.rand(()) < 0.5:
        first = int(torch.randint(mel.shape[3] - SILENT_FRAMES, ()))
        mel[..., first : first + SILENT_FRAMES] = -4
    return mel


@torch.inference_mode()
def judged(network: nn.Module, data: Labelled, scale: float) -> Tensor:
    """What a network says of what is shown, divided by `scale`: (n,) in eye distances."""
    device = next(network.parameters()).device
    return torch.cat([network(part.to(device).float() / scale).cpu() for part in data.shown.split(512)])


def figures_of(said: Tensor, data: Labelled, smoothing: float) -> dict[str, float]:
    """Correlation with the landmark model's openings: of all, and the mean of the clips that have 10 or more.

    Openings of a clip are smoothed over `smoothing` frames first.
    """
    within = []
    for clip in data.clip.unique():
        of = data.clip == clip
        if of.sum() >= 10:
            a, b = (values[of].numpy() for values in (said, data.opening))
            if smoothing:
                a, b = (gaussian_filter1d(values, smoothing) for values in (a, b))
            within.append(correlation(torch.from_numpy(a), torch.from_numpy(b)))
    return {"correlation": correlation(said, data.opening), "within_clips": float(np.mean(within))}


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's; 0 where either does not change."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-9))


PLANS = {
    MouthOpening: Plan(1800, 128, 3e-3, 0.02, in_other_light),
    SpeechOpening: Plan(2500, 256 * LISTENERS, 2e-3, 0.2, in_other_voice),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the networks that see and hear how far a mouth is open")
    parser.add_argument("--data_root", type=Path, required=True, help="output of preprocess.py, or of training.pack")
    parser.add_argument("--filelists", type=Path, default=FILELISTS, help="folder of <split>.txt; a pack has its own")
    parser.add_argument("--target_dir", type=Path, required=True,
                        help=f"for {SEEN_OPENING.name} and {HEARD_OPENING.name}")  # fmt: skip
    parser.add_argument("--steps", type=int, help="of each network (default: 1800 and 2500)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.steps is not None and args.steps < 2:
        raise InputError("--steps takes a number from 2")
    device = Workers(args.device).device
    hp = hparams.override(f"fps={data_fps(args.data_root, 'train')}")
    splits = {split: read_openings(args.data_root, split, args.filelists, hp) for split in ("train", "val")}
    for kind, file in ((MouthOpening, SEEN_OPENING), (SpeechOpening, HEARD_OPENING)):
        read, scale, smoothing = (seen, 255, 0) if kind is MouthOpening else (heard, 1, 1)
        train, val = (read(*splits[split], hp) for split in ("train", "val"))
        torch.manual_seed(args.seed)
        network = kind().to(device)
        network.std.fill_(train.opening.std())
        if kind is MouthOpening:
            network.mean.fill_(train.opening.mean())
        plan = PLANS[kind] if args.steps is None else dataclasses.replace(PLANS[kind], steps=args.steps)
        learn(network, train, plan, args.seed, device)
        said = judged(network, val, scale)
        if kind is SpeechOpening:  # over the unseen: it says more of what it has learnt by heart
            network.spread.fill_(said.std() / network.std.cpu())
        figures = figures_of(said, val, smoothing)
        print(file.name, *(f"{name} {value:.3f}" for name, value in figures.items()), "on unseen speakers")
        save_checkpoint(args.target_dir / file.name, network.cpu(), bits=16)


if __name__ == "__main__":
    run_script(main)
