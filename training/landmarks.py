"""How far mouths are open in a data set and where lips are, by a landmark model: what `training.opening` learns from.

    python -m training.landmarks --data_root packed --second_opinion face_mesh_plain.pth

The landmark model is `models.face_mesh`. The one without attention, which `training.face_mesh` reads, misses in other
ways: who has to know both openings hears better how mouths are.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from errors import run_script
from hparams import hparams
from models.checkpoint import load_face_mesh, load_network
from models.face_mesh import EYE_CORNERS, INNER_LIPS, LIP_POINTS, FaceMesh, PlainFaceMesh
from training.clips import add_data_arguments
from training.data import data_fps, load_clips
from training.labels import Labels, labels_paths
from whole import written_whole


def labels_of(
    face: np.ndarray, mesh: FaceMesh, second_opinion: PlainFaceMesh | None = None
) -> tuple[float, np.ndarray, float]:
    """The labels of a crop (H, W, 3) uint8 BGR."""
    points, presence = mesh.closely(face)
    if presence < 0:
        return float("nan"), np.full((len(LIP_POINTS), 2), np.nan), float("nan")
    opening = _opening(points, face)
    second = opening if second_opinion is None else _opening(second_opinion.closely(face)[0], face)
    return opening, points[list(LIP_POINTS)], second


def _opening(points: np.ndarray, face: np.ndarray) -> float:
    """The gap between the inner lips over the distance of the eyes."""
    pixels = points * face.shape[1::-1]
    gap, eyes = (np.linalg.norm(pixels[a] - pixels[b]) for a, b in (INNER_LIPS, EYE_CORNERS))
    return float(gap / eyes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Openings and lips of all mouths of a data set, by MediaPipe's Face Mesh"
    )
    add_data_arguments(parser)
    parser.add_argument("--second_opinion", type=Path, help="checkpoint of the mesh without attention")
    parser.add_argument("--splits", nargs="+", default=["train", "val"])
    args = parser.parse_args()
    mesh = load_face_mesh()
    second = None if args.second_opinion is None else load_network(PlainFaceMesh, args.second_opinion)
    for split in args.splits:
        hp = hparams.override(f"fps={data_fps(args.data_root, split)}")
        clips = load_clips(args.data_root, split, hp, 0, args.filelists)
        faces = (clip.face(at, hp.face_size) for clip in clips for at in range(len(clip.numbers)))
        total = sum(len(clip.numbers) for clip in clips)
        found = [labels_of(face, mesh, second) for face in tqdm(faces, total=total, desc=split, unit="crop")]
        labels = Labels(*(np.array(values, np.float32) for values in zip(*found, strict=True)))
        for path, values in zip(labels_paths(args.data_root, split), labels, strict=True):
            with written_whole(path) as aside, aside.open("wb") as file:
                np.save(file, values)
        unseen = np.isnan(labels.openings).mean()
        print(f"{split}: {total} crops, {unseen:.1%} of them without a face for the landmark model")


if __name__ == "__main__":
    run_script(main)
