"""The losses of the three stages (paper sections 3.1, 3.4 and 3.5). All are computed in float32."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.discriminator import stack_window
from models.syncnet import SyncNet_color

MOUTH = ((0.78, 0.1), (0.5, 0.15))  # where the mouth is in a face crop, down and across: middle, standard deviation
CHANCE = 0.693  # cross-entropy of a fair coin: ln 2


def cosine_bce(audio_embedding: Tensor, face_embedding: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy of the cosine of two embeddings (N, D) against labels (N, 1) in {0, 1}.

    Rounding can put a cosine a hair outside [0, 1]; it is clamped.
    """
    cosine = F.cosine_similarity(audio_embedding.float(), face_embedding.float())
    return F.binary_cross_entropy(cosine.clamp(0, 1)[:, None], label)


def pairwise_bce(cosine: Tensor, clip: Tensor, start: Tensor, min_distance: int) -> Tensor:
    """The published loss over all pairs that a batch holds: mean over true pairs and mean over false ones, halved.

    Args:
        cosine: (N, N) cosines, speech by lips; the true pairs are on the diagonal.
        clip: (N,) clip of each window; start: (N,) its first frame. Windows of one clip at least `min_distance` frames
            apart are the false pairs. Raises ValueError if there are none.
    """
    cosine = cosine.float().clamp(0, 1)
    false = (clip[:, None] == clip[None]) & ((start[:, None] - start[None]).abs() >= max(1, min_distance))
    if not false.any():
        raise ValueError("the batch holds no two windows of a clip that are far enough apart")
    true = cosine.diagonal()
    on_true = F.binary_cross_entropy(true, torch.ones_like(true))
    on_false = F.binary_cross_entropy(cosine[false], torch.zeros_like(cosine[false]))
    return (on_true + on_false) / 2


def info_nce(
    similarity: Tensor, clip: Tensor, start: Tensor, min_distance: int, same_clip_only: bool = False
) -> Tensor:
    """Symmetric cross-entropy of telling each speech's own lips, and each lips' own speech, in a batch.

    Args:
        similarity: (N, N) scaled cosines, speech by lips; the true pairs are on the diagonal.
        clip: (N,) clip of each window; start: (N,) its first frame. Windows of one clip under `min_distance` frames
            apart are no negatives of each other: they say almost the same.
        same_clip_only: windows of other clips are no negatives either, so that timing alone tells pairs apart.
    """
    same_clip = clip[:, None] == clip[None]
    left_out = same_clip & ((start[:, None] - start[None]).abs() < max(1, min_distance))
    if same_clip_only:
        left_out |= ~same_clip
    left_out.fill_diagonal_(False)
    logits = similarity.float().masked_fill(left_out, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def sync_loss(expert: SyncNet_color, mel: Tensor, faces: Tensor) -> Tensor:
    """The expert's cross-entropy with label 1: mel (B, 1, 80, 16), generated faces (B, 3, 5, H, W).

    The expert must be in eval mode: with batch statistics it would judge the batch, not the lips.
    """
    if expert.training:
        raise ValueError("the expert must be in eval mode inside the generator's loss")
    audio_embedding, face_embedding = expert(mel, _lips(expert, faces))
    return cosine_bce(audio_embedding, face_embedding, torch.ones(len(mel), 1, device=mel.device))


def lips_loss(expert: SyncNet_color, faces: Tensor, truth: Tensor) -> Tensor:
    """How far the expert's face encoder sees generated lips from the true ones: faces (B, 3, 5, H, W) each.

    A perceptual loss with the network that was trained to tell mouth shapes apart: mean over the encoder's
    resolutions of the L1 distance of its activations, each relative to the true ones' size.
    """
    with torch.no_grad():
        expected = _activations(expert, _lips(expert, truth))
    seen = _activations(expert, _lips(expert, faces))
    distances = [
        F.l1_loss(a.float(), b.float()) / b.float().abs().mean().clamp_min(1e-6)
        for a, b in zip(seen, expected, strict=True)
    ]
    return torch.stack(distances).mean()


def _activations(expert: SyncNet_color, lips: Tensor) -> list[Tensor]:
    """What the face encoder holds at the end of each of its resolutions."""
    kept = []
    for layer in expert.face_encoder:
        before, lips = lips, layer(lips)
        if before.shape[-2:] != lips.shape[-2:]:
            kept.append(before)
    return [*kept[1:], lips]  # without the pixels themselves


def _lips(expert: SyncNet_color, faces: Tensor) -> Tensor:
    """Lower halves stacked as the expert takes them, at its own size."""
    lips = stack_window(faces)
    height, width = expert.img_size[0] // 2, expert.img_size[1]
    if lips.shape[-2:] != (height, width):
        lips = F.interpolate(lips, (height, width), mode="bilinear", antialias=True)
    return lips


def reconstruction_loss(generated: Tensor, truth: Tensor, mouth_wt: float = 0.0) -> Tensor:
    """L1 distance of faces (..., H, W) in [0, 1]; pixels count 1 + `mouth_wt` at the mouth, 1 far from it."""
    if mouth_wt == 0:
        return F.l1_loss(generated.float(), truth)
    height, width = truth.shape[-2:]
    mouth = _bump(height, MOUTH[0], truth)[:, None] * _bump(width, MOUTH[1], truth)
    return ((generated.float() - truth).abs() * (1 + mouth_wt * mouth)).mean()


def _bump(size: int, place: tuple[float, float], like: Tensor) -> Tensor:
    """A Gaussian over `size` pixels, 1 at its middle: (middle, standard deviation) as shares of the size."""
    at = (torch.arange(size, device=like.device, dtype=torch.float32) + 0.5) / size
    return torch.exp(-(((at - place[0]) / place[1]) ** 2) / 2)


def perceptual_loss(discriminator: nn.Module, faces: Tensor) -> Tensor:
    """The discriminator's cross-entropy with label 1 on generated faces (B, 3, 5, H, W)."""
    return _adversarial(discriminator(faces), 1.0)


def discriminator_loss(discriminator: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropies on real (label 1) and on detached generated faces (label 0), each (B, 3, 5, H, W)."""
    judged = discriminator(torch.cat((real, fake.detach())))  # one pass: the network has no batch statistics
    on_real, on_fake = judged.view(-1, 2, len(real)).unbind(1)  # time-major: T x (real, fake) x B
    return _adversarial(on_real, 1.0), _adversarial(on_fake, 0.0)


def _adversarial(probability: Tensor, label: float) -> Tensor:
    return F.binary_cross_entropy(probability.float(), torch.full_like(probability, label, dtype=torch.float32))
