"""Random changes to what the networks of `models.mouth_cover` and `models.speech_shape` learn from: faces elsewhere, in
other light and behind hands, speech of other throats and in noise."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from models.face_mesh import MIRRORED
from training.augment import JITTER_DRAWS, moves_of

SILENT_BANDS = 10
SILENT_FRAMES = 4
MAX_THROAT = 0.12  # by which bands move, as a share of their number
MAX_TONE = 0.25  # standard deviation of changes of tone, of the mel's [-4, 4]
NOISE = (-4.5, -0.5)  # how loud noise is, in the mel's [-4, 4]
ENERGY = 2.5 * math.log(10) / 2  # the logarithm of energy that a step of the mel is: 12.5 dB
PIXELS = 96  # a side of the face in which errors of points count
MAX_POSE = (17.0, 0.2, 0.12)  # rotation in degrees, scale and shift of faces whose lips are sought, see `moves_of`
MAX_SQUEEZE = 0.35  # how much narrower, as a share
SMALLEST_FACE = 28  # pixels a side
FINGERS = 3


def moved_with_points(faces: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Faces (B, 3, H, W) in [0, 255] mirrored, moved, squeezed and in other light, in [0, 1], and their points
    (B, 11, 2) with them, given and returned in `PIXELS` a side."""
    draws = torch.rand(len(faces), JITTER_DRAWS, device=faces.device) * 2 - 1
    moves = moves_of(draws, *MAX_POSE)
    moves[:, :, 0] *= 1 + MAX_SQUEEZE * torch.rand(len(faces), 1, device=faces.device)  # narrower, as a turned face
    grid = F.affine_grid(moves, faces.shape, align_corners=False)
    faces = F.grid_sample(faces / 255, grid, padding_mode="border", align_corners=False)
    linear, shift = moves[:, :, :2], moves[:, None, :, 2]
    points = (2 * points / PIXELS - 1 - shift) @ torch.linalg.inv(linear).transpose(1, 2)
    mirrored = torch.linalg.det(linear)[:, None, None] < 0
    points = torch.where(mirrored, points[:, MIRRORED], points)
    return in_other_light(in_less_detail(faces)), PIXELS * (points + 1) / 2


def in_less_detail(faces: Tensor) -> Tensor:
    """Faces (B, 3, H, W), a third of them as small as they come in videos, enlarged."""
    side = int(torch.randint(SMALLEST_FACE, faces.shape[-1], ()))
    small = F.interpolate(faces, (side, side), mode="bilinear", antialias=True)
    small = F.interpolate(small, faces.shape[-2:], mode="bilinear")
    return torch.where(torch.rand(len(faces), 1, 1, 1, device=faces.device) < 1 / 3, small, faces)


def partly_covered(faces: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Faces (B, 3, H, W) in [0, 1] of which two thirds have something before them: some rounded shapes, fingers or a
    fist or a microphone, that show parts of another face, brighter or darker, or one colour; and which share of the
    mouth that is by its `points` (B, 11, 2) in `PIXELS` a side, covers: (B,)."""
    count, device = len(faces), faces.device
    rows, columns = (
        axis / PIXELS for axis in torch.meshgrid(*[torch.arange(PIXELS, device=device) + 0.5] * 2, indexing="ij")
    )

    def ellipse(middle: Tensor, radii: Tensor, angle: Tensor) -> Tensor:
        across, down = (axis - middle[:, at, None, None] for at, axis in enumerate((columns, rows)))
        cos, sin = (turned(angle)[:, None, None] for turned in (torch.cos, torch.sin))
        along, aside = (
            (cos * across + sin * down) / radii[:, :1, None],
            (cos * down - sin * across) / radii[:, 1:, None],
        )
        return ((1.1 - torch.hypot(along, aside)) / 0.2).clamp(0, 1)

    low, high = points.amin(1) / PIXELS, points.amax(1) / PIXELS
    mouth = ellipse((low + high) / 2, 0.6 * (high - low) + 0.02, torch.zeros(count, device=device)) > 0.5
    anywhere, near = torch.rand(count, 2, device=device), torch.rand(count, 1, device=device) < 0.5
    middle = torch.where(near, (low + high) / 2 + 0.12 * torch.randn(count, 2, device=device), anywhere)
    angle = 3.14 * torch.rand(count, device=device)
    cover = torch.zeros(count, PIXELS, PIXELS, device=device)
    for _ in range(FINGERS):
        radii = torch.rand(count, 2, device=device) * torch.tensor([0.35, 0.18], device=device) + 0.05
        cover = torch.maximum(cover, ellipse(middle + 0.12 * torch.randn(count, 2, device=device), radii, angle))
    cover = cover * (torch.rand(count, 1, 1, device=device) < 2 / 3)
    share = (cover * mouth).sum((1, 2)) / mouth.sum((1, 2)).clamp_min(1)
    shown = faces.roll(1, 0).roll(tuple(torch.randint(PIXELS, (2,)).tolist()), (2, 3))
    shade, plain = torch.rand(2, count, 1, 1, 1, device=device)
    shown = torch.where(plain < 0.2, shown.mean((2, 3), keepdim=True), shown) * (0.3 + shade)
    return faces + cover[:, None] * (shown - faces), share


def in_other_light(faces: Tensor) -> Tensor:
    """Faces (B, 3, H, W) in [0, 1] brighter or darker, of more or less contrast, half of them blurred or noisy."""
    gain, bias, kind = torch.rand(3, len(faces), 1, 1, 1, device=faces.device)
    faces = (faces - 0.5) * (0.7 + 0.6 * gain) + 0.5 + 0.3 * (bias - 0.5)
    height, width = faces.shape[-2:]
    blurred = F.interpolate(F.avg_pool2d(faces, 2), (height, width), mode="bilinear")
    noisy = faces + 0.03 * torch.randn_like(faces)
    return torch.where(kind < 0.25, blurred, torch.where(kind < 0.5, noisy, faces))


def in_other_voice(mel: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Mel windows (B, 1, 80, T) of longer and shorter throats, louder or softer, of other tone, half of them in noise;
    in half of the batches some bands are silent, in half a moment."""
    mel = in_noise(of_other_throats(mel) + 0.3 * torch.randn(len(mel), 1, 1, 1, device=mel.device))
    if torch.rand(()) < 0.5:
        first = int(torch.randint(mel.shape[2] - SILENT_BANDS, ()))
        mel[:, :, first : first + SILENT_BANDS] = -4
    if torch.rand(()) < 0.5:
        first = int(torch.randint(mel.shape[3] - SILENT_FRAMES, ()))
        mel[..., first : first + SILENT_FRAMES] = -4
    return mel, known


def of_other_throats(mel: Tensor) -> Tensor:
    """Mel windows (B, 1, 80, T) with bands moved up or down: vocal tract length perturbation (Jaitly and Hinton,
    2013)."""
    batch, _, bands, frames = mel.shape
    factor = 1 + MAX_THROAT * (2 * torch.rand(batch, 1, device=mel.device) - 1)
    place = (torch.arange(bands, device=mel.device) * factor).clamp(0, bands - 1.001)
    low = place.long()
    below, above = (mel[:, 0].gather(1, at[:, :, None].expand(-1, -1, frames)) for at in (low, low + 1))
    return (below + (place - low)[:, :, None] * (above - below))[:, None]


def in_noise(mel: Tensor) -> Tensor:
    """Mel windows (B, 1, 80, T) of other tone, in half of them with steady noise of any colour; within [-4, 4]."""
    batch, _, bands, _ = mel.shape

    def colour(knots: int, strength: float) -> Tensor:
        drawn = strength * torch.randn(batch, 1, knots, device=mel.device)
        return F.interpolate(drawn, bands, mode="linear", align_corners=True)[:, :, :, None]

    mel = mel + colour(8, MAX_TONE)
    loudness = torch.empty(batch, 1, 1, 1, device=mel.device).uniform_(*NOISE)
    noise = loudness + colour(6, 0.5) + 0.15 * torch.randn_like(mel)
    mixed = torch.logaddexp(mel * ENERGY, noise * ENERGY) / ENERGY
    return torch.where(torch.rand(batch, 1, 1, 1, device=mel.device) < 0.5, mixed, mel).clamp(-4, 4)
