"""The mouth must follow the speech: one face is made to say several things, and must open as far as they sound.

L1 alone does not teach this. The reference is near enough to the truth to be copied, and what a mouth does beside what
can be heard of it drowns the rest: a speaker's openings follow from the sound with a correlation of 0.5 at most. Here
the target is what can be heard (`models.opening.SpeechOpening`), and only the difference that the speech makes to one
and the same face counts, so that nothing of the face is in the way.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.discriminator import lower_half
from models.opening import MouthOpening, SpeechOpening
from training import losses
from training.augment import jitter

OWN_SHARE = 0.3  # of a person's own mean opening that stays: the rest is the mean of all people


class Following(nn.Module):
    """Loss of generated mouths that open otherwise than their speech sounds.

    Args:
        seen, heard: frozen networks of a mouth's opening, of faces and of speech.
        gain: factor on what is heard, which varies less than mouths do.
    """

    def __init__(self, seen: MouthOpening, heard: SpeechOpening, gain: float):
        super().__init__()
        self.seen, self.heard, self.gain = seen, heard, gain

    def forward(self, batch: dict[str, Tensor], generator: nn.Module) -> tuple[Tensor, Tensor]:
        """The loss, and the L1 distance of what is not the mouth, over the middle frames of a batch.

        The batch holds `target` and `reference` (B, 3, T, H, W) and `speeches` (B, J, 1, 80, 16); with `jitter` faces
        are changed before they are looked at.
        """
        speeches, target = batch["speeches"], batch["target"]
        count = speeches.shape[1]
        faces = target[:, :, target.shape[2] // 2].repeat_interleave(count, 0)
        masked = faces.clone()
        lower_half(masked).zero_()
        spoken = generator(speeches.flatten(0, 1), torch.cat((masked, faces), dim=1)).float()
        around = ((spoken - faces).abs() * (1 - losses.mouth_place(faces))).mean()
        with torch.no_grad():
            expected = self.gain * (self.heard(speeches.flatten(0, 1)) / self.seen.std).view(-1, count)
            windows = torch.cat((target, batch["reference"]), dim=2)
            own = self.seen.standardised(windows.transpose(1, 2).flatten(0, 1)).view(len(target), -1)
            expected += OWN_SHARE * own.mean(1, keepdim=True)
        spoken = spoken.view(-1, count, *spoken.shape[1:])
        if "jitter" in batch:
            spoken = jitter(spoken.transpose(1, 2), batch["jitter"]).transpose(1, 2)
        opening = self.seen.standardised(_soft(spoken.flatten(0, 1))).view(-1, count)
        return _of_differences(opening, expected), around


def _of_differences(opening: Tensor, expected: Tensor) -> Tensor:
    """Smooth L1 of openings (B, J): of each from its face's mean, and of the means."""
    means = opening.mean(1, keepdim=True), expected.mean(1, keepdim=True)
    return F.smooth_l1_loss(opening - means[0], expected - means[1]) + F.smooth_l1_loss(*means)


def _soft(faces: Tensor) -> Tensor:
    """Faces without fine patterns, which could please the network that looks without being a mouth."""
    for _ in range(2):
        faces = F.avg_pool2d(F.pad(faces, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return faces
