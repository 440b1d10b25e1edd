"""A preprocessed tree as WebDataset shards: tar files that are read from front to back, for data beyond a disk.

    python -m training.shards --data_root lrs2_preprocessed --shard_root shards

Every clip is one sample of a shard, with the members `<folder>/<id>.<frame number>.jpg` and `<folder>/<id>.mel.npy`, as
the PyPI package `webdataset` reads them. `<split>-shards.json` names the shards of a split. Reading them here takes no
package: that one would add neither several samples from a clip that is read once, nor a word about which shard is lost.
"""

import argparse
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from errors import InputError, run_script, warn
from hparams import hparams
from models.syncnet import PUBLISHED_FPS
from training.clips import FILELISTS, Clip, open_clip, read_filelist, stored_fps
from whole import write_text_whole, written_whole

CLIPS_A_SHARD = 500  # of LRS2: about 150 MB
MEL = "mel.npy"
SEED = 0  # of the order of clips: a shard has a mixture of people


@dataclass(frozen=True)
class Shard:
    """One tar file and how many clips it holds."""

    path: Path
    clips: int


@dataclass(frozen=True)
class ShardSet:
    """The shards of a split, and the frames a second of their clips."""

    shards: tuple[Shard, ...]
    fps: float

    @property
    def clips(self) -> int:
        return sum(shard.clips for shard in self.shards)


def is_sharded(folder: Path, split: str) -> bool:
    """Whether a folder holds the shards of a split."""
    return _index_path(folder, split).is_file()


def shard_set(folder: Path, split: str) -> ShardSet:
    """What a folder says of the shards of a split. Raises InputError."""
    path = _index_path(folder, split)
    try:
        index = json.loads(path.read_text())
        shards = tuple(Shard(folder / str(entry["name"]), int(entry["clips"])) for entry in index["shards"])
        return ShardSet(shards, float(index["fps"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: write the shards again, those that are whole stay") from error


def clips_of(shard: Shard) -> Iterator[Clip]:
    """The clips of a shard, their crops not decoded. What is lost or damaged is named in a warning and left out."""
    found = 0
    try:
        with shard.path.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
            for clip in _grouped(tar):
                found += 1
                yield clip
    except FileNotFoundError:
        warn(f"shard {shard.path} is missing: going on without it")
        return
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        warn(f"shard {shard.path} is damaged ({error}): going on with {found} of its {shard.clips} clips")
        return
    if found < shard.clips:
        warn(f"shard {shard.path} is damaged: going on with {found} of its {shard.clips} clips")


def _grouped(tar: tarfile.TarFile) -> Iterator[Clip]:
    """Clips whose members follow one another; those without their mel are left out."""
    name, crops, mel = "", {}, None
    for member in tar:
        tar.members = []  # or it would keep every header that it has read
        folder, _, file = member.name.rpartition("/")
        stem, _, kind = file.partition(".")
        content = tar.extractfile(member)
        if content is None:
            continue
        if f"{folder}/{stem}" != name:
            name, crops, mel = f"{folder}/{stem}", {}, None
        if kind == MEL:  # the last member of a clip
            mel = np.load(io.BytesIO(content.read()))
            yield Clip(Path(name), np.array(sorted(crops), int), mel, encoded=[crops[k] for k in sorted(crops)])
        elif kind.endswith(".jpg") and kind[:-4].isdigit():
            crops[int(kind[:-4])] = content.read()


def write_shards(
    data_root: Path, folder: Path, split: str, filelists: Path = FILELISTS, clips_a_shard: int = CLIPS_A_SHARD
) -> ShardSet:
    """Write the shards of a split of a preprocessed tree, in a fixed random order of clips.

    A shard appears whole; one that is there with the same clips is not written again: a tree made anew takes another
    folder. The index comes last. Raises InputError when no clip can be used.
    """
    fps = stored_fps(data_root) or PUBLISHED_FPS
    names = read_filelist(split, filelists)
    names = [names[i] for i in np.random.default_rng(SEED).permutation(len(names))]
    folder.mkdir(parents=True, exist_ok=True)
    begun = _read_begun(folder, split)
    entries = []
    parts = [names[first : first + clips_a_shard] for first in range(0, len(names), clips_a_shard)]
    for number, part in enumerate(tqdm(parts, desc=f"{split} shards", unit="shard")):
        path = folder / f"{split}-{number:06d}.tar"
        entry = begun.get(path.name)
        if entry is None or entry["names"] != part or not path.is_file() or _come_since(data_root, entry["left_out"]):
            entry = {"names": part, "left_out": _write_shard(data_root, part, path, fps)}
            begun[path.name] = entry
            write_text_whole(_begun_path(folder, split), json.dumps(begun))
        entries.append({"name": path.name, "clips": len(part) - len(entry["left_out"])})
    reasons = Counter(reason for entry in begun.values() for reason in entry["left_out"].values())
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    if not any(entry["clips"] for entry in entries):
        raise InputError(f"no clip of {split}.txt can be used ({counts}): is {data_root} what preprocess.py wrote?")
    index = {"fps": fps, "shards": [entry for entry in entries if entry["clips"]]}
    write_text_whole(_index_path(folder, split), json.dumps(index))
    if counts:
        print(f"{split}: left out: {counts}")
    return shard_set(folder, split)


def _come_since(data_root: Path, left_out: dict[str, str]) -> bool:
    """Whether a clip that was missing when its shard was written is there now."""
    return any(reason == "missing" and (data_root / name).is_dir() for name, reason in left_out.items())


def _write_shard(data_root: Path, names: Sequence[str], path: Path, fps: float) -> dict[str, str]:
    """One tar file of the usable clips among `names`; returns the others with their reasons."""
    hp = hparams.override(f"fps={fps}")
    left_out = {}
    with written_whole(path) as aside, tarfile.open(aside, "w") as tar:
        for name in names:
            clip = open_clip(data_root / name, hp)
            if isinstance(clip, str):
                left_out[name] = clip
                continue
            key = name.replace(".", "_")  # up to the first dot, the name of a member is the name of its sample
            for number in clip.numbers:
                _add(tar, f"{key}.{number:06d}.jpg", (clip.folder / f"{number}.jpg").read_bytes())
            mel = io.BytesIO()
            np.save(mel, clip.mel)
            _add(tar, f"{key}.{MEL}", mel.getvalue())
    return left_out


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _index_path(folder: Path, split: str) -> Path:
    return folder / f"{split}-shards.json"


def _begun_path(folder: Path, split: str) -> Path:
    return folder / f".{split}-shards.begun.json"


def _read_begun(folder: Path, split: str) -> dict[str, dict]:
    """What earlier runs wrote; nothing where that cannot be read."""
    try:
        return dict(json.loads(_begun_path(folder, split).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def write_splits(data_root: Path, folder: Path, filelists: Path, clips_a_shard: int = CLIPS_A_SHARD) -> None:
    """Write the shards of every split that has a file list, and say what was written. Raises InputError."""
    if clips_a_shard < 1:
        raise InputError("--shard_clips takes a number from 1")
    splits = [split for split in ("train", "val", "test") if (filelists / f"{split}.txt").is_file()]
    if not splits:
        raise InputError(f"{filelists} has no train.txt, val.txt or test.txt: give the folder of the file lists")
    for split in splits:
        written = write_shards(data_root, folder, split, filelists, clips_a_shard)
        megabytes = sum(shard.path.stat().st_size for shard in written.shards) / 1e6
        print(f"{split}: {written.clips} clips in {len(written.shards)} shards, {megabytes:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description="Preprocessed tree -> WebDataset shards")
    parser.add_argument("--data_root", type=Path, required=True, help="output of preprocess.py")
    parser.add_argument("--shard_root", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--filelists", type=Path, default=FILELISTS, help="folder of train.txt, val.txt, test.txt")
    parser.add_argument("--shard_clips", type=int, default=CLIPS_A_SHARD, help="of a shard (default: %(default)s)")
    args = parser.parse_args()
    write_splits(args.data_root, args.shard_root, args.filelists, args.shard_clips)


if __name__ == "__main__":
    run_script(main)
