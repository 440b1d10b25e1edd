"""The published procedure, built from this repository's parts: what the speed is compared with.

S3FD on every frame at full size, then the generator as it was trained in batches of up to 128, the whole box pasted,
everything written, and that file encoded: one after the other, all frames in memory.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from audio import load_mel
from face_detection.detection.sfd import SFDDetector, weights_path
from face_detection.detection.sfd.net_s3fd import s3fd
from lipsync.compositing import paste
from lipsync.pipeline import mel_windows
from lipsync.synthesis import Synthesizer
from lipsync.video import FrameReader, VideoWriter
from models.checkpoint import DEFAULT_GENERATOR, load_generator

BATCH = 128
DETECTOR_BATCH = 4  # frames; on a CPU larger ones are no faster
PRESET = "medium"  # FFmpeg's own default


class AsTrained(Synthesizer):
    """The generator with its batch norm, in the memory layout that it was trained in."""

    def __init__(self, checkpoint: Path | None):
        super().__init__(checkpoint, torch.device("cpu"))
        self._model = load_generator(checkpoint or DEFAULT_GENERATOR)


def random_s3fd() -> nn.Module:
    """S3FD whose numbers keep their size from layer to layer, since arithmetic on vanishing ones would be slower.

    It finds no face anywhere: sorting out thousands of random ones would take longer than the network.
    """
    network = s3fd()
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if name.endswith("conf"):
                nn.init.zeros_(module.weight)
                module.bias.data.fill_(0)[-1] = -10
    return network


def published_procedure(
    video: Path, speech: Path, checkpoint: Path | None, folder: Path, frames: int
) -> Callable[[], None]:
    """A call that runs the procedure on the first `frames` frames; networks are loaded before.

    S3FD has random weights where its own are not there, and finds nothing: the box is then a constant one, since what
    it costs does not depend on what it finds.
    """
    weights = weights_path()
    if weights is None:
        weights = folder / "random_s3fd.pth"
        torch.save(random_s3fd().state_dict(), weights)
    detector, generator = SFDDetector(weights_path=weights), AsTrained(checkpoint)

    def call() -> None:
        reader = FrameReader(video)
        held = [frame for _, frame in zip(range(frames), reader, strict=False)]
        reader.close()
        windows = mel_windows(load_mel(speech), reader.fps)[: len(held)]
        for start in range(0, len(held), DETECTOR_BATCH):
            detector.detect(held[start : start + DETECTOR_BATCH])
        height, width = held[0].shape[:2]
        box = (width // 3, height // 5, 2 * width // 3, 4 * height // 5)
        x1, y1, x2, y2 = box
        inputs = [(generator.fit(frame[y1:y2, x1:x2]), window) for frame, window in zip(held, windows, strict=True)]
        with VideoWriter(folder / "written.mkv", (height, width), reader.fps, lossless=True) as writer:
            for start in range(0, len(inputs), BATCH):
                for frame, face in zip(held[start:], generator(inputs[start : start + BATCH]), strict=False):
                    paste(frame, face, box)
                    writer.write(np.ascontiguousarray(frame))
        with VideoWriter(folder / "result.mp4", (height, width), reader.fps, speech, preset=PRESET) as writer:
            for frame in FrameReader(folder / "written.mkv"):
                writer.write(frame)

    return call
