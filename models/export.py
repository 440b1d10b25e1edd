"""Make a small file for use out of a training checkpoint: weights alone, in half precision or in 8 bits.

python -m models.export runs/wav2lip/checkpoint_best.pth checkpoints/mine.pth
"""

import argparse
from pathlib import Path

from errors import run_script
from models import SyncNet_color, Wav2Lip, Wav2Lip_disc_qual
from models.checkpoint import network_of, read_checkpoint, save_checkpoint

KINDS = (Wav2Lip, SyncNet_color, Wav2Lip_disc_qual)


def main() -> None:
    parser = argparse.ArgumentParser(description="Training checkpoint -> weights alone, in few bits")
    parser.add_argument("checkpoint", type=Path, help="of the generator, the expert or the discriminator")
    parser.add_argument("target", type=Path)
    parser.add_argument("--bits", type=int, choices=(16, 8), default=16, help="of a weight (default: %(default)s)")
    args = parser.parse_args()
    checkpoint = read_checkpoint(args.checkpoint)
    save_checkpoint(args.target, network_of(checkpoint, args.checkpoint, KINDS), args.bits)
    print(f"wrote {args.target}, {args.target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_script(main)
