"""How well raw videos are repaired: good clips are damaged on purpose and go through `preprocess.py --raw`.

    python -m benchmarks.raw_videos --data_root mvlrs_v1/main --folders 6012 6017 6021 6024

Each folder holds short clips of one speaker, all in sync. They are joined to longer videos, whose sound is shifted by
known amounts and whose frame rates differ, or get another speaker's sound or none. What comes out is compared with what
was done to them.
"""

import argparse
import csv
import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np

from benchmarks.damage import FPS, SAMPLES, VARIABLE, Joined, joined, shifted, write_source
from errors import InputError, run_script
from models.checkpoint import DEFAULT_EXPERT
from preprocessing.options import RawOptions
from preprocessing.raw import preprocess_raw
from preprocessing.report import CLIPS, KEPT
from preprocessing.shots import Shots

RATES = {
    "24": Fraction(24),
    "29.97": Fraction(30000, 1001),
    "30": Fraction(30),
    "50": Fraction(50),
    "60": Fraction(60),
    "variable": VARIABLE,
}
CONTAINERS = (".mp4", ".mkv", ".mov")
MOST_SHIFT = 12  # frames
CLIP_SECONDS = (2.0, 4.0)  # so that a source holds several clips, which are judged alone and together


def pieces(material: Joined, seconds: float) -> Iterator[Joined]:
    """Whole pieces of a length."""
    frames, sound = material
    length = round(seconds * FPS)
    for first in range(0, len(frames) - length + 1, length):
        yield frames[first : first + length], sound[first * SAMPLES : (first + length) * SAMPLES]


def preprocessed(raw: Path, out: Path, expert: Path, shots: str = "off") -> list[dict]:
    """The rows of clips.csv."""
    options = RawOptions(
        raw, out, syncnet_checkpoint_path=expert, clip_seconds=CLIP_SECONDS, shots=shots, workers=1, min_sharpness=0
    )
    try:
        preprocess_raw(options)
    except InputError as error:  # nothing was kept, as it should be
        print(error)
    with (out / CLIPS).open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["offset"]]


def in_turn(speakers: dict[str, Joined], seconds: float) -> Iterator[tuple[str, Joined]]:
    """The first piece of each speaker, then the second of each, ..."""
    for row in zip_longest(*(pieces(material, seconds) for material in speakers.values())):
        yield from ((name, piece) for name, piece in zip(speakers, row, strict=True) if piece is not None)


def shifts_and_rates(
    speakers: dict[str, Joined], seconds: float, folder: Path, expert: Path, most: int | None = None
) -> None:
    """Every shift from -12 to 12 in turn, every frame rate in turn, for at most `most` sources."""
    done: dict[str, tuple[int, str]] = {}
    for count, (name, piece) in enumerate(islice(in_turn(speakers, seconds), most)):
        shift = (count * 7) % (2 * MOST_SHIFT + 1) - MOST_SHIFT
        rate = list(RATES)[count % len(RATES)]
        source = f"{name}_{count}{CONTAINERS[count % 3]}"
        write_source(folder / "raw" / source, (piece[0], shifted(piece[1], shift)), RATES[rate])
        done[source] = shift, rate
    rows = preprocessed(folder / "raw", folder / "out", expert)
    errors = {kind: [abs(int(row[kind]) - done[row["source"]][0]) for row in rows] for kind in ("own_offset", "offset")}
    kept = [row["result"] == KEPT for row in rows]
    share = f"{len(rows)} clips of {len(done)} sources of {seconds:g} s, {np.mean(kept):.1%} kept"
    print(f"\nshifted by -12 to 12 frames, 24 to 60 frames a second and variable: {share}")
    for kind, what in (("own_offset", "each clip alone"), ("offset", f"with its neighbours in {seconds:g} s")):
        values = np.array(errors[kind])
        print(f"  {what}: exact {np.mean(values == 0):.1%}, within a frame {np.mean(values <= 1):.1%}")
    right = np.array(errors["offset"])[kept] <= 1
    print(f"  of those kept, within a frame {np.mean(right):.1%}")
    for rate in RATES:
        at = [error <= 1 for error, row in zip(errors["offset"], rows, strict=True) if done[row["source"]][1] == rate]
        print(f"    {rate:>8}: {sum(at)} of {len(at)}")
    for row, error, is_kept in zip(rows, errors["offset"], kept, strict=True):
        if error > 1 or not is_kept:
            shift, rate = done[row["source"]]
            print(f"  miss: {row['clip']} at {rate}: {row['offset']} for {shift}, {row['confidence']}, {row['result']}")


def wrong_voices(speakers: dict[str, Joined], seconds: float, folder: Path, expert: Path) -> None:
    """Every face with another's voice; every third one mute."""
    names = list(speakers)
    count = 0
    for k, name in enumerate(names):
        _, other = speakers[names[(k + 1) % len(names)]]
        for place, (frames, _) in enumerate(pieces(speakers[name], seconds)):
            if (place + 1) * len(frames) * SAMPLES > len(other):
                break
            sound = other[place * len(frames) * SAMPLES :][: len(frames) * SAMPLES]
            quiet = np.zeros_like(sound)
            write_source(folder / "raw" / f"{name}_{place}.mp4", (frames, quiet if count % 3 == 2 else sound))
            count += 1
    options = preprocessed_all(folder, expert)
    for what, rows in options.items():
        dropped = [row["result"] != KEPT for row in rows]
        print(f"{what}: {sum(dropped)} of {len(dropped)} clips dropped")


def preprocessed_all(folder: Path, expert: Path) -> dict[str, list[dict]]:
    """Clips with another's voice, which were measured, and mute ones, which were not."""
    preprocessed(folder / "raw", folder / "out", expert)
    with (folder / "out" / CLIPS).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["clip"]]
    mute = [row for row in rows if not row["offset"]]
    return {"\nanother's voice": [row for row in rows if row["offset"]], "mute": mute}


def cuts(clips: Sequence[Sequence[Path]]) -> None:
    """Clips of one speaker after another's, one frame each time the picture cuts."""
    order = [clip for group in zip(*clips, strict=False) for clip in group][:40]
    shots, true, count = Shots(FPS), [], 0
    for clip in order:
        frames, _ = joined([clip])
        if count:
            true.append(count)
        for frame in frames:
            shots.see(frame)
        count += len(frames)
    found = set(shots.cuts)
    print(f"\ncuts between people: {len(found & set(true))} of {len(true)} found to the frame", end=", ")
    print(f"{len(found - set(true))} found that are none, in {count / FPS:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", type=Path, required=True, help="folder of <folder>/<id>.mp4, in sync")
    parser.add_argument("--folders", nargs="+", required=True, help="of speakers that the expert never saw")
    parser.add_argument("--expert", type=Path, default=DEFAULT_EXPERT)
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 30], help="of the sources (default: 10 30)")
    parser.add_argument("--most", type=int, help="sources of each length (default: all)")
    parser.add_argument("--out", type=Path, help="keep the videos and what came of them in this folder")
    args = parser.parse_args()
    clips = {name: sorted((args.data_root / name).glob("*.mp4")) for name in args.folders}
    if len(clips) < 2 or not all(clips.values()):
        raise InputError("--folders takes two folders or more that hold mp4 files")
    speakers = {name: joined(paths) for name, paths in clips.items()}
    cuts(list(clips.values()))
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        for seconds in args.seconds:
            shifts_and_rates(speakers, seconds, folder / f"shifted_{seconds:g}", args.expert, args.most)
        wrong_voices(speakers, args.seconds[0], folder / "wrong", args.expert)


if __name__ == "__main__":
    run_script(main)
