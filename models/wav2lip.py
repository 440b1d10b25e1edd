"""The generator (paper section 3.4): a face whose mouth says the speech."""

import torch
from torch import Tensor, nn

from models.conv import (
    Conv2d,
    Conv2dTranspose,
    audio_encoder,
    face_levels,
    fold_time,
    residuals,
    scaled,
    unfold_time,
)
from models.recompute import joined, recomputed
from models.syncnet import PUBLISHED_FPS

# Encoder stages of the published 96 x 96 network, full resolution first: channels and residual blocks.
STAGES = ((16, 0), (32, 2), (64, 3), (128, 2), (256, 2), (512, 1))
FINEST_CHANNELS = 16  # encoder channels of the stages that larger faces add; never fewer, so that sizes can grow
FINEST_DECODER_CHANNELS = 32  # decoder channels of the stages that larger faces add
# Decoder stages: output channels and residual blocks, from the coarsest.
DECODER_STAGES = ((512, 1), (512, 2), (384, 2), (256, 2), (128, 2), (64, 2))


def at_full_size(channels: int, width: float) -> int:
    """Channels of the layers at the face's full size: never under the published ones, for two pictures pass there."""
    return max(channels, scaled(channels, width))


class Wav2Lip(nn.Module):
    """Generator of a talking face.

    `mel_lead_ms` is how much before a frame its mel window starts. Published networks learnt with one frame (40 ms)
    and are used with 0; those trained here are used as they learnt. `reference` is what inference shows of a face:
    "own", the frame itself, as published, or "fitting", the frame with a mouth that fits the speech. `fps` is the rate
    at which it learnt. A frame hears 200 ms at any rate, so that a generator serves videos of every other one.

    Args:
        img_size: (height, width) of the face in pixels; (96, 96) is the published network.
        width: factor on every channel count; 1.0 is the published network.
    """

    fps = PUBLISHED_FPS

    def __init__(self, img_size: tuple[int, int] = (96, 96), width: float = 1.0):
        super().__init__()
        self.img_size, self.width = tuple(img_size), width
        self.mel_lead_ms = 0.0
        self.reference = "own"
        self.checkpointing = False
        levels = face_levels(self.img_size)
        cells = (img_size[0] >> levels, img_size[1] >> levels)
        extra = levels + 1 - len(STAGES)
        stages = STAGES[:1] + ((FINEST_CHANNELS, 0),) * extra + STAGES[1:]
        finest = [at_full_size(FINEST_CHANNELS, width)] * (1 + extra)
        encoder_channels = [*finest, *(scaled(channels, width) for channels, _ in STAGES[1:])]
        c512 = scaled(512, width)

        blocks = [nn.Sequential(Conv2d(6, encoder_channels[0], 7, 1, 3))]
        for cin, cout, (_, count) in zip(encoder_channels, encoder_channels[1:], stages[1:], strict=False):
            blocks.append(nn.Sequential(Conv2d(cin, cout, 3, 2, 1), *residuals(cout, count)))
        blocks.append(nn.Sequential(Conv2d(c512, c512, cells, 1, 0), Conv2d(c512, c512, 1, 1, 0)))
        self.face_encoder_blocks = nn.ModuleList(blocks)

        self.audio_encoder = audio_encoder(width, residuals_at_256=1)

        skips = [c512, *reversed(encoder_channels)]  # what each decoder stage's output is concatenated with
        channels = c512
        decoder = [nn.Sequential(Conv2d(c512, c512, 1, 1, 0))]
        for level, (cout, count) in enumerate(DECODER_STAGES + ((FINEST_DECODER_CHANNELS, 2),) * extra):
            cin, cout = channels + skips[level], scaled(cout, width)
            grow = Conv2dTranspose(cin, cout, cells, 1, 0) if level == 0 else Conv2dTranspose(cin, cout, 3, 2, 1, 1)
            decoder.append(nn.Sequential(grow, *residuals(cout, count)))
            channels = cout
        self.face_decoder_blocks = nn.ModuleList(decoder)

        c32 = at_full_size(32, width)
        self.output_block = nn.Sequential(
            Conv2d(channels + encoder_channels[0], c32, 3, 1, 1), nn.Conv2d(c32, 3, 1, 1, 0), nn.Sigmoid()
        )

    def forward(self, audio_sequences: Tensor, face_sequences: Tensor) -> Tensor:
        """Generate faces.

        Args:
            audio_sequences: mel windows (N, 1, 80, 16), or (B, T, 1, 80, 16) for windows of T frames.
            face_sequences: (N, 6, H, W), or (B, 6, T, H, W): target face with its lower half zero, stacked
                before the reference face; BGR in [0, 1].

        Returns:
            (N, 3, H, W) or (B, 3, T, H, W), BGR in [0, 1].
        """
        windows = face_sequences.dim() == 5
        batch_size = face_sequences.size(0)
        if windows:
            audio_sequences = torch.cat(audio_sequences.unbind(dim=1), dim=0)
            face_sequences = fold_time(face_sequences)

        features, x = [], face_sequences
        for block in self.face_encoder_blocks:
            x = self._run(block, x)
            features.append(x)
        x = self.face_decoder_blocks[0](self.audio_encoder(audio_sequences))
        for block in (*self.face_decoder_blocks[1:], self.output_block):
            x = self._run(block, x, features.pop())
        return unfold_time(x, batch_size) if windows else x

    def _run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        """A block on its inputs, concatenated on channels."""
        return recomputed(block, *inputs) if self.checkpointing and self.training else block(joined(*inputs))
