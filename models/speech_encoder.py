"""The first layers of Whisper's audio encoder (Radford et al., 2022: "Robust speech recognition via large-scale weak
supervision", model tiny.en): they learnt from 680,000 hours of very many voices, rooms and microphones to tell what is
said, and tell sounds apart, whoever makes them.

The weights are published under the MIT License; `training.speech_encoder` reads them.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import audio
from hparams import hparams

TOKENS_PER_SECOND = 50
BANDS = hparams.num_mels  # 80
CHANNELS = 384
HEADS = 6
BLOCKS = 2  # of 4; sounds are told apart best after these, words by the later ones
DECIBELS = -hparams.min_level_db / (2 * hparams.max_abs_value)  # 12.5, that a step of `audio.speech_spectrogram` is
LOUDEST = hparams.ref_level_db / 10  # 2, the logarithm of the power (base 10) at its upper end
DEPTH = 8.0  # what lies deeper under the loudest of a window, in such logarithms, is as silence


def token_at(places: Tensor) -> Tensor:
    """The tokens nearest to frames of a speech spectrogram; token 0 is at frame 0."""
    return (places + 1) // round(audio.SPEECH_FRAMES_PER_SECOND / TOKENS_PER_SECOND)


class SpeechEncoder(nn.Module):
    """What is said in a speech spectrogram."""

    def __init__(self, img_size: tuple[int, int] = (96, 96), width: float = 1.0) -> None:
        super().__init__()
        self.img_size, self.width = tuple(img_size), width  # not used; a checkpoint has them
        self.conv1 = nn.Conv1d(BANDS, CHANNELS, 3, padding=1)
        self.conv2 = nn.Conv1d(CHANNELS, CHANNELS, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))

    def forward(self, speech: Tensor) -> Tensor:
        """Windows (N, 80, T) of `audio.speech_spectrogram`, in [-4, 4] at 100 frames a second -> tokens (N, T / 2,
        384), 20 ms apart, the first one at the first frame."""
        return self.of_published(as_published(speech))

    def of_published(self, spectrogram: Tensor) -> Tensor:
        """The same of the published spectrogram."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(spectrogram)))).transpose(1, 2)
        x = x + positions(x.shape[1]).to(x)
        for block in self.blocks:
            x = block(x)
        return x


class Block(nn.Module):
    """Attention and a perceptron, each of normalised tokens and added to them. Tensors are named as published."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention()
        self.attn_ln = nn.LayerNorm(CHANNELS)
        self.mlp = nn.Sequential(nn.Linear(CHANNELS, 4 * CHANNELS), nn.GELU(), nn.Linear(4 * CHANNELS, CHANNELS))
        self.mlp_ln = nn.LayerNorm(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, n, 384) -> the same shape."""
        x = x + self.attn(self.attn_ln(x))
        return x + self.mlp(self.mlp_ln(x))


class Attention(nn.Module):
    """Of all tokens to all, by `HEADS` heads."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(CHANNELS, CHANNELS)
        self.key = nn.Linear(CHANNELS, CHANNELS, bias=False)
        self.value = nn.Linear(CHANNELS, CHANNELS)
        self.out = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, n, 384) -> the same shape."""
        parts = (layer(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


def positions(count: int) -> Tensor:
    """What the published network adds to its tokens, so that they know their places: (count, 384)."""
    rates = torch.exp(-math.log(10_000) / (CHANNELS // 2 - 1) * torch.arange(CHANNELS // 2))
    angles = torch.arange(count)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def as_published(speech: Tensor) -> Tensor:
    """Windows (N, 80, T) of `audio.speech_spectrogram` as the published network takes them: the logarithm of power, 4
    more, a quarter of that."""
    log = LOUDEST + (speech - hparams.max_abs_value) * (DECIBELS / 10)
    return (torch.maximum(log, log.amax((1, 2), keepdim=True) - DEPTH) + 4) / 4
