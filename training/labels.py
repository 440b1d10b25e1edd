"""What landmark models say of a data set's crops (`training.landmarks`), as its files hold it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from errors import InputError
from training.clips import Clip


class Labels(NamedTuple):
    """What is known of crops, in the order of their clips; NaN where no face was found."""

    openings: np.ndarray  # (crops,) float32: the gap between the inner lips over the distance of the eyes
    lips: np.ndarray  # (crops, 11, 2) float32: `LIP_POINTS`, x over the crop's width and y over its height
    second: np.ndarray  # (crops,) float32: openings by the second opinion, or the first ones again

    @property
    def widths(self) -> np.ndarray:
        """(crops,): from one corner of the mouth to the other, in widths of a square crop."""
        return np.linalg.norm(self.lips[:, 0] - self.lips[:, 1], axis=1)


def labels_paths(data_root: Path, split: str) -> Labels:
    """The files that hold the labels of a split."""
    return Labels(*(data_root / f"{name}_{split}.npy" for name in Labels._fields))


def read_labels(data_root: Path, split: str, clips: list[Clip]) -> Labels:
    """The labels of all crops of a split's clips. Raises InputError."""
    paths = labels_paths(data_root, split)
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path} is missing: make it with training.landmarks")
    labels = Labels(*map(_read, paths))
    crops = sum(len(clip.numbers) for clip in clips)
    for path, values in zip(paths, labels, strict=True):
        if len(values) != crops:
            raise InputError(f"{path} is of {len(values)} crops and not of {crops}: run training.landmarks again")
    return labels


def give_lips(data_root: Path, split: str, clips: list[Clip]) -> None:
    """Tell a split's clips where their lips are, if `training.landmarks` has looked at just these crops. Raises
    InputError where its file is damaged."""
    path = labels_paths(data_root, split).lips
    if not path.is_file():
        return
    lips, counts = _read(path), [len(clip.numbers) for clip in clips]
    if len(lips) != sum(counts):
        tqdm.write(f"{path} is of {len(lips)} crops and not of {sum(counts)}: lips are looked for anew")
        return
    for clip, found in zip(clips, np.split(lips, np.cumsum(counts)[:-1]), strict=True):
        clip.lips = found


def _read(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}): run training.landmarks again") from error
