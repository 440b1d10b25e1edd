"""Google's speech embedding (Lin, Kilgour, Roblek and Sharifi, 2020: "Training keyword spotters with limited and
synthesized speech data"): a convolutional network that learnt from very many voices, rooms and microphones to tell
5,000 keywords apart. Its layers tell sounds apart, whoever makes them.

Its weights are published under the Apache License 2.0; `training.embedding` reads them.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hparams import hparams

BANDS = 32  # mel bands from 60 to 3800 Hz
FRAMES_PER_SECOND = 100
STEP = hparams.sample_rate / hparams.hop_size / FRAMES_PER_SECOND  # mel frames of this project to one of these
# Channels, kernel (time, bands) of each convolution, and the pooling (time, bands) after it. What was published
# pools once more and has one layer more, which gives an embedding every 80 ms: too coarse in time for mouths.
LAYERS = (
    (24, (3, 3), None), (24, (1, 3), None), (24, (3, 1), (2, 2)),
    (48, (1, 3), None), (48, (3, 1), None), (48, (1, 3), None), (48, (3, 1), (1, 2)),
    (72, (1, 3), None), (72, (3, 1), None), (72, (1, 3), None), (72, (3, 1), (2, 2)),
    (96, (1, 3), None), (96, (3, 1), None), (96, (1, 3), None), (96, (3, 1), (1, 2)),
    (96, (1, 3), None), (96, (3, 1), None), (96, (1, 3), None), (96, (3, 1), None),
)  # fmt: skip
TAPPED = (14, 18)  # layers that are listened to
SEEN = (40, 56)  # frames that one place of these layers depends on
STRIDE = 4  # frames from one place of these layers to the next
FEATURES = (96 * 4, 96 * 2)  # numbers of one place
SLOPE, FLOOR = 0.2, -0.4  # of what follows each convolution


class SpeechEmbedding(nn.Module):
    """What is said in a mel spectrogram of this project, by two layers of the embedding.

    The published network has another spectrogram: `bands` makes it from ours, as well as a linear map can.
    """

    def __init__(self, img_size: tuple[int, int] = (96, 96), width: float = 1.0) -> None:
        super().__init__()
        self.img_size, self.width = tuple(img_size), width  # not used; a checkpoint has them
        self.bands = nn.Linear(hparams.num_mels, BANDS)
        channels = [1, *(layer[0] for layer in LAYERS)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(cin, cout, kernel, padding=(0, kernel[1] // 2))
            for cin, (cout, kernel, _) in zip(channels, LAYERS, strict=False)
        )
        self.scale = nn.Parameter(torch.ones(LAYERS[0][0], 1, 1))  # a normalisation after the first ReLU
        self.shift = nn.Parameter(torch.zeros(LAYERS[0][0], 1, 1))

    def forward(self, mel: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Mel windows (N, 80, T) in [-4, 4] at 80 frames a second -> the layers `TAPPED` (N, places, `FEATURES`).

        They hear `frames` at 100 a second, the last one of which is the last of the window or before it by less than
        12.5 ms; the places are `STRIDE` apart, and the last one ends with the last frame or up to 3 before.
        """
        return self.of_spectrogram(self.bands(resampled(mel, frames)))

    def of_spectrogram(self, spectrogram: Tensor) -> tuple[Tensor, ...]:
        """The same of the published spectrogram (N, T, 32) at 100 frames a second: 2 + dB / 10 of the power of 16-bit
        samples."""
        x, heard = spectrogram[:, None], []
        for at, (convolution, (_, _, pooling)) in enumerate(zip(self.convolutions, LAYERS, strict=True)):
            x = convolution(x)
            if at == 0:
                x = F.relu(x) * self.scale + self.shift
            x = F.leaky_relu(x, SLOPE).clamp_min(FLOOR)
            if at in TAPPED:
                heard.append(x.transpose(1, 2).flatten(2))
            if pooling:
                x = F.max_pool2d(x, pooling)
        return tuple(heard)


def resampled(mel: Tensor, frames: int) -> Tensor:
    """The last `frames` of windows (N, 80, T) at `FRAMES_PER_SECOND`, counted from their start: (N, frames, 80)."""
    last = (mel.shape[2] - 1) // STEP * STEP
    places = last - STEP * torch.arange(frames - 1, -1, -1, device=mel.device)
    low = places.floor().clamp(0, mel.shape[2] - 2).long()
    share = (places - low)[None, :, None].to(mel.dtype)
    mel = mel.transpose(1, 2)
    return mel[:, low] + share * (mel[:, low + 1] - mel[:, low])
