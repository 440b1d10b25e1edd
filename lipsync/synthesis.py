"""The generator at work: face crops and mel windows in, faces that say the speech out (paper section 3.4)."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

import crops
from errors import InputError
from models.checkpoint import DEFAULT_GENERATOR, load_generator
from models.cpu import for_cpu
from models.fuse import fold_batch_norm

CPU_BATCH = 8  # frames a batch on the CPU: larger ones are no faster and only come later
CPU_PIXELS = CPU_BATCH * 192 * 192  # of the faces of a batch on the CPU: larger faces come in smaller batches
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Synthesizer:
    """A generator ready to run on batches, in any number of threads.

    Args:
        checkpoint: generator weights; None for the shipped ones.
        device: where it runs.
        precision: a key of `PRECISIONS`.
    """

    def __init__(self, checkpoint: Path | None, device: torch.device, precision: str = "fp32"):
        model = load_generator(checkpoint or DEFAULT_GENERATOR, device)
        self._model = fold_batch_norm(model).to(memory_format=torch.channels_last)
        self._device, self._dtype = device, PRECISIONS[precision]
        if device.type == "cpu" and self._dtype is None:
            count = cpu_batch(model.img_size)
            self._model = for_cpu(self._model, torch.empty(count, 1, 80, 16), torch.empty(count, 6, *model.img_size))
        if self._dtype is None:  # TF32 on a GPU rounds to 10 bits: not the published numbers
            torch.backends.cudnn.allow_tf32 = False
        self.face_size: tuple[int, int] = model.img_size  # (height, width) in pixels
        self.mel_lead_ms = model.mel_lead_ms
        self.reference = model.reference  # what --reference auto means

    def fit(self, crop: np.ndarray) -> np.ndarray:
        """A face of any size, (h, w, 3) uint8 BGR, at the generator's size."""
        return crops.fit(crop, self.face_size)

    @torch.inference_mode()
    def __call__(self, inputs: Sequence[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
        """Generate faces.

        `inputs`: a face (H, W, 3) uint8 BGR of the generator's size and a mel window (80, 16) float32 each, and where
        a face is not its own reference, the reference like the face.
        Returns as many faces (H, W, 3) uint8 BGR; fractions are cut off, as published.
        """
        faces = np.stack([given[0] for given in inputs])
        references = np.stack([given[2] if len(given) > 2 else given[0] for given in inputs])
        masked = faces.copy()
        masked[:, self.face_size[0] // 2 :] = 0
        stacked = torch.from_numpy(np.concatenate((masked, references), axis=3)).to(self._device)
        stacked = stacked.permute(0, 3, 1, 2).float() / 255  # (N, 6, H, W), channels last in memory
        mels = torch.from_numpy(np.stack([given[1] for given in inputs])[:, None]).to(self._device)  # (N, 1, 80, 16)
        half = torch.autocast(self._device.type, self._dtype) if self._dtype else nullcontext()
        with half:
            generated = self._model(mels, stacked)
        pixels = (generated.float() * 255).to(torch.uint8)
        return list(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy())


def cpu_batch(face_size: tuple[int, int]) -> int:
    """Frames a batch on the CPU, of faces of (height, width): at most `CPU_BATCH`."""
    return max(1, min(CPU_BATCH, CPU_PIXELS // math.prod(face_size)))


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is the first CUDA device or else the CPU. Raises InputError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"--device {name} is not available on this machine: use cpu or auto") from error
    return device
