"""How far mouths are open in a data set and where lips are, by a landmark model: what `training.opening` learns from.

    python3 -m venv landmarks && landmarks/bin/pip install mediapipe==0.10.21 torch==2.13.0 tqdm
    landmarks/bin/python -m training.landmarks --data_root packed

MediaPipe's Face Mesh (Apache-2.0) comes with its weights, but wants an older NumPy than the rest of this toolkit: hence
an environment of its own. Nothing else needs it.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from errors import InputError, run_script
from hparams import hparams
from models.opening import LIP_POINTS
from training.clips import FILELISTS
from training.data import data_fps, load_clips
from whole import written_whole

INNER_LIPS = 13, 14  # of Face Mesh's points: middle of the upper and of the lower inner lip
EYE_CORNERS = 33, 263  # the outer ones
SEEN_SIZE = 384  # pixels a side of the padded crop as the landmark model sees it


class Labels(NamedTuple):
    """What is known of crops, in the order of their clips; NaN where no face was found."""

    openings: np.ndarray  # (crops,) float32: the gap between the inner lips over the distance of the eyes
    lips: np.ndarray  # (crops, 11, 2) float32: `LIP_POINTS`, x over the crop's width and y over its height

    @property
    def widths(self) -> np.ndarray:
        """(crops,): from one corner of the mouth to the other, in widths of a square crop."""
        return np.linalg.norm(self.lips[:, 0] - self.lips[:, 1], axis=1)


def labels_paths(data_root: Path, split: str) -> Labels:
    """The files that hold the labels of a split."""
    return Labels(*(data_root / f"{name}_{split}.npy" for name in Labels._fields))


def landmark_model() -> Callable[[np.ndarray], np.ndarray | None]:
    """A function from a picture (H, W, 3) uint8 RGB to its points (468, 2) in pixels, or None. Raises InputError."""
    try:
        from mediapipe import solutions
    except ImportError as error:
        raise InputError(
            f"{error}: training.landmarks runs in an environment of its own, see its first lines"
        ) from error
    mesh = solutions.face_mesh.FaceMesh(static_image_mode=True, max_num_faces=1, min_detection_confidence=0.2)

    def points(picture: np.ndarray) -> np.ndarray | None:
        found = mesh.process(picture).multi_face_landmarks
        if not found:
            return None
        return np.array([(point.x, point.y) for point in found[0].landmark]) * picture.shape[1::-1]

    return points


def labels_of(face: np.ndarray, points_of: Callable[[np.ndarray], np.ndarray | None]) -> tuple[float, np.ndarray]:
    """The labels of a crop (H, W, 3) uint8 BGR.

    The crop is padded by its edge, since the landmark model looks for a face with something around it.
    """
    height, width = face.shape[:2]
    padded = cv2.copyMakeBorder(face, height // 3, height // 3, width // 3, width // 3, cv2.BORDER_REPLICATE)
    scale = SEEN_SIZE / padded.shape[0]
    points = points_of(cv2.resize(padded, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)[:, :, ::-1])
    if points is None:
        return float("nan"), np.full((len(LIP_POINTS), 2), np.nan)
    gap, eyes = (np.linalg.norm(points[a] - points[b]) for a, b in (INNER_LIPS, EYE_CORNERS))
    lips = points[list(LIP_POINTS)] / scale - (width // 3, height // 3)
    return float(gap / eyes), lips / (width, height)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Openings and lips of all mouths of a data set, by MediaPipe's Face Mesh"
    )
    parser.add_argument("--data_root", type=Path, required=True, help="output of preprocess.py, or of training.pack")
    parser.add_argument("--filelists", type=Path, default=FILELISTS, help="folder of <split>.txt; a pack has its own")
    parser.add_argument("--splits", nargs="+", default=["train", "val"])
    args = parser.parse_args()
    points_of = landmark_model()
    for split in args.splits:
        hp = hparams.override(f"fps={data_fps(args.data_root, split)}")
        clips = load_clips(args.data_root, split, hp, 0, args.filelists)
        faces = (clip.face(at, hp.face_size) for clip in clips for at in range(len(clip.numbers)))
        total = sum(len(clip.numbers) for clip in clips)
        found = [labels_of(face, points_of) for face in tqdm(faces, total=total, desc=split, unit="crop")]
        labels = Labels(*(np.array(values, np.float32) for values in zip(*found, strict=True)))
        for path, values in zip(labels_paths(args.data_root, split), labels, strict=True):
            with written_whole(path) as aside, aside.open("wb") as file:
                np.save(file, values)
        unseen = np.isnan(labels.openings).mean()
        print(f"{split}: {total} crops, {unseen:.1%} of them without a face for the landmark model")


if __name__ == "__main__":
    run_script(main)
