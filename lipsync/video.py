"""Reading video: a stream of BGR frames at a constant rate, upright, one at a time (PyAV, FFmpeg's libraries)."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from errors import InputError, warn

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
FALLBACK_RATE = Fraction(25)


class FrameReader:
    """Frames of a video, or the one frame of an image, in presentation order.

    Iterating decodes from the start each time and holds no frame, so that memory does not grow with length. Rotation
    metadata is applied. A variable frame rate is made constant at the average rate: frames are repeated or left out
    by their time stamps. A file that is cut short gives what decodes and a warning.

    Args:
        path: a video, or an image (jpg, jpeg, png).
        fps: frames a second to deliver; None keeps the video's own rate (25 for an image).

    Attributes:
        fps: frames a second, a Fraction.
        width, height: of the upright frames, in pixels.
        frame_count: how many frames there are, by the container's word; None if it does not say.
        is_image: whether the file is a still picture.

    Raises InputError when there is no such file, or it holds no video that decodes.
    """

    def __init__(self, path: str | Path, fps: float | Fraction | None = None):
        self.path = Path(path)
        self.is_image = self.path.suffix.lower() in IMAGE_SUFFIXES
        if not self.path.exists():
            raise InputError(f"face file {self.path} does not exist: give a video or a picture")
        if self.path.is_dir():
            raise InputError(f"face file {self.path} is a folder: give a video or a picture")
        if self.path.stat().st_size == 0:
            raise InputError(f"face file {self.path} is empty: give a video or a picture")
        if self.is_image:
            self._image = _read_image(self.path)
            self.height, self.width = self._image.shape[:2]
            self.fps, self.frame_count = Fraction(fps or FALLBACK_RATE), 1
        else:
            self._probe(fps)

    def _probe(self, fps: float | Fraction | None) -> None:
        try:
            with av.open(str(self.path)) as container:
                stream = _video_stream(container, self.path)
                native = stream.average_rate or stream.guessed_rate or FALLBACK_RATE
                self.fps = Fraction(fps).limit_denominator(100_000) if fps else Fraction(native)
                first = next(container.decode(stream), None)
                if first is None:
                    raise InputError(f"no frame of {self.path} can be decoded: give another video")
                quarter_turns = _quarter_turns(first)
                size = (first.width, first.height)
                self.width, self.height = size if quarter_turns % 2 == 0 else size[::-1]
                seconds = stream.duration * stream.time_base if stream.duration else None
                if seconds is None and container.duration:
                    seconds = Fraction(container.duration, av.time_base)
                same_rate = self.fps == Fraction(native)
                self.frame_count = (same_rate and stream.frames) or (round(seconds * self.fps) if seconds else None)
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(
                f"{self.path} cannot be read as a video ({error.strerror}): give a video or a picture"
            ) from error

    def __enter__(self) -> "FrameReader":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays open between iterations."""

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield (H, W, 3) uint8 BGR frames."""
        if self.is_image:
            yield self._image
            return
        try:
            with av.open(str(self.path)) as container:
                stream = _video_stream(container, self.path)
                stream.thread_type = "AUTO"
                yield from _at_constant_rate(_decoded(container, stream, self.path), stream, self.fps)
        except av.error.FFmpegError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror}): give another video") from error


def _video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise InputError(f"{path} has no video stream: give a video or a picture as --face")
    return streams[0]


def _decoded(container: av.container.InputContainer, stream: av.VideoStream, path: Path) -> Iterator[av.VideoFrame]:
    """Frames up to the end, or up to where the file is damaged."""
    count = 0
    try:
        for frame in container.decode(stream):
            count += 1
            yield frame
    except av.error.FFmpegError as error:
        if not count:
            raise
        warn(f"{path} is damaged after frame {count} ({error.strerror}): going on with what decodes")
        return
    if stream.frames and count < 0.95 * stream.frames:
        warn(f"{path} is cut short: {count} of {stream.frames} frames decode; going on with those")


def _at_constant_rate(
    frames: Iterator[av.VideoFrame], stream: av.VideoStream, fps: Fraction
) -> Iterator[np.ndarray]:
    """Place frames on a constant grid by their time stamps; a video that is on it already passes unchanged."""
    native = stream.average_rate or stream.guessed_rate
    constant = native and stream.base_rate and abs(native / stream.base_rate - 1) < 0.001 and native == fps
    if constant:
        for frame in frames:
            yield to_bgr(frame)
        return
    held, slot, origin = None, 0, None
    for frame in frames:
        if frame.pts is None:
            yield to_bgr(frame)
            continue
        origin = frame.pts if origin is None else origin
        place = round((frame.pts - origin) * stream.time_base * fps)
        while held is not None and slot < place:
            yield held
            slot += 1
        if place >= slot:
            held = to_bgr(frame)
    if held is not None:
        yield held


def to_bgr(frame: av.VideoFrame) -> np.ndarray:
    """A decoded frame as an upright (H, W, 3) uint8 BGR array, by the matrix and range that the stream is tagged with."""
    pixels = frame.to_ndarray(format="bgr24")
    turns = _quarter_turns(frame)
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Counter-clockwise quarter turns that the display matrix asks for."""
    return round((frame.rotation or 0) / 90) % 4


def _read_image(path: Path) -> np.ndarray:
    data = np.fromfile(path, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{path} cannot be read as a picture: give a jpg or png file")
    return image
