"""What a larger generated face is worth: generators of different face sizes on the same held-out faces, at one size.

    python -m evaluation.enlarged --data_root crops_288x192 --generators wav2lip_96.pth wav2lip_288x192.pth

Each generator sees the crops at its own size, with the references that it asks for (`Wav2Lip.reference`: another window
of the clip, or a mouth that fits the speech, as in inference), and is enlarged as inference does it; those that ask for
fitting references also with the detail of these (`--enhance detail`). Beside them stand such references' lower halves
put in unchanged, and the true faces shrunk to each smaller size and enlarged again: the most that a generator of that
size could reach by itself.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from crops import PUBLISHED_SIZE, ROUNDING, fit
from errors import InputError, run_script
from evaluation import metrics
from hparams import HParams, hparams
from lipsync.compositing import tempered, with_detail
from models import Wav2Lip
from models.checkpoint import load_generator
from models.conv import size_of
from models.discriminator import lower_half
from training.clips import add_data_arguments
from training.data import GeneratorDataset, collate, data_fps, load_clips
from training.stages import generator_input
from whole import write_text_whole, written_whole

MIN_DISTANCE = 5  # frames of 40 ms between a window and its reference
TRUTH = "truth"
Size = tuple[int, int]
Batch = dict[str, Tensor]


class Windows:
    """The same windows of the same clips at any face size: fixed by `seed`, `windows` of each clip."""

    def __init__(self, data_root: Path, split: str, filelists: Path, windows: int, seed: int):
        self.data_root, self.split, self.filelists, self.seed = data_root, split, filelists, seed
        self.windows, self._sets = windows, {}
        self._index, self._made = 0, {}  # the window asked for last, by size and reference

    def __len__(self) -> int:
        return self.windows * len(next(iter(self._sets.values())))

    def add(self, size: Size, reference: str) -> None:
        """Open the clips at a size (height, width), with references as a generator asks for them. Raises InputError
        when there are none."""
        if (size, reference) not in self._sets:
            hp = _settings(size, data_fps(self.data_root, self.split), reference)
            clips = load_clips(self.data_root, self.split, hp, GeneratorDataset.lead, self.filelists)
            self._sets[size, reference] = GeneratorDataset(clips, hp, self.seed, train=False)

    def at(self, size: Size, reference: str, index: int) -> Batch:
        """Window `index` as a batch of one: `target` and `reference` (1, 3, 5, H, W) in [0, 1], and the mels."""
        if index != self._index:
            self._index, self._made = index, {}
        if (size, reference) not in self._made:
            batch = collate([self._sets[size, reference][index]])
            self._made[size, reference] = {
                name: value.float() / 255 if value.dtype == torch.uint8 else value for name, value in batch.items()
            }
        return self._made[size, reference]


def _settings(size: Size, fps: float, reference: str) -> HParams:
    fitting = reference == "fitting"
    return dataclasses.replace(
        hparams, min_negative_distance=MIN_DISTANCE, img_size=size, fps=fps, fitting_references=fitting
    )


@torch.inference_mode()
def compare(
    windows: Windows, generators: dict[str, Wav2Lip], size: Size, columns: int = 0
) -> tuple[dict[str, dict[str, float]], np.ndarray | None]:
    """Figures of each generator and of what it is measured against, at `size`; and pictures of `columns` windows.

    Returns:
        name -> `psnr` (dB) and `ssim` of the lower half, `sharpness` of the lower half and `sharpness_mouth` as shares
        of the true faces' (`metrics.sharpness`); and the middle frames, (rows x H, columns x W, 3) uint8 BGR, a row for
        each name and the truth below, or None without columns.

    Raises InputError for a generator that sees another part of the face than `size` does.
    """
    for name, generator in generators.items():
        _check_aspect(name, generator.img_size, size)
    for generator in generators.values():
        windows.add(generator.img_size, generator.reference)
        windows.add(size, generator.reference)
    rows = _rows(windows, generators, size)
    sums: dict[str, dict[str, float]] = {name: {} for name in (*rows, TRUTH)}
    shown = {int(at) for at in np.linspace(0, len(windows) - 1, columns)} if columns else set()
    pictures: list[np.ndarray] = []
    for index in tqdm(range(len(windows)), unit="window", leave=False):
        truth = windows.at(size, next(iter(generators.values())).reference, index)["target"]
        column = []
        for name, make in {**rows, TRUTH: lambda *_, faces=truth: faces}.items():
            faces = make(index, truth)
            for figure, value in _figures(faces, truth).items():
                sums[name][figure] = sums[name].get(figure, 0.0) + value
            column.append(_bgr(faces)[faces.size(2) // 2])
        if index in shown:
            pictures.append(np.concatenate(column))
    true = sums.pop(TRUTH)
    figures = {
        name: {
            figure: total / (true[figure] if figure.startswith("sharpness") else len(windows))
            for figure, total in totals.items()
        }
        for name, totals in sums.items()
    }
    return figures, np.concatenate(pictures, axis=1) if pictures else None


def _check_aspect(name: str, img_size: Size, size: Size) -> None:
    if img_size != PUBLISHED_SIZE and abs(img_size[0] * size[1] / size[0] - img_size[1]) > ROUNDING:
        seen, asked = ("x".join(map(str, sides)) for sides in (img_size, size))
        raise InputError(f"{name} sees faces of {seen}, not of the aspect of {asked}: compare it at one of its own")


def _rows(windows: Windows, generators: dict[str, Wav2Lip], size: Size) -> dict[str, Callable[[int, Tensor], Tensor]]:
    """By name, what makes faces (1, 3, 5, H, W) at `size` of a window's number and its true faces."""

    def through(smaller: Size, index: int, truth: Tensor) -> Tensor:
        return _resized(_resized(truth, smaller), size)

    def copied(reference: str, index: int, truth: Tensor) -> Tensor:
        faces = truth.clone()
        lower_half(faces).copy_(lower_half(windows.at(size, reference, index)["reference"]))
        return faces

    def generated(generator: Wav2Lip, index: int, truth: Tensor) -> Tensor:
        batch = windows.at(generator.img_size, generator.reference, index)
        return _resized(generator(batch["indiv_mels"], generator_input(batch)), size)

    def detailed(generator: Wav2Lip, index: int, truth: Tensor) -> Tensor:
        references = _bgr(windows.at(size, generator.reference, index)["reference"])
        seen = _faces(np.stack([fit(reference, generator.img_size) for reference in references]))
        batch = {**windows.at(generator.img_size, generator.reference, index), "reference": seen}
        generated = _bgr(generator(batch["indiv_mels"], generator_input(batch)))
        pairs = zip(generated, references, strict=True)
        return _faces(np.stack([with_detail(tempered(face, reference), reference) for face, reference in pairs]))

    rows: dict[str, Callable[[int, Tensor], Tensor]] = {}
    for reference in sorted({generator.reference for generator in generators.values()}):
        rows[f"{reference} reference, copied"] = lambda *window, kind=reference: copied(kind, *window)
    for name, generator in generators.items():
        rows[name] = lambda *window, network=generator: generated(network, *window)
        if generator.reference == "fitting" and generator.img_size != size:
            rows[f"{name}, with detail"] = lambda *window, network=generator: detailed(network, *window)
    for smaller in sorted({generator.img_size for generator in generators.values()} - {size}):
        name = f"truth through {smaller[0]}x{smaller[1]}"
        rows[name] = lambda *window, smaller=smaller: through(smaller, *window)
    return rows


def _figures(faces: Tensor, truth: Tensor) -> dict[str, float]:
    return {
        "psnr": float(metrics.psnr_lower(faces, truth)),
        "ssim": float(metrics.ssim_lower(faces, truth)),
        "sharpness": float(metrics.sharpness(lower_half(faces))),
        "sharpness_mouth": float(metrics.sharpness(metrics.mouth_of(faces))),
    }


def _bgr(faces: Tensor) -> np.ndarray:
    """(1, 3, T, h, w) in [0, 1] -> (T, h, w, 3) uint8."""
    return (faces[0].float() * 255).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()


def _resized(faces: Tensor, size: Size) -> Tensor:
    """Faces (1, 3, T, h, w) as 8-bit pictures brought to (height, width) as inference brings them into a frame."""
    pictures = _bgr(faces)
    if pictures.shape[1:3] != size:
        way = cv2.INTER_CUBIC if size[0] * size[1] > pictures.shape[1] * pictures.shape[2] else cv2.INTER_AREA
        pictures = np.stack([cv2.resize(picture, size[::-1], interpolation=way) for picture in pictures])
    return _faces(pictures)


def _faces(pictures: np.ndarray) -> Tensor:
    """(T, h, w, 3) uint8 -> (1, 3, T, h, w) in [0, 1]."""
    return torch.from_numpy(pictures).permute(3, 0, 1, 2)[None].float() / 255


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Generators of different face sizes on the same faces, at one size")
    add_data_arguments(parser, "preprocess.py --img_size, or a pack")
    parser.add_argument("--split", default="val")
    parser.add_argument("--generators", type=Path, nargs="+", required=True, help="checkpoints")
    parser.add_argument("--img_size", metavar="HxW", help="compare at this size (default: the last generator's)")
    parser.add_argument("--windows", type=int, default=8, help="of each clip (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of windows")
    parser.add_argument("--strips", type=Path, help="write pictures of the rows here, the truth below them")
    parser.add_argument("--columns", type=int, default=4, help="of --strips (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args(argv)
    if min(args.windows, args.columns) < 1:
        raise InputError("--windows and --columns take numbers from 1")
    if args.strips and not cv2.haveImageWriter(args.strips.name):
        raise InputError(f"--strips {args.strips} does not end like a picture: give such as strips.png")
    generators = {str(path): load_generator(path).eval() for path in args.generators}
    size = size_of(args.img_size) if args.img_size else generators[str(args.generators[-1])].img_size
    windows = Windows(args.data_root, args.split, args.filelists, args.windows, args.seed)
    figures, pictures = compare(windows, generators, size, args.columns if args.strips else 0)
    print(f"{len(windows)} windows at {size[0]}x{size[1]}; sharpness: share of the truth's, lower half and mouth")
    wide = max(map(len, figures))
    for name, values in figures.items():
        shown = "  ".join(f"{figure} {value:.3f}" for figure, value in values.items())
        print(f"  {name:<{wide}}  {shown}")
    if args.json:
        write_text_whole(args.json, json.dumps(figures, indent=2) + "\n")
    if args.strips:
        with written_whole(args.strips) as aside:
            aside.write_bytes(cv2.imencode(args.strips.suffix, pictures)[1])


if __name__ == "__main__":
    run_script(main)
