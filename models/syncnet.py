"""The expert discriminator (paper section 3.1): do these lips say this speech?"""

from torch import Tensor, nn
from torch.nn import functional as F

from models.conv import PUBLISHED_LEVELS, Conv2d, audio_encoder, face_levels, output_size, residuals, scaled

SYNCNET_T = 5  # frames a window: 200 ms at 25 frames a second
PUBLISHED_FPS = 25.0  # frames a second that the published networks learnt from
CONSECUTIVE = tuple(range(SYNCNET_T))
# (kernel, stride, padding) of the strided stages, vertically and horizontally.
VERTICAL = ((7, 1, 3), (5, 1, 1), (3, 2, 1), (3, 2, 1), (3, 2, 1), (3, 2, 1))
HORIZONTAL = ((7, 1, 3), (5, 2, 1), (3, 2, 1), (3, 2, 1), (3, 2, 1), (3, 2, 1))


class SyncNet_color(nn.Module):  # noqa: N801 (the published name)
    """Expert lip-sync discriminator on the lower halves of 5 consecutive colour frames.

    `fps` is the rate at which it learnt: its 5 frames lie 1 / fps seconds apart (`window_frames`).

    Args:
        img_size: (height, width) of the whole face in pixels; it sees the lower half of that.
        width: factor on every channel count; (96, 96) and 1.0 are the published network.
    """

    fps = PUBLISHED_FPS

    def __init__(self, img_size: tuple[int, int] = (96, 96), width: float = 1.0):
        super().__init__()
        self.img_size, self.width = tuple(img_size), width
        extra = face_levels(self.img_size) - PUBLISHED_LEVELS
        halved = ((3, 2, 1),) * extra  # larger faces are first brought down to about the published size
        cells = (
            output_size(VERTICAL[:1] + halved + VERTICAL[1:], img_size[0] // 2),
            output_size(HORIZONTAL[:1] + halved + HORIZONTAL[1:], img_size[1]),
        )
        c32, c64, c128, c256, c512 = (scaled(c, width) for c in (32, 64, 128, 256, 512))
        self.face_encoder = nn.Sequential(
            Conv2d(3 * SYNCNET_T, c32, 7, 1, 3),
            *(Conv2d(c32, c32, 3, 2, 1) for _ in range(extra)),
            Conv2d(c32, c64, 5, (1, 2), 1),
            *residuals(c64, 2),
            Conv2d(c64, c128, 3, 2, 1),
            *residuals(c128, 3),
            Conv2d(c128, c256, 3, 2, 1),
            *residuals(c256, 2),
            Conv2d(c256, c512, 3, 2, 1),
            *residuals(c512, 2),
            Conv2d(c512, c512, 3, 2, 1),
            Conv2d(c512, c512, cells, 1, 0),
            Conv2d(c512, c512, 1, 1, 0),
        )
        self.audio_encoder = audio_encoder(width, residuals_at_256=2)

    def forward(self, audio_sequences: Tensor, face_sequences: Tensor) -> tuple[Tensor, Tensor]:
        """Embed speech and lips.

        Args:
            audio_sequences: mel windows (N, 1, 80, 16).
            face_sequences: (N, 15, H / 2, W): 5 lower halves stacked on channels, BGR in [0, 1].

        Returns:
            Audio and face embeddings, each (N, 512 x width), of length 1. Both are made by a ReLU, so that
            their cosine lies in [0, 1].
        """
        audio_embedding = self.audio_encoder(audio_sequences).flatten(1)
        face_embedding = self.face_encoder(face_sequences).flatten(1)
        return F.normalize(audio_embedding, p=2, dim=1), F.normalize(face_embedding, p=2, dim=1)


def window_frames(fps: float, expert_fps: float) -> tuple[int, ...]:
    """The 5 frames of a window, counted from its first, in a video of `fps` frames a second.

    They are those nearest in time to 5 consecutive frames of a video at the expert's own rate.
    """
    return tuple(int(k * fps / expert_fps + 0.5) for k in CONSECUTIVE)
