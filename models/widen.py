"""Make a wider network that computes what a narrow one does, so that training goes on where the narrow one stopped.

python -m models.widen checkpoints/wav2lip_small.pth wider.pth --width 0.5

The narrow network's channels come first and hear nothing from the new ones, whose own weights are freshly drawn: the
function is the same at the start, and the new channels have gradients from the first step on.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from errors import InputError, run_script
from models import SyncNet_color, Wav2Lip
from models.checkpoint import network_of, read_checkpoint, save_checkpoint

EMBEDDING_GAIN = 0.1  # of the expert's new embedding channels, which cannot be hidden: the cosine sees them all


def widen(narrow: nn.Module, width: float, seed: int = 0) -> nn.Module:
    """The same network with `width` x the published channels; equal outputs (the expert's: nearly equal).

    Raises InputError when `width` is not above the network's.
    """
    if width <= narrow.width:
        raise InputError(f"--width {width} is not above the network's {narrow.width}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wide = type(narrow)(narrow.img_size, width)
    if isinstance(narrow, Wav2Lip):
        wide.mel_lead_ms = narrow.mel_lead_ms
        wide.reference = narrow.reference
    sources = dict(narrow.named_modules())
    splits = _concatenations(narrow, wide)
    with torch.no_grad():
        for name, module in wide.named_modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                _widen_convolution(sources[name], module, splits.get(name))
            elif isinstance(module, nn.BatchNorm2d):
                for kind in ("weight", "bias", "running_mean", "running_var"):
                    old = getattr(sources[name], kind)
                    getattr(module, kind)[: len(old)] = old
        if isinstance(wide, SyncNet_color):
            for encoder in ("face_encoder", "audio_encoder"):
                norms = [m for m in getattr(wide, encoder).modules() if isinstance(m, nn.BatchNorm2d)]
                last = [m for m in getattr(narrow, encoder).modules() if isinstance(m, nn.BatchNorm2d)][-1]
                norms[-1].weight[last.num_features :] *= EMBEDDING_GAIN
    return wide.eval()


def _concatenations(narrow: nn.Module, wide: nn.Module) -> dict[str, tuple[int, int]]:
    """Convolutions that hear two concatenated inputs: channels of the first input, (narrow, wide), by name."""
    if not isinstance(narrow, Wav2Lip):
        return {}
    splits = {}
    blocks = list(zip(narrow.face_decoder_blocks, wide.face_decoder_blocks, strict=True))
    for level, pair in enumerate(blocks):
        channels = tuple(block[-1].conv_block[1].num_features for block in pair)
        follows = "output_block.0" if level + 1 == len(blocks) else f"face_decoder_blocks.{level + 1}.0"
        splits[f"{follows}.conv_block.0"] = channels
    return splits


def _widen_convolution(old: nn.Module, new: nn.Module, split: tuple[int, int] | None) -> None:
    transposed = isinstance(new, nn.ConvTranspose2d)
    source = old.weight.transpose(0, 1) if transposed else old.weight
    target = new.weight.transpose(0, 1) if transposed else new.weight  # views: (out, in, h, w)
    outputs, inputs = source.shape[:2]
    if split:
        kept = torch.cat((torch.arange(split[0]), split[1] + torch.arange(inputs - split[0])))
    else:
        kept = torch.arange(inputs)
    target[:outputs] = 0
    target[:outputs, kept] = source
    new.bias[:outputs] = old.bias


def main() -> None:
    parser = argparse.ArgumentParser(description="Checkpoint -> the same function with more channels to train")
    parser.add_argument("checkpoint", type=Path, help="of the generator or the expert")
    parser.add_argument("target", type=Path)
    parser.add_argument("--width", type=float, required=True, help="factor on the published channel counts")
    parser.add_argument("--seed", type=int, default=0, help="of the new channels' weights")
    args = parser.parse_args()
    narrow = network_of(read_checkpoint(args.checkpoint), args.checkpoint, (Wav2Lip, SyncNet_color))
    save_checkpoint(args.target, widen(narrow, args.width, args.seed))
    print(f"wrote {args.target}")


if __name__ == "__main__":
    run_script(main)
