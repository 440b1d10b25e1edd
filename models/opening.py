"""How far a mouth is open, seen and heard, where its lips are and how wide they sound: small networks that learnt it
from a landmark model.

Openings are gaps between the inner lips in distances of the outer eye corners: 0.02 is nearly closed, 0.1 wide open.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.conv import scaled
from models.speech_embedding import FEATURES, SpeechEmbedding

# Mel frames that are heard before and after those that a generator hears (16): what is said before, and what mouths get
# ready for. The latter make live streams later.
CONTEXT, AHEAD = 36, 8
SPOKEN = slice(CONTEXT, CONTEXT + 16)  # of the windows: what a generator hears
EMBEDDED = 72  # frames of 10 ms, to the end of the windows
PLACES = (6, 5)  # the last ones of the embedding's layers, that listeners hear
SILENCE = (-3.2, -2.2)  # mean of the loudest band (-4 to 4): up to the first it is silence, from the second on speech
HEARING_LEAD_MS = 40.0  # how much before a frame what a generator hears starts
SHAPE_PLAN = ((24, 2), (48, 2), (48, 1), (96, 2), (96, 1), (128, 2), (128, 1))
VIEWS = ((0.0, 0.0, 1.0), (0.06, 0.0, 1.0), (-0.06, 0.08, 1.0), (0.0, -0.08, 1.08), (0.0, 0.0, 0.94))  # shifts, scale
# Numbers of MediaPipe's face mesh: corners of the mouth; upper and lower inner lip, lower edge; inner corners; the
# inner lips half way between the middle and these, above and below.
LIP_POINTS = (61, 291, 13, 14, 17, 78, 308, 81, 311, 178, 402)
MIRRORED = (1, 0, 2, 3, 4, 6, 5, 8, 7, 10, 9)  # `LIP_POINTS` in a mirror
LISTENERS = 5  # that hear alike but for what each has learnt by heart: their mean is better than any
LISTENING = 192  # channels of each
NEIGHBOURS = 3  # frames of 40 ms before and after the one that is heard, of which listeners have to know, too
AT_REST = (0.0, 0.5)  # ranks of opening and width in silence
PLAN = ((12, 2), (24, 2), (24, 1), (48, 2), (48, 1), (72, 2), (72, 1))  # channels and stride of each convolution


class MouthOpening(nn.Module):
    """The opening of the mouth of faces. Gradients pass, so that a generator can learn from it.

    It sees the lower half, grey and of equal contrast, so that light and colours say nothing.

    Args:
        img_size: (height, width) of the face in pixels; others are resized to it.
        width: factor on every channel count.
    """

    def __init__(self, img_size: tuple[int, int] = (96, 96), width: float = 1.0):
        super().__init__()
        self.img_size, self.width = tuple(img_size), width
        layers, features = _convolutions(PLAN, width, 1, (img_size[0] // 2, img_size[1]))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(features, 1))
        self.register_buffer("mean", torch.tensor(0.0))  # of the openings that it learnt from
        self.register_buffer("std", torch.tensor(1.0))

    def forward(self, faces: Tensor) -> Tensor:
        """Faces (N, 3, H, W) in [0, 1] -> openings (N,) in eye distances."""
        return self.mean + self.std * self.standardised(faces)

    def standardised(self, faces: Tensor) -> Tensor:
        """The same in standard deviations around the mean of real talking faces: what losses compare."""
        if faces.shape[-2:] != self.img_size:
            faces = F.interpolate(faces, self.img_size, mode="bilinear", antialias=True)
        lower = faces.float().mean(1, keepdim=True)[:, :, self.img_size[0] // 2 :]
        deviation = lower.std((1, 2, 3), keepdim=True) + 0.02  # a flat picture stays flat
        lower = (lower - lower.mean((1, 2, 3), keepdim=True)) / deviation
        return self.head(self.features(lower).flatten(1))[:, 0]

    @torch.inference_mode()
    def openings_of(self, faces: np.ndarray) -> np.ndarray:
        """The openings (N,) of pictures (N, H, W, 3) uint8."""
        return self(as_input(faces)).numpy()


class MouthShape(nn.Module):
    """Where the lips of faces are, and whether they are to be seen.

    Args:
        img_size: (height, width) of the face in pixels; others are resized to it.
        width: factor on every channel count.
    """

    def __init__(self, img_size: tuple[int, int] = (96, 96), width: float = 1.0):
        super().__init__()
        self.img_size, self.width = tuple(img_size), width
        layers, features = _convolutions(SHAPE_PLAN, width, 1, img_size)
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(features, 2 * len(LIP_POINTS) + 1))
        self.register_buffer("mean", torch.zeros(len(LIP_POINTS), 2))  # of the points that it learnt from

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Faces (N, 3, H, W) in [0, 1] -> `LIP_POINTS` (N, 11, 2), x over the width and y over the height; and logits
        (N,) of that the mouth is to be seen, with nothing before it."""
        if faces.shape[-2:] != self.img_size:
            faces = F.interpolate(faces, self.img_size, mode="bilinear", antialias=True)
        grey = faces.float().mean(1, keepdim=True)
        grey = (grey - grey.mean((1, 2, 3), keepdim=True)) / (grey.std((1, 2, 3), keepdim=True) + 0.02)
        said = self.head(self.features(grey).flatten(1))
        return self.mean + 0.1 * said[:, :-1].unflatten(1, (-1, 2)), said[:, -1]

    @torch.inference_mode()
    def lips_of(self, faces: np.ndarray) -> np.ndarray:
        """The points of pictures (N, H, W, 3) uint8 BGR."""
        return self(as_input(faces))[0].numpy()

    @torch.inference_mode()
    def closely(self, face: np.ndarray) -> tuple[np.ndarray, float]:
        """The points of a picture (H, W, 3) uint8 BGR (11, 2), and the logit of that the mouth is to be seen.

        Both are means over several views of it, moved a little and mirrored, which errs less than one.
        """
        shown = F.interpolate(as_input(face[None]), self.img_size, mode="bilinear", antialias=True)
        views = [(side, *view) for side in (1.0, -1.0) for view in VIEWS]
        moves = torch.tensor([[[side * size, 0, x], [0, size, y]] for side, x, y, size in views])
        grid = F.affine_grid(moves, (len(views), *shown.shape[1:]), align_corners=False)
        shown = F.grid_sample(shown.expand(len(views), -1, -1, -1), grid, padding_mode="border", align_corners=False)
        points, logits = self(shown)
        mirrored = (moves[:, 0, 0] < 0)[:, None, None]
        points = torch.where(mirrored, points[:, MIRRORED], points)
        points = (2 * points - 1) @ moves[:, :, :2].transpose(1, 2) + moves[:, None, :, 2]
        return ((points + 1) / 2).mean(0).numpy(), float(logits.mean())


class Listener(nn.Module):
    """Openings and widths of a frame and its neighbours from what the embedding's layers say.

    Args:
        channels: of its hidden layer.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(features) for features in FEATURES)
        self.narrow = nn.ModuleList(nn.Linear(features, channels // 4) for features in FEATURES)
        self.features = nn.Sequential(
            nn.Dropout(0.4), nn.Linear(sum(PLACES) * (channels // 4), channels),
            nn.BatchNorm1d(channels), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Dropout(0.4), nn.Linear(channels, 2 * (2 * NEIGHBOURS + 1)))

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """Layers (N, places, features), see `PLACES` and `FEATURES` -> (N, 2 x (2 x `NEIGHBOURS` + 1))."""
        narrowed = [
            F.relu(narrow(F.dropout(norm(layer.flatten(0, 1)).view_as(layer), 0.1, self.training))).flatten(1)
            for layer, norm, narrow in zip(layers, self.norms, self.narrow, strict=True)
        ]
        return self.head(self.features(torch.cat(narrowed, dim=1)))


class SpeechShape(nn.Module):
    """How far mouths open and how wide they are drawn, above their speaker's means, while something is said.

    Lips are rounded for some sounds and spread for others. Much of what a mouth does cannot be heard: what comes out is
    the mean of what mouths do at such a sound, which varies less than a mouth does. `rank` makes up for that.

    The speech embedding knows sounds from far more voices than there are talking faces to learn from; on it stand some
    small networks of different beginnings, whose mean is taken.

    Args:
        img_size: not used; a checkpoint has it.
        width: factor on the channels of listeners.
    """

    def __init__(self, img_size: tuple[int, int] = (96, 96), width: float = 1.0):
        super().__init__()
        self.img_size, self.width = tuple(img_size), width
        self.embedding = SpeechEmbedding()
        self.listeners = nn.ModuleList(Listener(scaled(LISTENING, width)) for _ in range(LISTENERS))
        self.register_buffer("std", torch.ones(2))  # of what it learnt from, around the means of clips
        self.register_buffer("spread", torch.ones(2))  # standard deviation of `standardised` over speech

    def forward(self, mel: Tensor) -> Tensor:
        """Mel windows (N, 1, 80, 60) in [-4, 4] -> (N, 2): openings in eye distances, and widths of mouths in those of
        the face's crop.

        What a generator hears lies `CONTEXT` mel frames after their start and begins one frame (40 ms) before; see
        `audio.mel_windows_at`.
        """
        return self.std * self.standardised(mel)

    def standardised(self, mel: Tensor) -> Tensor:
        """The same (N, 2) in standard deviations around the means of clips."""
        return self.around(mel)[:, :, NEIGHBOURS]

    def around(self, mel: Tensor) -> Tensor:
        """The same of the frames about it, too: (N, 2, 2 x `NEIGHBOURS` + 1). Who has to know how mouths move on hears
        better how they are."""
        return self.of_each(mel).mean(0)

    def of_each(self, mel: Tensor) -> Tensor:
        """`around` of each listener: (`LISTENERS`, N, 2, 2 x `NEIGHBOURS` + 1)."""
        layers = self.embedding(mel[:, 0].float(), EMBEDDED)
        layers = [layer[:, -places:] for layer, places in zip(layers, PLACES, strict=True)]
        return torch.stack([listener(layers) for listener in self.listeners]).unflatten(2, (2, -1))

    def rank(self, mel: Tensor) -> Tensor:
        """The shares of all speech that sounds more closed, and narrower, in [0, 1]: (N, 2). Silence closes the mouth,
        and leaves it as wide as ever."""
        loudness = mel[:, 0, :, SPOKEN].amax(1).mean(1, keepdim=True)  # of the loudest band
        spoken = ((loudness - SILENCE[0]) / (SILENCE[1] - SILENCE[0])).clamp(0, 1)
        at_rest = torch.tensor(AT_REST, device=mel.device)
        return at_rest + spoken * (torch.special.ndtr(self.standardised(mel) / self.spread) - at_rest)


def as_input(faces: np.ndarray) -> Tensor:
    """Pictures (N, H, W, 3) uint8 as networks here take them: (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(faces)).permute(0, 3, 1, 2).float() / 255


def _convolutions(
    plan: tuple[tuple[int, int], ...], width: float, channels: int, sides: tuple[int, int]
) -> tuple[list[nn.Module], int]:
    """Convolutions by channels and strides, over pictures of (height, width), and how many numbers come out."""
    layers: list[nn.Module] = []
    for wanted, stride in plan:
        out = scaled(wanted, width)
        layers += [nn.Conv2d(channels, out, 3, stride, 1), nn.BatchNorm2d(out), nn.ReLU()]
        channels, sides = out, tuple(-(-side // stride) for side in sides)
    return layers, channels * math.prod(sides)
