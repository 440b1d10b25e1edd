"""Raw videos whose faults are known: joined from good clips, with sound shifted or swapped, at any frame rate."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

import audio
from lipsync.video import FrameReader
from preprocessing.sound import RATE, as_int16

FPS = 25
SAMPLES = RATE // FPS  # a frame
VARIABLE = Fraction(0)  # a rate that stands for irregular times
TICKS = 90000  # a second, in the files made
Joined = tuple[list[np.ndarray], np.ndarray]
"""Frames (H, W, 3) uint8 BGR at 25 a second, and as much sound: (samples,) int16 at 16 kHz."""


def joined(clips: Sequence[Path]) -> Joined:
    """Clips of 25 frames a second one after another, each with exactly its own sound."""
    frames, sounds = [], []
    for clip in clips:
        part = list(FrameReader(clip))
        sound = as_int16(audio.load_wav(clip))[: len(part) * SAMPLES]
        frames += part
        sounds.append(np.pad(sound, (0, len(part) * SAMPLES - len(sound))))
    return frames, np.concatenate(sounds)


def shifted(sound: np.ndarray, frames: float) -> np.ndarray:
    """Sound that is heard `frames` later, or earlier below 0; as long as before, with silence where there is none."""
    samples = round(frames * SAMPLES)
    moved = np.roll(sound, samples)
    if samples > 0:
        moved[:samples] = 0
    elif samples < 0:
        moved[samples:] = 0
    return moved


def shown_at(frames: Sequence[np.ndarray], fps: Fraction, seed: int = 0) -> Iterator[tuple[Fraction, np.ndarray]]:
    """Frames with their times as a camera of `fps` frames a second sees them; `VARIABLE` leaves out one in five."""
    if fps != VARIABLE:
        for k in range(int(len(frames) * fps / FPS)):
            yield k / fps, frames[min(len(frames) - 1, round(k * FPS / fps))]
        return
    rng = np.random.default_rng(seed)
    for k, frame in enumerate(frames):
        if k == 0 or rng.random() > 0.2:
            yield Fraction(k, FPS) + Fraction(int(rng.integers(0, TICKS // 100)), TICKS), frame


def write_source(path: Path, material: Joined, fps: Fraction = Fraction(FPS), picture_starts: float = 0.0) -> Path:
    """A video of any container: H.264 at a rate, or `VARIABLE`; AAC unless the sound is empty.

    `picture_starts`: seconds by which the first frame, and with it the sound that belongs to it, lies after time 0;
    before it the file has sound alone.
    """
    frames, sound = material
    path.parent.mkdir(parents=True, exist_ok=True)
    base = Fraction(1, TICKS)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps or FPS, options={"preset": "ultrafast", "crf": "16"})
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt, video.codec_context.time_base = "yuv420p", base
        stream = container.add_stream("aac", rate=RATE, layout="mono") if len(sound) else None
        for time, frame in shown_at(frames, fps):
            picture = av.VideoFrame.from_ndarray(frame, format="bgr24")
            picture.pts, picture.time_base = round((time + Fraction(picture_starts)) / base), base
            container.mux(video.encode(picture))
        container.mux(video.encode())
        if stream is not None:
            lead = np.zeros(round(picture_starts * RATE), np.int16)
            samples = np.concatenate([lead, sound])[None].astype(np.float32) / 32768
            whole = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            whole.sample_rate, whole.pts, whole.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(stream.encode(whole))
            container.mux(stream.encode())
    return path
