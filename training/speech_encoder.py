"""The first layers of Whisper's audio encoder as what hears mouths stands on (`models.speech_encoder`).

    python -m training.speech_encoder --whisper tiny.en.pt --data_root lrs2_preprocessed --outfile speech_encoder.pth

`tiny.en.pt` is the published file, to be had by `whisper.load_model("tiny.en")` of the package openai-whisper; its name
there begins with its SHA-256, which is checked. The linear map from this project's mel spectrogram to the published
one, of other bands, windows and times, is fitted to the sound of a preprocessed tree: first by least squares, then so
that the layers above say what they say of the published one. `checkpoints/speech_shape.pth` holds the outcome already:
nothing else needs this.
"""

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import audio
from errors import InputError, run_script
from hparams import hparams
from models.checkpoint import save_checkpoint
from models.speech_encoder import BANDS, FRAMES_PER_SECOND, REACH, SpeechEncoder, resampled
from training.clips import FILELISTS, read_filelist

DIGEST = "d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03"  # SHA-256 of tiny.en.pt
N_FFT = 400  # samples of the published spectrogram's windows
FLOOR, DEPTH = 1e-10, 8.0  # of power; and below the loudest, in powers of ten
RIDGE = 1e-5  # of the fit, over the mean square of what is mapped
SILENCE = 40  # mel frames before and after each sound
BATCH = 4  # sounds
RATE = 1e-3  # the highest of the cycle


def spectrogram(wav: np.ndarray) -> Tensor:
    """The published mel spectrogram of a waveform (samples,) at 16 kHz in [-1, 1]: (80, T), see
    `SpeechEncoder.layers`; frame t is centred on 10 t milliseconds."""
    sound = torch.from_numpy(np.asarray(wav, np.float32))
    hop = hparams.sample_rate // FRAMES_PER_SECOND
    waves = torch.stft(sound, N_FFT, hop, window=torch.hann_window(N_FFT), pad_mode="constant", return_complex=True)
    bands = audio.mel_filterbank(hparams.sample_rate, N_FFT, BANDS, 0.0, hparams.sample_rate / 2)
    log = (torch.from_numpy(bands.astype(np.float32)) @ waves.abs().square()).clamp_min(FLOOR).log10()
    return (torch.maximum(log, log.max() - DEPTH) + 4) / 4


@dataclass(frozen=True)
class Sound:
    """A sound with silence about it, by this project's spectrogram (80, T) and by the published one (80, T')."""

    ours: Tensor
    theirs: Tensor


def read_sounds(paths: list[Path]) -> list[Sound]:
    """Raises InputError."""
    sounds = []
    for path in tqdm(paths, unit="sound"):
        wav = np.pad(audio.load_wav(path), SILENCE * hparams.hop_size)
        ours, theirs = torch.from_numpy(audio.melspectrogram(wav)), spectrogram(wav)
        frames = resampled(ours[None]).shape[2]
        sounds.append(Sound(ours, theirs[:, :frames]))
    return sounds


@torch.no_grad()
def fit_bands(network: SpeechEncoder, sounds: list[Sound]) -> float:
    """Set `network.bands` by least squares; returns the share of the variance that it explains."""
    inputs, outputs = [], []
    for sound in sounds:
        padded = F.pad(resampled(sound.ours[None]), (REACH // 2, REACH // 2), mode="replicate")[0]
        inputs.append(padded.unfold(1, REACH, 1).transpose(0, 1).flatten(1))
        outputs.append(sound.theirs.T)
    mel, wanted = torch.cat(inputs).double(), torch.cat(outputs).double()
    means = mel.mean(0), wanted.mean(0)
    mel, wanted = mel - means[0], wanted - means[1]
    square = mel.T @ mel
    weight = torch.linalg.solve(square + RIDGE * square.diagonal().mean() * torch.eye(len(square)), mel.T @ wanted)
    network.bands.weight.copy_(weight.T.unflatten(1, (-1, REACH)))
    network.bands.bias.copy_(means[1] - means[0] @ weight)
    return float(1 - (wanted - mel @ weight).square().sum() / wanted.square().sum())


def unlike(network: SpeechEncoder, sound: Sound) -> Tensor:
    """Mean square of what the layers make of our spectrogram less what they make of theirs, over its variance."""
    with torch.no_grad():
        wanted = network.layers(sound.theirs[None])
    made = network.layers(network.bands(resampled(sound.ours[None])))
    return torch.stack([F.mse_loss(m, w) / w.var(1).mean() for m, w in zip(made, wanted, strict=True)]).mean()


def refine_bands(network: SpeechEncoder, sounds: list[Sound], steps: int, seed: int) -> float:
    """Train `bands` alone so that the layers say the same of both; returns what `unlike` was in the last tenth."""
    network.requires_grad_(False)
    network.bands.requires_grad_(True)
    optimiser = torch.optim.Adam(network.bands.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, steps)
    draw, losses = torch.Generator().manual_seed(seed), []
    for _ in tqdm(range(steps), unit="step"):
        chosen = torch.randint(len(sounds), (BATCH,), generator=draw).tolist()
        loss = torch.stack([unlike(network, sounds[at]) for at in chosen]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return float(np.mean(losses[-max(1, steps // 10) :]))


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_published(network: SpeechEncoder, path: Path) -> None:
    """Take the weights of the first layers. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: see the first lines of this script")
    if digest_of(path) != DIGEST:
        raise InputError(f"{path} is not the published tiny.en.pt: see the first lines of this script")
    published = torch.load(path, map_location="cpu", weights_only=True)["model_state_dict"]
    weights = {name: published[f"encoder.{name}"] for name in network.state_dict() if not name.startswith("bands.")}
    network.load_state_dict(weights, strict=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Whisper's first layers as what hears mouths stands on")
    parser.add_argument("--whisper", type=Path, required=True, help="the published tiny.en.pt")
    parser.add_argument("--data_root", type=Path, required=True, help="output of preprocess.py; its train.txt is used")
    parser.add_argument("--filelists", type=Path, default=FILELISTS, help="folder of train.txt")
    parser.add_argument("--outfile", type=Path, required=True, help="checkpoint, its large layers as bytes")
    parser.add_argument(
        "--steps", type=int, default=1200, help="of the map, after least squares (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.steps < 2:
        raise InputError("--steps takes a number from 2")
    network = SpeechEncoder()
    read_published(network, args.whisper)
    paths = [args.data_root / clip / "audio.wav" for clip in read_filelist("train", args.filelists)]
    sounds = read_sounds([path for path in paths if path.is_file()])
    if not sounds:
        raise InputError(f"{args.data_root} has no sound of train.txt: run preprocess.py first")
    explained = fit_bands(network, sounds)
    differs = refine_bands(network, sounds, args.steps, args.seed)
    save_checkpoint(args.outfile, network, bits=8)
    print(
        f"{args.outfile}: the map from our mel spectrogram explains {explained:.3f} of the variance of theirs by least "
        f"squares; then layers differ by {differs:.3f} of theirs"
    )


if __name__ == "__main__":
    run_script(main)
