"""Teach a generator's audio encoder how far open speech sounds, before the decoder learns what to make of it.

    python -m training.hearing --data_root packed --generator runs/generator/checkpoint_best.pth --outfile hearing.pth

The audio encoder is a tenth of the generator's work: what would take many thousand steps of whole faces to come
through is learnt in minutes from mel windows alone (`models.speech_shape.SpeechShape` is the teacher). Every fourth
channel of the embedding comes to mean "open", every other fourth "closed". The decoder must learn to read that:
go on with `matched_share` and `decoder_only` (`hparams.py`).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import audio
from errors import InputError, run_script
from hparams import HParams, hparams
from models.checkpoint import load_generator, load_heard_shape, save_checkpoint
from models.speech_shape import SpeechShape, heard_along
from training.augment import MAX_MEL_GAIN
from training.clips import FILELISTS
from training.data import data_fps, load_clips
from training.opening import correlation
from training.supervised import descend

BATCH = 128
RATE = 2e-3  # the highest of the cycle
WEIGHT_DECAY = 0.01
FACTOR = 2.0  # on what is heard, in standard deviations of real openings


@torch.inference_mode()
def lessons(teacher: SpeechShape, data_root: Path, split: str, filelists: Path, hp: HParams) -> tuple[Tensor, Tensor]:
    """All mel windows of a split (n, 1, 80, 16), and how open the teacher says they sound, in standard deviations (n,).
    Raises InputError."""
    windows, said = [], []
    for clip in tqdm(load_clips(data_root, split, hp, 1, filelists), desc=f"hear {split}", unit="clip"):
        frames = clip.window_starts(hp.fps, 1) - 1
        windows.append(clip.mel_windows(frames, hp.fps))
        heard = heard_along(teacher.standardised, clip.speech(), audio.speech_places(frames + 1, hp.fps))
        said.append(heard[:, 0])
    return torch.from_numpy(np.concatenate(windows))[:, None], torch.cat(said)


def openness(embedding: Tensor, scale: float) -> Tensor:
    """What the code says: embeddings (n, C, 1, 1) -> (n,)."""
    flat = embedding.flatten(1)
    return (flat[:, 0::4].mean(1) - flat[:, 1::4].mean(1)) / scale


def main() -> None:
    parser = argparse.ArgumentParser(description="Teach a generator's audio encoder how far open speech sounds")
    parser.add_argument("--data_root", type=Path, required=True, help="output of preprocess.py, or of training.pack")
    parser.add_argument("--filelists", type=Path, default=FILELISTS, help="folder of <split>.txt; a pack has its own")
    parser.add_argument("--generator", type=Path, required=True, help="checkpoint to start from")
    parser.add_argument("--outfile", type=Path, required=True, help="the same with another audio encoder")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.steps < 2:
        raise InputError("--steps takes a number from 2")
    torch.manual_seed(args.seed)
    hp = hparams.override(f"cache_gb=0,fps={data_fps(args.data_root, 'train')}")
    generator, teacher = load_generator(args.generator), load_heard_shape()
    encoder = generator.audio_encoder.requires_grad_(True)
    (speech, said), (unseen, expected) = (
        lessons(teacher, args.data_root, split, args.filelists, hp) for split in ("train", "val")
    )
    with torch.inference_mode():
        scale = float(torch.cat([encoder(part) for part in unseen.split(512)]).std(0).mean())

    def loss() -> Tensor:
        chosen = torch.randint(len(speech), (BATCH,))
        gain = MAX_MEL_GAIN * (2 * torch.rand(BATCH, 1, 1, 1) - 1)
        return F.mse_loss(openness(encoder((speech[chosen] + gain).clamp(-4, 4)), scale), FACTOR * said[chosen])

    descend(encoder, args.steps, RATE, WEIGHT_DECAY, loss)
    with torch.inference_mode():
        learnt = torch.cat([openness(encoder(part), scale) for part in unseen.split(512)])
    print(f"{args.outfile}: correlation with the teacher {correlation(learnt, expected):.3f} on unseen speakers")
    save_checkpoint(args.outfile, generator)


if __name__ == "__main__":
    run_script(main)
