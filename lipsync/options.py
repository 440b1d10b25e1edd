"""What a run of inference is asked to do: the one truth of the command line, checked before heavy imports."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errors import InputError
from face_detection.api import DETECTORS

DETECT = (-1, -1, -1, -1)  # the box that stands for detection
SLOWEST, FASTEST = 1, 480  # frames a second of a result made from a picture
WORST_CRF = 51
SMALLEST_DETECTOR_SIZE = 32  # pixels

BLENDS = ("feather", "mouth", "paste")
ENHANCE = ("auto", "none", "detail", "sharpen")
REFERENCES = ("auto", "own", "fitting")
NO_FACE = ("keep", "error")
PRECISIONS = ("fp32", "bf16", "fp16")
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")  # of x264
LIVE_PRESET = "superfast"


def option(default: Any, text: str, **argument: Any) -> Any:
    """A field with its help text and whatever else argparse should know of it."""
    return field(default=default, metadata={"help": text, **argument})


@dataclass(frozen=True)
class InferenceOptions:
    """Every option of `inference.py`: a field is the flag of its name.

    Sides come in the order top, bottom, left, right. Raises InputError for values out of range.
    """

    face: Path = field(metadata={"help": "video, or picture (jpg, jpeg, png), with the face"})
    audio: Path = field(metadata={"help": "speech: any file with an audio stream, a video too"})
    checkpoint_path: Path | None = option(None, "generator weights (default: the shipped ones)")
    outfile: Path = option(Path("results/result_voice.mp4"), "where the result goes")
    static: bool = option(False, "use only the first frame of the video")
    fps: float = option(25.0, "frames a second of the result; only for a picture")
    pads: tuple[int, int, int, int] = option(
        (0, 10, 0, 0), "pixels by which the detected box grows; take in the chin", metavar=tuple("TBLR")
    )
    face_det_batch_size: int = option(16, "frames per batch of the face detector, halved when memory runs out")
    wav2lip_batch_size: int = option(128, "frames per batch of the generator, at most; halved when memory runs out")
    resize_factor: int = option(1, "width and height of the video are divided by this")
    crop: tuple[int, int, int, int] = option(
        (0, -1, 0, -1),
        "part of the frame to use, in pixels after resizing and rotating; -1 = to the edge",
        metavar=tuple("TBLR"),
    )
    box: tuple[int, int, int, int] = option(
        DETECT,
        "constant face box instead of detection, in pixels after crop; -1 -1 -1 -1 = detect",
        metavar=tuple("TBLR"),
    )
    rotate: bool = option(False, "turn the video 90 degrees clockwise")
    nosmooth: bool = option(False, "do not average boxes over time")
    reference: str = option(
        "auto",
        "own shows the generator each frame itself, as published; fitting the same with the mouth shown so far "
        "that fits the speech best, warped for what is missing; auto: as the weights ask for, published ones for own",
        choices=REFERENCES,
    )
    blend: str = option(
        "feather",
        "feather melts the generated lower face into the frame; mouth the lips and what is around them only, so that "
        "jaw and cheeks stay the video's; paste puts the whole box in, as published",
        choices=BLENDS,
    )
    enhance: str = option(
        "auto",
        "detail gives the generated face the fine detail of a fitting reference, at the size of the video; sharpen "
        "steepens its edges; auto: detail where there are such references",
        choices=ENHANCE,
    )
    lossless: bool = option(False, "exact pixels and samples: FFV1 and PCM in a .mkv file")
    crf: int = option(18, "H.264 quality, 0 (best) to 51 (smallest)")
    preset: str = option("veryfast", "speed of the H.264 encoder: slower ones make smaller files", choices=PRESETS)
    no_face: str = option(
        "keep",
        "frames without a face: keep bridges short gaps and passes the others through; error stops",
        choices=NO_FACE,
    )
    face_index: int | None = option(
        None, "which face, from the left, counted from 0, in the first frame with faces (default: the largest)"
    )
    audio_shift: float = option(
        0.0, "milliseconds; above 0 the mouth says what is heard that much later, so it moves earlier"
    )
    device: str = option("auto", "where the networks run: auto, cpu, cuda, cuda:1, ...")
    precision: str = option("fp32", "arithmetic of the generator", choices=PRECISIONS)
    seed: int = option(0, "of every random generator")
    face_detector: str = option("auto", "auto takes sfd when its weights are there, else centerface", choices=DETECTORS)
    det_every: int = option(
        5, "the detector looks at every N-th frame, and at more where faces move or the picture cuts; 1 = at each"
    )
    face_detector_size: int = option(
        320, "longer side of a frame as the detector sees it, in pixels; 0 = its own (sfd: all, centerface: 640)"
    )
    cache: Path | None = option(None, "folder that keeps what the detector found, for the next run of the same video")

    def __post_init__(self) -> None:
        """Raise InputError for values that no input could make sense of. Lists become tuples, and texts paths."""
        for name, value in vars(self).items():
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
            elif isinstance(value, str) and name in ("face", "audio", "checkpoint_path", "outfile", "cache"):
                object.__setattr__(self, name, Path(value))
        for name in ("face_det_batch_size", "wav2lip_batch_size", "resize_factor", "det_every"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} is {getattr(self, name)}: use 1 or more")
        for name in ("reference", "blend", "enhance", "preset", "no_face", "precision", "face_detector"):
            choices = self.__dataclass_fields__[name].metadata["choices"]
            if getattr(self, name) not in choices:
                raise InputError(f"--{name} is '{getattr(self, name)}': use one of {', '.join(choices)}")
        for name in ("pads", "crop", "box"):
            if len(getattr(self, name)) != 4:
                raise InputError(f"--{name} takes four numbers: top bottom left right")
        if not (math.isfinite(self.fps) and SLOWEST <= self.fps <= FASTEST):
            raise InputError(f"--fps is {self.fps:g}: use {SLOWEST} to {FASTEST} frames a second")
        if not 0 <= self.crf <= WORST_CRF:
            raise InputError(f"--crf is {self.crf}: use 0 (best) to {WORST_CRF} (smallest)")
        if self.face_detector_size and self.face_detector_size < SMALLEST_DETECTOR_SIZE:
            raise InputError(
                f"--face_detector_size is {self.face_detector_size}: use 0 or at least {SMALLEST_DETECTOR_SIZE} pixels"
            )
        if not math.isfinite(self.audio_shift):
            raise InputError("--audio_shift takes milliseconds, such as 40 or -40")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"--seed is {self.seed}: use 0 or more")
