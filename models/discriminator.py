"""The visual-quality discriminator (paper section 3.5): is this lower face a real picture?"""

import torch
from torch import Tensor, nn

from models.conv import PUBLISHED_LEVELS, face_levels, fold_time, nonorm_Conv2d, output_size, scaled
from models.recompute import recomputed

VERTICAL = ((7, 1, 3), (5, 1, 2), (5, 2, 2), (5, 2, 2), (3, 2, 1), (3, 2, 1))
HORIZONTAL = ((7, 1, 3), (5, 2, 2), (5, 2, 2), (5, 2, 2), (3, 2, 1), (3, 2, 1))


class Wav2Lip_disc_qual(nn.Module):  # noqa: N801 (the published name)
    """Judge of the lower halves of single frames, blind to the speech.

    Args:
        img_size: (height, width) of the whole face in pixels.
        width: factor on every channel count; (96, 96) and 1.0 are the published network.
    """

    def __init__(self, img_size: tuple[int, int] = (96, 96), width: float = 1.0):
        super().__init__()
        self.img_size, self.width = tuple(img_size), width
        self.checkpointing = False  # see `Wav2Lip`
        extra = face_levels(self.img_size) - PUBLISHED_LEVELS
        halved = ((3, 2, 1),) * extra
        cells = (
            output_size(VERTICAL[:1] + halved + VERTICAL[1:], img_size[0] // 2),
            output_size(HORIZONTAL[:1] + halved + HORIZONTAL[1:], img_size[1]),
        )
        c32, c64, c128, c256, c512 = (scaled(c, width) for c in (32, 64, 128, 256, 512))
        stages = [[nonorm_Conv2d(3, c32, 7, 1, 3)]]
        stages += [[nonorm_Conv2d(c32, c32, 3, 2, 1)] for _ in range(extra)]
        stages += [
            [nonorm_Conv2d(c32, c64, 5, (1, 2), 2), nonorm_Conv2d(c64, c64, 5, 1, 2)],
            [nonorm_Conv2d(c64, c128, 5, 2, 2), nonorm_Conv2d(c128, c128, 5, 1, 2)],
            [nonorm_Conv2d(c128, c256, 5, 2, 2), nonorm_Conv2d(c256, c256, 5, 1, 2)],
            [nonorm_Conv2d(c256, c512, 3, 2, 1), nonorm_Conv2d(c512, c512, 3, 1, 1)],
            [nonorm_Conv2d(c512, c512, 3, 2, 1), nonorm_Conv2d(c512, c512, 3, 1, 1)],
            [nonorm_Conv2d(c512, c512, cells, 1, 0), nonorm_Conv2d(c512, c512, 1, 1, 0)],
        ]
        self.face_encoder_blocks = nn.ModuleList(nn.Sequential(*stage) for stage in stages)
        self.binary_pred = nn.Sequential(nn.Conv2d(c512, 1, 1, 1, 0), nn.Sigmoid())

    def forward(self, face_sequences: Tensor) -> Tensor:
        """Whole faces (B, 3, T, H, W), BGR in [0, 1] -> probability of being real (T x B, 1), time-major."""
        x = lower_half(fold_time(face_sequences))
        for block in self.face_encoder_blocks:
            x = recomputed(block, x) if self.checkpointing and self.training else block(x)
        return self.binary_pred(x).flatten(1)


def lower_half(faces: Tensor) -> Tensor:
    """The rows from the middle down: (..., H, W) -> (..., H / 2, W)."""
    return faces[..., faces.size(-2) // 2 :, :]


def stack_window(faces: Tensor) -> Tensor:
    """A window as the expert sees it: (B, 3, T, H, W) -> lower halves (B, 3 x T, H / 2, W), time-major channels."""
    return torch.cat(lower_half(faces).unbind(dim=2), dim=1)
