"""The first layers of Whisper's audio encoder as what hears mouths stands on (`models.speech_encoder`).

    python -m training.speech_encoder --whisper tiny.en.pt --outfile speech_encoder.pth

`tiny.en.pt` is the published file, to be had by `whisper.load_model("tiny.en")` of the package openai-whisper; its
address there names its SHA-256, which is checked. `checkpoints/speech_shape.pth` holds the outcome already: nothing
else needs this.
"""

from pathlib import Path

import torch

from errors import run_script
from models.speech_encoder import SpeechEncoder
from training.published import check_published, convert

DIGEST = "d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03"  # SHA-256 of tiny.en.pt
FILE = "tiny.en.pt"


def read_published(path: Path) -> SpeechEncoder:
    """The first layers with the weights of the published file. Raises InputError."""
    check_published(path, {DIGEST: FILE})
    published = torch.load(path, map_location="cpu", weights_only=True)["model_state_dict"]
    network = SpeechEncoder()
    network.load_state_dict({name: published[f"encoder.{name}"] for name in network.state_dict()})
    return network


def main() -> None:
    convert(read_published, 8, "--whisper", FILE, "Whisper's first layers as what hears mouths stands on")


if __name__ == "__main__":
    run_script(main)
