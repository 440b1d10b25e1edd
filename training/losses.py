"""The losses of the three stages (paper sections 3.1, 3.4 and 3.5). All are computed in float32."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.discriminator import stack_window
from models.syncnet import SyncNet_color

MOUTH = ((0.78, 0.1), (0.5, 0.15))  # where the mouth is in a face crop, down and across: middle, standard deviation
CONTRAST = 10.0  # steepness: cosines differ by some tenths
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


class TeachersHeads(nn.Module):
    """What compares the expert with its teachers (`training.teachers`): linear maps of its embeddings to theirs.

    Args:
        embedding: channels of the expert's embeddings.
        taught: channels of the teachers'.
        img_size, width: of the expert; a checkpoint has them.
    """

    def __init__(self, embedding: int, taught: int, img_size: tuple[int, int] = (96, 96), width: float = 1.0):
        super().__init__()
        self.img_size, self.width = tuple(img_size), width
        self.to_seen, self.to_heard, self.as_heard = (nn.Linear(embedding, taught, bias=False) for _ in range(3))
        self.scale = nn.Parameter(torch.tensor(10.0).log())  # the logarithm of InfoNCE's factor on cosines

    def forward(
        self, speech: Tensor, lips: Tensor, heard: Tensor, seen: Tensor, clip: Tensor, start: Tensor, min_distance: int
    ) -> Tensor:
        """The loss of an expert's embeddings (N, D) by the teachers' of the same windows (N, D'), rows of which are not
        numbers where nothing is known: InfoNCE of speech with the teachers' lips and of lips with the teachers' speech,
        and how far speech is from being heard as they hear it (1 - cosine). Windows are given as to `info_nce`."""
        known = ~(heard.isnan() | seen.isnan()).any(1)
        if not known.any():
            return 0 * sum(
                part.sum() for part in (*self.parameters(), speech, lips)
            )  # processes wait for all gradients
        with torch.autocast(speech.device.type, enabled=False):
            speech, lips, heard, seen = (each[known].float() for each in (speech, lips, heard, seen))
            factor = self.scale.exp()
            by_lips, by_speech = (
                info_nce(factor * a @ b.T, clip[known], start[known], min_distance, same_clip_only=True)
                for a, b in (
                    (F.normalize(self.to_seen(speech), dim=1), seen),
                    (heard, F.normalize(self.to_heard(lips), dim=1)),
                )
            )
            return (by_lips + by_speech) / 2 + (1 - F.cosine_similarity(self.as_heard(speech), heard)).mean()


def sync_loss(expert: SyncNet_color, mel: Tensor, faces: Tensor) -> Tensor:
    """The expert's cross-entropy with label 1: mel (B, 1, 80, 16), generated faces (B, 3, 5, H, W).

    The expert must be in eval mode: with batch statistics it would judge the batch, not the lips.
    """
    return sync_of(hear(expert, mel), look(expert, faces)[-1])


def sync_of(heard: Tensor, seen: Tensor) -> Tensor:
    """The sync loss of embeddings (B, D) of speech and of lips."""
    return cosine_bce(heard, seen, torch.ones(len(heard), 1, device=heard.device))


def contrast_of(heard: Tensor, other: Tensor, seen: Tensor) -> Tensor:
    """Cross-entropy of telling which speech lips say, their own or their reference's; embeddings (B, D) each.

    Unlike the sync loss it cannot be lowered by patterns that please the expert whatever is said, nor by the
    reference's mouth; and its gradient is bounded.
    """
    own, others = (F.cosine_similarity(speech.float(), seen.float()) for speech in (heard, other))
    return F.softplus(CONTRAST * (others - own)).mean()


def lips_of(seen: list[Tensor], expected: list[Tensor]) -> Tensor:
    """How far generated lips are from the true ones, from what `look` gives for both.

    A perceptual loss with the network that was trained to tell mouth shapes apart: mean over its resolutions of the
    L1 distance of the activations, each relative to the true ones' size.
    """
    return relative_distance(seen, expected)


def relative_distance(found: list[Tensor], expected: list[Tensor]) -> Tensor:
    """Mean over maps of their L1 distance, each relative to the expected one's mean size."""
    distances = [
        F.l1_loss(a.float(), b.float()) / b.float().abs().mean().clamp_min(1e-6)
        for a, b in zip(found, expected, strict=True)
    ]
    return torch.stack(distances).mean()


def hear(expert: SyncNet_color, mel: Tensor) -> Tensor:
    """The expert's embedding (B, D) of speech: mel (B, 1, 80, 16)."""
    return _judging(expert).audio_encoder(mel).flatten(1)


def look(expert: SyncNet_color, faces: Tensor) -> list[Tensor]:
    """What the expert's face encoder holds at the end of each of its resolutions; at last the embedding (B, D).

    faces: (B, 3, 5, H, W); the expert is shown their lower halves at its own size.
    """
    lips = stack_window(at_size_of(expert, faces))
    kept = []
    for layer in _judging(expert).face_encoder:
        before, lips = lips, layer(lips)
        if before.shape[-2:] != lips.shape[-2:]:
            kept.append(before)
    return [*kept[1:], lips.flatten(1)]  # without the pixels themselves


def at_size_of(expert: SyncNet_color, faces: Tensor) -> Tensor:
    """Faces (B, 3, T, H, W) at the expert's own size, whatever their aspect: as its own crops come to that size.

    Antialiased and differentiable, so that every pixel of a larger face takes part.
    """
    if faces.shape[-2:] == expert.img_size:
        return faces
    flat = faces.float().transpose(1, 2).flatten(0, 1)  # (B x T, 3, H, W)
    resized = F.interpolate(flat, expert.img_size, mode="bilinear", antialias=True)
    return resized.unflatten(0, (len(faces), -1)).transpose(1, 2)


def _judging(expert: SyncNet_color) -> SyncNet_color:
    if expert.training:
        raise ValueError("the expert must be in eval mode inside the generator's loss")
    return expert


def reconstruction_loss(
    generated: Tensor, truth: Tensor, mouth_wt: float = 0.0, spoken_over: Tensor | None = None
) -> Tensor:
    """L1 distance of faces (B, 3, T, H, W) in [0, 1]; pixels count 1 + `mouth_wt` at the mouth, 1 far from it.

    In samples where `spoken_over` (B,) is true the truth says something else: the mouth does not count there.
    """
    error = (generated.float() - truth).abs()
    if spoken_over is not None:
        mouth_wt = torch.where(spoken_over, -1.0, mouth_wt).view(-1, 1, 1, 1, 1)
    elif mouth_wt == 0:
        return error.mean()
    return (error * (1 + mouth_wt * mouth_place(truth))).mean()


def shade_loss(generated: Tensor, truth: Tensor) -> Tensor:
    """Mean squared distance of the mouth's brightness in cells of a twelfth of the face: faces (..., H, W) in [0, 1].

    An open mouth is dark at large; the square lets frames count that are far off, and the cells leave sharpness and
    small movements of the head to the other losses.
    """
    error = (generated.float() - truth).mean(1).flatten(0, 1)  # (B x T, H, W), grey
    cells = F.avg_pool2d(error[:, None], (truth.shape[-2] // 12, truth.shape[-1] // 12))
    mouth = mouth_place(cells)
    return (cells.square() * mouth).mean() / mouth.mean()


def mouth_place(like: Tensor) -> Tensor:
    """(H, W): 1 at the mouth's usual place in a face crop, falling to 0 around it."""
    height, width = like.shape[-2:]
    return _bump(height, MOUTH[0], like)[:, None] * _bump(width, MOUTH[1], like)


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
