"""Where training may start: the generator as a copy of its reference, hearing with the expert's ears; the quality
discriminator with weights that let differences through.

A generator drawn at random spends its first thousands of steps on learning to let colours through. One that starts as
the target's upper half above the reference's lower half has only the difference left to learn: the mouth and the pose.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from errors import warn
from models import SyncNet_color, Wav2Lip, Wav2Lip_disc_qual
from models.grow import colour_path

COLOURS = 3
PICTURES = slice(-2 * COLOURS, None)
STEEPNESS = 5.0  # of the output's sigmoid at 0.5: dark and bright ends are bent by 0.08 at most
GATE = 4.0  # how strongly the masked target, where it is not zero, shuts the reference out
MUCH = 0.03  # more of L1 by batch statistics than by those that a checkpoint holds, which says that it held them

FirstFrames = tuple[Tensor, Tensor, Tensor]
"""Mel windows (B, 1, 80, 16), generator inputs (B, 6, H, W) and targets (B, 3, H, W) to try weights on."""


@torch.no_grad()
def start_as_copy(generator: Wav2Lip) -> None:
    """Set the colour path's weights so that the output is the target's upper half above the reference's lower half.

    The last six channels of either block hold the two pictures. The blocks' batch norms pass everything through and
    must stay in eval mode in training: batch statistics would shift the colours of every picture by those of others.
    """
    first, last = colour_path(generator)
    for block in (first, last):
        block.conv_block[1].reset_parameters()
        block.conv_block[1].reset_running_stats()
    convolution, mixing, output = first.conv_block[0], last.conv_block[0], generator.output_block[1]
    centre = convolution.kernel_size[0] // 2
    convolution.weight[PICTURES] = 0
    convolution.bias[PICTURES] = 0
    mixing.weight[PICTURES] = 0
    mixing.bias[PICTURES] = 0
    output.weight *= 0.1
    output.bias[:] = -STEEPNESS / 2
    for colour in range(COLOURS):
        target, reference = colour - 2 * COLOURS, colour - COLOURS  # counted from the last channel
        convolution.weight[target, colour, centre, centre] = 1
        convolution.weight[reference, COLOURS + colour, centre, centre] = 1
        mixing.weight[target, target, 1, 1] = 1
        mixing.weight[reference, reference, 1, 1] = 1
        mixing.weight[reference, -2 * COLOURS : -COLOURS, 1, 1] = -GATE
        output.weight[:, [target, reference]] = 0
    for colour in range(COLOURS):
        output.weight[colour, [colour - 2 * COLOURS, colour - COLOURS]] = STEEPNESS


@torch.no_grad()
def hear_like(generator: Wav2Lip, expert: SyncNet_color) -> bool:
    """Copy the expert's audio encoder, which has one residual block more at 256 channels, where the widths match."""
    if generator.width != expert.width:
        return False
    last_residual = max(i for i, block in enumerate(expert.audio_encoder) if block.residual)
    blocks = [block for i, block in enumerate(expert.audio_encoder) if i != last_residual]
    for mine, theirs in zip(generator.audio_encoder, blocks, strict=True):
        mine.load_state_dict(theirs.state_dict())
    return True


def hold_colours(generator: Wav2Lip) -> None:
    """Keep the colour path's batch norms in eval mode, after `generator.train()`."""
    for block in colour_path(generator):
        block.conv_block[1].eval()


@torch.no_grad()
def keep_variance(discriminator: Wav2Lip_disc_qual) -> None:
    """Draw weights that keep the variance of what passes (He et al., 2015), and a verdict near 0.5.

    Without normalisation, PyTorch's own first weights let a 50,000th of a difference between pictures through its
    layers: for some thousand steps such a discriminator tells nothing apart.
    """
    for layer in discriminator.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=0.01, nonlinearity="leaky_relu")
            nn.init.zeros_(layer.bias)
    discriminator.binary_pred[0].weight *= 0.1


@torch.no_grad()
def l1(generator: Wav2Lip, first: FirstFrames) -> float:
    """Mean distance of what a generator paints from the targets."""
    mels, faces, target = first
    return float((generator(mels, faces) - target).abs().mean())


def compare_statistics(path: Path, generator: Callable[[bool], Wav2Lip], first: FirstFrames) -> None:
    """Say so where batches have other statistics than the weights of a file were last taught with.

    Args:
        generator: makes one that uses the statistics of its batch (True), or those that it holds.
    """
    held, of_batches = (l1(generator(training), first) for training in (False, True))
    if of_batches > held + MUCH:
        warn(
            f"{path} paints worse in training (L1 {of_batches:.3f}) than in use ({held:.3f}): its batch norms held "
            "their statistics while it was taught; learn on with --hparams hold_statistics=True"
        )
