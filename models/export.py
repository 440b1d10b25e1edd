"""Make a small file for use out of a training checkpoint: weights alone, in half precision or in 8 bits.

    python -m models.export runs/wav2lip/checkpoint_best.pth checkpoints/mine.pth

With `--mean_with` it holds the mean of the weights of two runs from the same beginning, which often is as good as the
better of both in what each is good at (Wortsman et al., 2022: "Model soups").
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from errors import InputError, run_script
from models import SyncNet_color, Wav2Lip, Wav2Lip_disc_qual
from models.checkpoint import misfits_of, network_of, read_checkpoint, save_checkpoint

KINDS = (Wav2Lip, SyncNet_color, Wav2Lip_disc_qual)


@torch.no_grad()
def mean_of(network: nn.Module, other: nn.Module, path: Path) -> None:
    """Make the weights of a network the mean of its own and those of another, of a file `path`. Raises InputError."""
    mine, others = network.state_dict(), other.state_dict()
    if misfits_of(mine, others):
        raise InputError(f"checkpoint {path} is of another network or size: a mean takes two runs from one beginning")
    for name, value in mine.items():
        if value.is_floating_point():
            value.lerp_(others[name], 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description="Training checkpoint -> weights alone, in few bits")
    parser.add_argument("checkpoint", type=Path, help="of the generator, the expert or the discriminator")
    parser.add_argument("target", type=Path)
    parser.add_argument("--bits", type=int, choices=(16, 8), default=16, help="of a weight (default: %(default)s)")
    parser.add_argument("--mean_with", type=Path, metavar="CHECKPOINT", help="write the mean of the weights of both")
    args = parser.parse_args()
    paths = [args.checkpoint] if args.mean_with is None else [args.checkpoint, args.mean_with]
    network, *others = (network_of(read_checkpoint(path), path, KINDS) for path in paths)
    for other in others:
        mean_of(network, other, args.mean_with)
    save_checkpoint(args.target, network, args.bits)
    print(f"wrote {args.target}, {args.target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_script(main)
