"""What an expert says of right sound and of wrong sound: the scale of its confidences, and of the bounds that
`preprocessing/sync.py` sets on chance.

    python -m evaluation.chance --data_root packed --expert lipsync_expert.pth

The clips of a speaker are put one after the other, the lips beside their own sound and beside that of each other
speaker, and cut into pieces of some seconds.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import audio
from errors import InputError, run_script
from evaluation import sync
from evaluation.sync import TOLERANCE, Evidence
from hparams import hparams
from models import SyncNet_color
from models.checkpoint import DEFAULT_EXPERT, load_expert
from training.clips import Clip, add_data_arguments
from training.data import data_fps, load_clips

QUANTILES = (0.01, 0.05, 0.1, 0.5, 0.9, 0.95, 0.99)
MEASURES = ("z anywhere", "z at 0", "confidence")


class Track(NamedTuple):
    """The clips of a speaker, one after the other."""

    faces: np.ndarray  # (n, H, W, 3) uint8 BGR
    mel: np.ndarray  # (80, mel frames) as long as they


class Found(NamedTuple):
    """What pieces of sound were found to be: each (n,)."""

    anywhere: np.ndarray  # z of the confidence at the best of all offsets
    there: np.ndarray  # the same within a frame of 0
    confidence: np.ndarray  # at the best of all
    in_step: np.ndarray  # whether that is within a frame of 0


def tracks(clips: list[Clip], fps: float, img_size: tuple[int, int], seconds: float) -> dict[str, Track]:
    """By speaker, whose folder the clips lie in: as many clips without gaps as it takes to fill some seconds."""
    by: dict[str, list[Clip]] = {}
    for clip in clips:
        if (np.diff(clip.numbers) != 1).any():
            continue
        of = by.setdefault(clip.folder.parts[-2], [])
        if sum(len(each.numbers) for each in of) < seconds * fps:
            of.append(clip)
    return {speaker: _joined(of, fps, img_size) for speaker, of in by.items()}


def _joined(clips: list[Clip], fps: float, img_size: tuple[int, int]) -> Track:
    faces = [clip.face(at, img_size) for clip in clips for at in range(len(clip.numbers))]
    heard, end = [], 0
    for clip in clips:
        end += len(clip.numbers)
        first = audio.mel_start(int(clip.numbers[0]), fps)
        frames = audio.mel_start(end, fps) - sum(map(len, heard))  # rounded over all, so that nothing drifts
        mel = clip.mel[first : first + frames]
        heard.append(np.pad(mel, ((0, frames - len(mel)), (0, 0)), mode="edge"))
    return Track(np.stack(faces), np.concatenate(heard).T)


def found_in(distances: list[np.ndarray], frames: int) -> Found:
    """What whole pieces of so many frames say, of tracks' `sync.distances` (windows, 31)."""
    pieces = [each[at : at + frames] for each in distances for at in range(0, len(each) - frames + 1, frames)]
    evidence = [Evidence.of(piece) for piece in pieces]
    confidence = np.array([each.confidence(each.offset) for each in evidence])
    return Found(
        np.array([each.z(of) for each, of in zip(evidence, confidence, strict=True)]),
        np.array([each.z(each.confidence(0, TOLERANCE)) for each in evidence]),
        confidence,
        np.array([abs(each.offset) <= TOLERANCE for each in evidence]),
    )


def distances_of(expert: SyncNet_color, spoken: dict[str, Track], fps: float, right: bool) -> list[np.ndarray]:
    """The distances (windows, 31) of each speaker's lips to their own sound, or to that of each of the others."""
    pairs = [(a, b) for a, b in product(spoken, spoken) if (a == b) == right]
    found = []
    for seen, heard in tqdm(pairs, desc="right" if right else "wrong", unit="track", leave=False):
        faces, mel = spoken[seen].faces, spoken[heard].mel
        found.append(sync.distances(expert, faces[: int(mel.shape[1] * fps / audio.MEL_FRAMES_PER_SECOND)], mel, fps))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="What an expert says of right and of wrong sound")
    add_data_arguments(parser)
    parser.add_argument("--split", default="val")
    parser.add_argument("--expert", type=Path, default=DEFAULT_EXPERT)
    parser.add_argument("--speakers", nargs="+", help="folders of clips (default: all with enough of them)")
    parser.add_argument("--longest", type=float, default=60, help="seconds of a speaker (default: %(default)s)")
    parser.add_argument("--seconds", type=float, nargs="+", default=[2, 5, 10], help="of a piece (default: 2 5 10)")
    args = parser.parse_args()
    expert, fps = load_expert(args.expert), data_fps(args.data_root, args.split)
    clips = load_clips(args.data_root, args.split, hparams.override(f"fps={fps}"), 0, args.filelists)
    speakers = sorted({clip.folder.parts[-2] for clip in clips})
    if unknown := set(args.speakers or ()) - set(speakers):
        raise InputError(f"--speakers {' '.join(sorted(unknown))}: there are {' '.join(speakers)}")
    chosen = [clip for clip in clips if clip.folder.parts[-2] in (args.speakers or speakers)]
    frames = [round(seconds * fps) for seconds in args.seconds]
    joined = tracks(chosen, fps, expert.img_size, args.longest)
    spoken = {name: track for name, track in joined.items() if len(track.faces) > max(frames) + sync.SYNCNET_T}
    if len(spoken) < 2:
        raise InputError(
            f"fewer than two speakers have more than {max(args.seconds):g} seconds: give shorter --seconds"
        )
    print(f"{len(spoken)} speakers; quantiles {' '.join(f'{share:.0%}' for share in QUANTILES)}")
    for right in (True, False):
        distances = distances_of(expert, spoken, fps, right)
        for seconds, count in zip(args.seconds, frames, strict=True):
            found = found_in(distances, count)
            what = f"{'right' if right else 'wrong'} sound of {seconds:g} s"
            print(f"{what}: {len(found.confidence)} pieces, {found.in_step.mean():.0%} within a frame of 0")
            for name, values in zip(MEASURES, found[:3], strict=True):
                print(f"  {name:<11}", *(f"{value:7.3f}" for value in np.quantile(values, QUANTILES)))


if __name__ == "__main__":
    run_script(main)
