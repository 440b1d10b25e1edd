"""How good an expert and a generator are on speakers that they were not trained on.

    python -m evaluation.held_out --data_root packed --expert lipsync_expert.pth --generator wav2lip.pth

Windows are fixed by --seed, so that files can be compared. Every sync figure of generated faces stands beside those of
the real faces with their own and with wrong speech, by the same expert: alone it has no scale.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

import audio
from errors import run_script
from evaluation import metrics, sync
from hparams import HParams, hparams
from models import SyncNet_color, Wav2Lip
from models.checkpoint import DEFAULT_EXPERT, DEFAULT_GENERATOR, load_expert, load_generator
from models.discriminator import lower_half
from models.syncnet import PUBLISHED_FPS, SYNCNET_T, window_frames
from training import losses
from training.clips import Clip, add_data_arguments
from training.data import GeneratorDataset, WindowSampler, collate, data_fps, load_clips
from training.stages import generator_input

MIN_DISTANCE = 5  # frames of 40 ms between a window and a wrong one
BATCH = 16


@torch.inference_mode()
def judge_expert(expert: SyncNet_color, clips: list[Clip], hp: HParams, windows: int, seed: int) -> dict[str, float]:
    """Loss (chance: 0.693), accuracies and the search for the true offset, over `windows` fixed windows of each clip.

    `pair_accuracy` is the share of windows whose own lips are nearer to the speech than other lips of the clip at least
    200 ms away; `top1` the share whose own speech is the nearest of all within 15 frames either way that the clip holds
    (`candidates` of them on average), `top1_within_1` allows one frame of error.
    """
    steps = window_frames(hp.fps, expert.fps)
    sampler = WindowSampler(clips, hp.fps, 0, round(MIN_DISTANCE * hp.fps / PUBLISHED_FPS), steps)
    sums: dict[str, list[float]] = {}
    for index in tqdm(range(len(clips) * windows), desc="expert", unit="window", leave=False):
        clip = index % len(clips)
        start, other = sampler.draw(clip, np.random.default_rng((seed, index)))
        near = sampler.starts[clip]
        near = near[np.abs(near - start) <= sync.MAX_OFFSET]
        source = clips[clip]
        size = expert.img_size
        faces = np.concatenate([source.window(frame, size, steps) for frame in (start, other)])
        face = sync.embed_lips(expert, faces, (0, SYNCNET_T))
        speech = sync.embed_speech(expert, source.mel.T, [audio.mel_start(frame, hp.fps) for frame in near])
        cosine = speech @ face.T  # (near, 2)
        own = int(np.flatnonzero(near == start)[0])
        true, false = (cosine[own].clamp(1e-7, 1 - 1e-7)).tolist()
        found = near[int(cosine[:, 0].argmax())]
        figures = {
            "loss": -(np.log(true) + np.log(1 - false)) / 2,
            "accuracy": ((true > 0.5) + (false <= 0.5)) / 2,
            "pair_accuracy": float(true > false) + 0.5 * float(true == false),
            "top1": float(found == start),
            "top1_within_1": float(abs(found - start) <= 1),
            "candidates": float(len(near)),
        }
        for name, value in figures.items():
            sums.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in sums.items()}


@torch.inference_mode()
def judge_generator(
    generator: Wav2Lip, expert: SyncNet_color, clips: list[Clip], hp: HParams, windows: int, seed: int
) -> dict[str, float]:
    """Reconstruction and sync of generated windows: L1 of the face, PSNR (dB) and SSIM of its lower half; sync losses.

    `sync_generated` is of the generated faces with the speech that they were made from, `sync_real` of the real faces
    with their own speech and `sync_wrong` with speech at least 5 frames away. `copy_*` are the figures of the
    reference's lower half put in without any change. References are what `hp.fitting_references` says.
    """
    steps = window_frames(hp.fps, expert.fps)
    dataset = GeneratorDataset(clips, hp, seed, False, steps, reference_speech=True)
    sums: dict[str, float] = {}
    items = len(clips) * windows
    for first in tqdm(range(0, items, BATCH), desc="generator", unit="batch", leave=False):
        indices = range(first, min(items, first + BATCH))
        batch = _batch(dataset, indices)
        generated = generator(batch["indiv_mels"], generator_input(batch))
        target = batch["target"]
        copied = target.clone()
        lower_half(copied).copy_(lower_half(batch["reference"]))
        figures = {
            "l1": losses.reconstruction_loss(generated, target),
            "psnr_lower": metrics.psnr_lower(generated, target),
            "ssim_lower": metrics.ssim_lower(generated, target),
            "sync_generated": losses.sync_loss(expert, batch["mel"], generated),
            "sync_real": losses.sync_loss(expert, batch["mel"], target),
            "sync_wrong": losses.sync_loss(expert, batch["reference_mel"], target),
            "copy_psnr_lower": metrics.psnr_lower(copied, target),
            "copy_ssim_lower": metrics.ssim_lower(copied, target),
            "copy_sync": losses.sync_loss(expert, batch["mel"], copied),
        }
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(indices)
    return {name: total / items for name, total in sums.items()}


def _batch(dataset: Dataset, indices: range) -> dict[str, Tensor]:
    batch = collate([dataset[index] for index in indices])
    return {name: value.float() / 255 if value.dtype == torch.uint8 else value for name, value in batch.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Figures of an expert and a generator on the validation speakers")
    add_data_arguments(parser)
    parser.add_argument("--split", default="val")
    parser.add_argument("--expert", type=Path, default=DEFAULT_EXPERT)
    parser.add_argument("--generator", type=Path, default=DEFAULT_GENERATOR)
    parser.add_argument("--windows", type=int, default=2, help="of each clip (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of windows")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    expert, generator = load_expert(args.expert), load_generator(args.generator)
    fps = data_fps(args.data_root, args.split)
    hp = dataclasses.replace(
        hparams,
        min_negative_distance=MIN_DISTANCE,
        img_size=generator.img_size,
        fps=fps,
        fitting_references=generator.reference == "fitting",
    )
    steps = window_frames(fps, expert.fps)
    clips = load_clips(args.data_root, args.split, hp, GeneratorDataset.lead, args.filelists, steps)
    figures = {
        "expert": judge_expert(expert, clips, hp, args.windows, args.seed),
        "generator": judge_generator(generator, expert, clips, hp, args.windows, args.seed),
    }
    for network, values in figures.items():
        print(f"{network}: {len(clips)} clips, {args.windows} windows each")
        for name, value in values.items():
            print(f"  {name:<16} {value:.4f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
