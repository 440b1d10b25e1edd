"""A video as the metrics see it: one person's face over time, and the sound from the first frame on.

Faces are found, followed and cut out by the rule of inference (`lipsync.locating`). Videos of any frame rate are read
at the one that the judge of sync knows, 25 frames a second as a rule, as the published evaluation does.
"""

import sys
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch

import audio
from crops import cut
from errors import InputError
from evaluation import metrics
from evaluation.options import EvaluationOptions
from hparams import hparams
from lipsync.locating import located_once
from lipsync.options import InferenceOptions
from lipsync.source import FrameSource
from lipsync.stages import StageClock, Threads
from lipsync.tracking import NoFaceError
from lipsync.video import FrameReader

SHOWN = (96, 96)  # (height, width) of the faces that motion is measured on
DETAIL = (299, 299)  # of faces for FID, which Inception wants
DETAIL_EVERY = 5  # frames between those whose faces count for FID: neighbours are almost the same


@dataclass
class Track:
    """One face over time, n of whose frames show it.

    Attributes:
        fps: frames a second at which the video was read.
        frames: of the video, at that rate.
        numbers: (n,) frame numbers, ascending.
        faces: (n, H, W, 3) uint8 BGR, resized to what was asked for.
        motion: (n,) movement of the mouth since the frame before; NaN where that shows no face.
        details: every `DETAIL_EVERY`-th face at the size `DETAIL`, for FID.
        likeness: (PSNR in dB, SSIM) of the lower half of the face's box against another video, a pair a frame.
    """

    fps: float
    frames: int = 0
    numbers: list[int] = field(default_factory=list)
    faces: list[np.ndarray] = field(default_factory=list)
    motion: list[float] = field(default_factory=list)
    details: list[np.ndarray] = field(default_factory=list)
    likeness: list[tuple[float, float]] = field(default_factory=list)

    @property
    def faceless(self) -> float:
        """Share of frames without a face, gaps of up to half a second bridged as at inference."""
        return 1 - len(self.numbers) / max(1, self.frames)


def read_track(
    options: InferenceOptions, fps: float, size: tuple[int, int], details: bool = False, against: Path | None = None
) -> Track:
    """Follow the face of the video `options.face`.

    Args:
        options: how faces are found, where the detector runs.
        fps: frames a second at which to read.
        size: (height, width) of `Track.faces`.
        details: whether to keep `Track.details`.
        against: a video of the same frames, with the same box, to compare the lower half with.

    Raises InputError for a video that cannot be read, and when the two have different sizes. A video without any face
    gives an empty track.
    """
    source = FrameSource(options, fps)
    others = iter(_alike(against, source, fps)) if against else iter(())
    track, before, seen_before = Track(fps), None, False
    try:
        with Threads(None, options.device) as threads:
            for frame, box in located_once(options, source, sys.maxsize, threads, StageClock()):
                other = next(others, None)
                if box is not None:
                    crop = cut(frame, box)
                    moved = _motion(cut(before, box), crop) if seen_before else np.nan
                    track.motion.append(moved)
                    track.faces.append(cv2.resize(crop, size[::-1]))
                    if details and len(track.numbers) % DETAIL_EVERY == 0:
                        track.details.append(cv2.resize(crop, DETAIL[::-1]))
                    track.numbers.append(track.frames)
                    if other is not None:
                        track.likeness.append(_likeness(cut(other, box), crop))
                before, seen_before = frame, box is not None
                track.frames += 1
    except NoFaceError:
        track.frames = max(1, sum(1 for _ in source.frames()))
    return track


def inference_options(video: Path, options: EvaluationOptions, device: str) -> InferenceOptions:
    """How inference would look for the face of a video."""
    return InferenceOptions(
        face=video,
        audio=video,
        pads=options.pads,
        box=options.box,
        face_detector=options.face_detector,
        det_every=options.det_every,
        device=device,
    )


def _alike(video: Path, source: FrameSource, fps: float) -> FrameReader:
    reader = FrameReader(video, fps)
    if (reader.height, reader.width) != (source.height, source.width):
        raise InputError(
            f"{video} has {reader.width} x {reader.height} pixels, its real video {source.width} x {source.height}: "
            "pictures of different sizes cannot be compared"
        )
    return reader


def _motion(before: np.ndarray, after: np.ndarray) -> float:
    return metrics.mouth_motion(cv2.resize(before, SHOWN[::-1]), cv2.resize(after, SHOWN[::-1]))


def _likeness(generated: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """PSNR and SSIM of the lower half, in the box's own pixels; SSIM is NaN for faces too small for its window."""
    pair = [
        torch.from_numpy(np.ascontiguousarray(face)).permute(2, 0, 1)[None, :, None] / 255
        for face in (generated, truth)
    ]
    fits = min(truth.shape[0] // 2, truth.shape[1]) > 2 * metrics.SSIM_RADIUS
    return float(metrics.psnr_lower(*pair)), float(metrics.ssim_lower(*pair)) if fits else float("nan")


def read_sound(video: Path) -> np.ndarray:
    """The sound of a video at 16 kHz, (samples,) float32, from the time of its first frame on.

    A sound that begins later than the picture has silence before it, one that begins earlier loses its beginning.
    Raises InputError when there is none.
    """
    wav = audio.load_wav(video)
    lag = round(_lag(video) * hparams.sample_rate)
    return np.concatenate((np.zeros(lag, np.float32), wav)) if lag >= 0 else wav[-lag:]


def _lag(video: Path) -> Fraction:
    """How much later than the first picture the first sound comes, in seconds; 0 where the file does not say."""
    with av.open(f"file:{video}") as container:
        first = next(container.decode(audio=0), None)
    if first is None or first.pts is None:
        return Fraction(0)
    return first.pts * first.time_base - FrameReader(video).start
