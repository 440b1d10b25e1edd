"""A preprocessed tree in two files a split: all crops as one video, all spectrograms as 8-bit numbers.

    python -m training.pack --data_root lrs2_preprocessed --packed_root packed

Training takes the folder as --data_root; torch, numpy, OpenCV and tqdm are enough to read it.
"""

import argparse
import hashlib
import zipfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

import crops
from errors import InputError, run_script
from hparams import HParams, hparams
from training.clips import FILELISTS, Clip, check_fps, free_memory, from_levels, open_clips, to_levels

AGAIN = "pack the preprocessed tree again"


def is_packed(folder: Path, split: str) -> bool:
    """Whether a folder holds the pack of a split."""
    return _index_path(folder, split).is_file()


def packed_fps(folder: Path, split: str) -> float | None:
    """Frames a second of a packed split by its own word; None where it has none. Raises InputError."""
    fps = _read_index(folder, split).get("fps")
    return None if fps is None else float(fps)


def write_pack(clips: list[Clip], folder: Path, split: str, hp: HParams, crf: int = 18) -> tuple[Path, Path]:
    """Write `<split>.mp4` (H.264, all crops of all clips in a row) and `<split>.npz` (names, counts, spectrograms).

    The index is written last and holds the video's SHA-256, so that a pack is whole or not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    video, index = folder / f"{split}.mp4", _index_path(folder, split)
    speech = [to_levels(clip.speech().T) for clip in clips]
    asides = [path.with_name(f".{path.name}.part") for path in (video, index)]
    try:
        _write_video(clips, asides[0], split, hp, crf)
        with asides[1].open("wb") as file:
            np.savez_compressed(
                file,
                fps=np.array(float(hp.fps)),
                names=np.array(["/".join(clip.folder.parts[-2:]) for clip in clips]),
                frames=np.array([len(clip.numbers) for clip in clips]),
                numbers=np.concatenate([clip.numbers for clip in clips]).astype(np.int32),
                mel_frames=np.array([len(clip.mel) for clip in clips]),
                mel=np.concatenate([to_levels(clip.mel) for clip in clips]),
                speech_frames=np.array([len(levels) for levels in speech]),
                speech=np.concatenate(speech),
                sha256=np.array(hashlib.sha256(asides[0].read_bytes()).hexdigest()),
            )
        index.unlink(missing_ok=True)
        asides[0].replace(video)
        asides[1].replace(index)
    finally:
        for aside in asides:
            aside.unlink(missing_ok=True)
    return video, index


def read_pack(folder: Path, split: str, hp: HParams) -> list[Clip]:
    """The clips of a packed split, their crops in memory. Raises InputError for a damaged or foreign pack."""
    path, video = _index_path(folder, split), folder / f"{split}.mp4"
    index = _read_index(folder, split)
    if not video.is_file() or hashlib.sha256(video.read_bytes()).hexdigest() != str(index["sha256"]):
        raise InputError(f"{video} is missing or is not the video of {path.name}: {AGAIN}")
    check_fps(packed_fps(folder, split), path, hp)
    total = int(index["frames"].sum())
    height, width = hp.face_size
    needed = total * height * width * 3
    if needed > free_memory():
        raise InputError(f"{video}: its crops need {needed / 2**30:.1f} GB of memory: train from the tree instead")
    faces = np.empty((total, 3, height, width), np.uint8).transpose(0, 2, 3, 1)  # as `in_planes` lays them
    count = 0
    for frame in tqdm(_frames(video), total=total, desc=f"{split} crops", unit="crop", leave=False):
        if count < total:
            faces[count] = crops.fit(frame, hp.face_size)
        count += 1
    if count != total:
        raise InputError(f"{video} has {count} frames and its index {total}: {AGAIN}")
    numbers, mels, speech, faces = (
        np.split(values, np.cumsum(index[counts])[:-1])
        for values, counts in (
            (index["numbers"], "frames"), (index["mel"], "mel_frames"), (index["speech"], "speech_frames"),
            (faces, "frames"),
        )
    )  # fmt: skip
    return [
        Clip(Path(str(name)), number, from_levels(mel), face, packed_speech=levels)
        for name, number, mel, face, levels in zip(index["names"], numbers, mels, faces, speech, strict=True)
    ]


def _index_path(folder: Path, split: str) -> Path:
    return folder / f"{split}.npz"


def _read_index(folder: Path, split: str) -> dict[str, np.ndarray]:
    path = _index_path(folder, split)
    try:
        with np.load(path) as content:
            index = {name: content[name] for name in content.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged or is no pack: {AGAIN}") from error
    if not {"names", "frames", "numbers", "mel_frames", "mel", "speech_frames", "speech", "sha256"} <= index.keys():
        raise InputError(f"{path} is damaged or is no pack: {AGAIN}")
    return index


def _write_video(clips: list[Clip], path: Path, split: str, hp: HParams, crf: int) -> None:
    import av

    with av.open(f"file:{path}", "w", format="mp4") as container:
        # No B-frames: OpenCV's reader can lose the last of them.
        stream = container.add_stream("libx264", Fraction(hp.fps).limit_denominator(), {"crf": str(crf), "bf": "0"})
        stream.height, stream.width = hp.face_size
        stream.pix_fmt = "yuv420p"
        for clip in tqdm(clips, desc=f"{split} crops", unit="clip"):
            for k in range(len(clip.numbers)):
                frame = av.VideoFrame.from_ndarray(clip.face(k, hp.face_size), format="bgr24")
                frame.pict_type = av.video.frame.PictureType.I if k == 0 else av.video.frame.PictureType.NONE
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _frames(path: Path) -> Iterator[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    try:
        while True:
            read, frame = capture.read()
            if not read:
                return
            yield frame
    finally:
        capture.release()


def main() -> None:
    parser = argparse.ArgumentParser(description="Preprocessed tree -> two portable files a split")
    parser.add_argument("--data_root", type=Path, required=True, help="output of preprocess.py")
    parser.add_argument("--packed_root", type=Path, required=True, help="folder for the pack")
    parser.add_argument("--filelists", type=Path, default=FILELISTS, help="folder of train.txt and val.txt")
    parser.add_argument("--splits", nargs="+", default=["train", "val"], help="(default: %(default)s)")
    parser.add_argument("--crf", type=int, default=18, help="H.264 quality of the crops, 0 (best) to 51")
    parser.add_argument("--hparams", default="", metavar="NAME=VALUE,...", help="img_size and fps matter here")
    args = parser.parse_args()
    if not 0 <= args.crf <= 51:
        raise InputError("--crf takes a number from 0 to 51")
    hp = hparams.override(args.hparams)
    for split in args.splits:
        clips = open_clips(args.data_root, split, hp, args.filelists)
        files = write_pack(clips, args.packed_root, split, hp, args.crf)
        sizes = ", ".join(f"{path} {path.stat().st_size / 1e6:.1f} MB" for path in files)
        print(f"{split}: {len(clips)} clips, {sum(len(clip.numbers) for clip in clips)} crops: {sizes}")


if __name__ == "__main__":
    run_script(main)
