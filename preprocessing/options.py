"""What a run over raw videos may be told, and what goes together."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from errors import InputError
from face_detection.api import DETECTORS
from models.checkpoint import DEFAULT_EXPERT
from preprocessing.workers import IMG_SIZE_FLAG, SHARDS_HELP, check_shards, check_size, check_workers

SYNC_MODES = ("correct", "measure", "off")
SHORTEST_CLIP_SECONDS = 0.7  # under 17 frames there is nothing to train on


@dataclass(frozen=True)
class RawOptions:
    """Of `preprocess.py --raw`; the help texts are those of its flags.

    Raises InputError for values out of range.
    """

    raw: Path = field(metadata={"help": "folder of raw videos, with folders in it or not"})
    preprocessed_root: Path = field(metadata={"help": "where the tree is written"})
    filelists: Path | None = field(default=None, metadata={"help": "write train.txt, val.txt and test.txt here"})
    shards: Path | None = field(default=None, metadata={"help": SHARDS_HELP})
    split: tuple[float, float, float] = field(
        default=(0.9, 0.05, 0.05), metadata={"help": "shares of train, val and test, by source video"}
    )
    seed: int = field(default=0, metadata={"help": "of the split"})
    sync: str = field(
        default="correct",
        metadata={
            "choices": SYNC_MODES,
            "help": "shift the sound into sync and drop who is not heard; only measure; or neither",
        },
    )
    syncnet_checkpoint_path: Path = field(default=DEFAULT_EXPERT, metadata={"help": "expert that measures sync"})
    min_confidence: float = field(default=0.08, metadata={"help": "of sync (LSE-C of the expert) that a clip needs"})
    clip_seconds: tuple[float, float] = field(default=(2.0, 10.0), metadata={"help": "shortest and longest clip"})
    min_face: int = field(default=50, metadata={"help": "pixels of a face's width and height"})
    max_turn: float = field(default=50.0, metadata={"help": "degrees (about) of a face from frontal; CenterFace only"})
    min_sharpness: float = field(default=20.0, metadata={"help": "variance of the Laplacian of the face at 96 x 96"})
    shots: str = field(
        default="detect", metadata={"choices": ("detect", "off"), "help": "look for cuts; off: every video is one shot"}
    )
    pads: tuple[int, int, int, int] = field(
        default=(0, 0, 0, 0), metadata={"help": "pixels by which the box grows: top, bottom, left, right"}
    )
    img_size: str | None = field(default=None, metadata=IMG_SIZE_FLAG)
    face_detector: str = field(default="auto", metadata={"choices": DETECTORS, "help": "face detector"})
    batch_size: int = field(default=32, metadata={"help": "frames a detector batch"})
    ngpu: int = field(default=1, metadata={"help": "GPUs that S3FD uses"})
    workers: int = field(default=0, metadata={"help": "CPU processes where no GPU is used; 0: all cores"})

    def __post_init__(self) -> None:
        check_size(self.img_size)
        check_workers(self.batch_size, self.ngpu, self.workers)
        check_shards(self.shards)
        if self.shards and not self.filelists:
            raise InputError("--shards takes --filelists too: a shard is of a split")
        shortest, longest = self.clip_seconds
        if not SHORTEST_CLIP_SECONDS <= shortest <= longest / 2:
            raise InputError(
                f"--clip_seconds {shortest:g} {longest:g}: the shortest is at least {SHORTEST_CLIP_SECONDS} seconds "
                "and the longest at least twice that, so that any length can be divided"
            )
        if len(self.split) != 3 or min(self.split) < 0 or not 0.999 < sum(self.split) < 1.001 or self.split[0] == 0:
            raise InputError("--split takes three shares from 0 that sum up to 1, of which train's is above 0")
        for name, least in {"min_confidence": 0, "min_face": 1, "max_turn": 0, "min_sharpness": 0}.items():
            if getattr(self, name) < least:
                raise InputError(f"--{name} takes a number from {least}")

    def what_clips_depend_on(self) -> dict[str, str]:
        """The options that change clips: sources that were done with other ones stand out."""
        names = ("sync", "min_confidence", "clip_seconds", "min_face", "max_turn", "min_sharpness", "shots", "pads")
        expert = {} if self.sync == "off" else {"syncnet_checkpoint_path": self.syncnet_checkpoint_path.name}
        size = {"img_size": self.img_size} if self.img_size else {}
        return {name: re.sub(r"[()]", "", str(getattr(self, name))) for name in names} | size | expert
