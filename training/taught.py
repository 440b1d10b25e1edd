"""What the expert's teachers made of a training set (`training.teachers`), as its file holds it."""

from pathlib import Path

import numpy as np

from errors import InputError

TEACHERS = 3  # of different beginnings: the mean of their cosines is better than any
EMBEDDING = 128  # channels of each
TAUGHT = TEACHERS * EMBEDDING


def taught_path(data_root: Path) -> Path:
    """The file that holds what teachers make of the training split."""
    return data_root / "teachers_train.npz"


def read_taught(data_root: Path, crops: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """What teachers make of the windows that begin at each of the `crops` of each clip of the training split, of speech
    and of lips: (crops, `TAUGHT`) float16 each, not numbers where nothing is known. Raises InputError."""
    path = taught_path(data_root)
    if not path.is_file():
        raise InputError(f"{path} is missing: make it with training.teachers, or leave teachers_wt at 0")
    try:
        with np.load(path, allow_pickle=False) as file:
            heard, seen = file["heard"], file["seen"]
    except (ValueError, EOFError, KeyError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}): run training.teachers again") from error
    if not heard.shape == seen.shape == (sum(crops), TAUGHT):
        raise InputError(f"{path} is not of these {sum(crops)} crops: run training.teachers again")
    first = np.cumsum(crops)[:-1]
    return list(zip(np.split(heard, first), np.split(seen, first), strict=True))
