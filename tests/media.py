"""Small videos and sounds that tests make on the fly."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

RATE = 16000


def portrait(size: int = 128) -> np.ndarray:
    """The head of scikit-image's astronaut: (size, size, 3) uint8 BGR."""
    from skimage import data

    head = data.astronaut()[20:240, 120:340, ::-1]
    return cv2.resize(np.ascontiguousarray(head), (size, size), interpolation=cv2.INTER_AREA)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Sound with syllables: (samples,) float32 at 16 kHz."""
    rng = np.random.default_rng(seed)
    at = np.arange(int(seconds * RATE)) / RATE
    return (0.3 * rng.standard_normal(len(at)) * (np.sin(2 * np.pi * 3 * at) > 0)).astype(np.float32)


def write_clip(path: Path, frames: list[np.ndarray], sound: np.ndarray | None = None, fps: int = 25) -> None:
    """A video of BGR frames, H.264 (or what the container takes), with AAC sound if given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        video = container.add_stream("libvpx" if path.suffix == ".webm" else "libx264", rate=Fraction(fps))
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = None
        if sound is not None:
            audio = container.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=RATE, layout="mono")
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        container.mux(video.encode())
        if audio is not None:
            samples = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            samples.sample_rate = RATE
            container.mux(audio.encode(samples))
            container.mux(audio.encode())


def numbered(count: int, height: int = 32, width: int = 48) -> list[np.ndarray]:
    """Frames that tell their number (under 64) by six stripes, dark or bright."""
    bits = np.arange(width) * 6 // width
    rows = [np.where(number >> bits & 1, 220, 30) for number in range(count)]
    return [np.broadcast_to(row[None, :, None], (height, width, 3)).astype(np.uint8) for row in rows]


def numbers(frames) -> list[int]:
    stripes = (np.array_split(frame.mean(axis=(0, 2)), 6) for frame in frames)
    return [sum((part.mean() > 125) << bit for bit, part in enumerate(parts)) for parts in stripes]
