"""Reading video: a stream of upright BGR frames at a constant rate, one at a time (PyAV, FFmpeg's libraries)."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from errors import InputError, warn

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
FALLBACK_RATE = Fraction(25)
RATE_TOLERANCE = 0.001  # average and nominal rate of a constant-rate video differ by rounding only


@dataclass(frozen=True)
class Colour:
    """How a video's YUV values are meant, as FFmpeg's numbers. RGB sources and pictures are written as BT.709."""

    matrix: int = Colorspace.ITU709
    primaries: int = ColorPrimaries.BT709
    transfer: int = ColorTrc.BT709
    range: int = ColorRange.MPEG

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "Colour":
        """The tags of a decoded frame; "unspecified" stays: players then treat the result as the source."""
        if frame.format.is_rgb:
            return cls()
        full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
        return cls(
            frame.colorspace, frame.color_primaries, frame.color_trc, ColorRange.JPEG if full else ColorRange.MPEG
        )


class FrameReader:
    """Frames of a video, or the one frame of an image, in presentation order.

    Iterating decodes from the start each time and holds no frame, so that memory does not grow with length. Rotation
    metadata is applied. A variable frame rate is made constant at the average rate: frames are repeated or left out
    by their time stamps. A file that is cut short or damaged gives what decodes and, once, a warning.

    Args:
        path: a video, or an image (jpg, jpeg, png).
        fps: frames a second to deliver; None keeps the video's own rate (25 for an image).

    Attributes:
        fps: frames a second, a Fraction.
        width, height: of the upright frames, in pixels. All frames have this size.
        frame_count: how many frames there are, by the container's word; None if it does not say.
        is_image: whether the file is a still picture.
        colour: the source's colour tags.
        pixel_aspect: width of a pixel over its height, a Fraction.

    Raises InputError when there is no such file, or it holds no video that decodes.
    """

    def __init__(self, path: str | Path, fps: float | Fraction | None = None):
        self.path = Path(path)
        self.is_image = self.path.suffix.lower() in IMAGE_SUFFIXES
        self.colour, self.pixel_aspect = Colour(), Fraction(1)
        self._warned = False
        for problem, found in (
            ("does not exist", not self.path.exists()),
            ("is a folder", self.path.is_dir()),
            ("is empty", self.path.is_file() and self.path.stat().st_size == 0),
        ):
            if found:
                raise InputError(f"face file {self.path} {problem}: give a video or a picture")
        if self.is_image:
            self._image = _read_image(self.path)
            self.height, self.width = self._image.shape[:2]
            self.fps, self.frame_count = _rational(fps or FALLBACK_RATE), 1
        else:
            self._probe(fps)

    def _probe(self, fps: float | Fraction | None) -> None:
        with self._opened() as (container, stream):
            native = stream.average_rate or stream.guessed_rate or FALLBACK_RATE
            self.fps = _rational(fps or native)
            first = next(_decoded(container, stream), None)
            if first is None:
                raise InputError(f"no frame of {self.path} can be decoded: give another video")
            self.colour = Colour.of(first)
            self.width, self.height = first.width, first.height
            self.pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
            if _quarter_turns(first) % 2:
                self.width, self.height = self.height, self.width
                self.pixel_aspect = 1 / self.pixel_aspect
            seconds = stream.duration * stream.time_base if stream.duration else None
            if seconds is None and container.duration:
                seconds = Fraction(container.duration, av.time_base)
            # Frames that the file should hold, for the warning, and that the reader should deliver.
            self._stored_count = stream.frames or (round(seconds * native) if seconds else None)
            delivered = round(seconds * self.fps) if seconds else None
            self.frame_count = self._stored_count if self.fps == native else delivered

    def __enter__(self) -> "FrameReader":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays open between iterations."""

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield (H, W, 3) uint8 BGR frames; each is the receiver's own, to be changed at will."""
        if self.is_image:
            yield self._image.copy()
            return
        with self._opened() as (container, stream):
            for frame in _at_constant_rate(self._until_damage(container, stream), stream, self.fps):
                if frame.shape[:2] != (self.height, self.width):
                    frame = cv2.resize(frame, (self.width, self.height), interpolation=cv2.INTER_AREA)
                yield frame

    def _opened(self) -> "_Opened":
        return _Opened(self.path)

    def _until_damage(self, container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
        """Every frame that decodes; says once when frames are missing at the end."""
        count = 0
        for frame in _decoded(container, stream):
            count += 1
            yield frame
        if not count:
            raise InputError(f"no frame of {self.path} can be decoded: give another video")
        expected = self._stored_count
        if expected and count < min(0.97 * expected, expected - 1) and not self._warned:
            self._warned = True
            warn(f"{self.path} is damaged or cut short: {count} of {expected} frames decode; using those")


class _Opened:
    """Context: the container and its video stream; what FFmpeg cannot read ends in an InputError."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        try:
            # Absolute, since FFmpeg would read what stands before a colon as a protocol.
            self._container = av.open(str(self._path.absolute()))
        except (av.error.FFmpegError, OSError, UnicodeError) as error:
            raise self._unreadable(error) from error
        streams = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            self._container.close()
            raise InputError(f"{self._path} has no video stream: give a video or a picture as --face")
        streams[0].thread_type = "AUTO"
        return self._container, streams[0]

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        self._container.close()
        if isinstance(error, av.error.FFmpegError):
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> InputError:
        reason = getattr(error, "strerror", None) or str(error)
        return InputError(f"{self._path} cannot be read as a video ({reason}): give a video or a picture")


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Frames of a stream; packets that do not decode are passed over, a file that breaks off just ends."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):
            return
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue


def _at_constant_rate(frames: Iterator[av.VideoFrame], stream: av.VideoStream, fps: Fraction) -> Iterator[np.ndarray]:
    """Place frames on a constant grid by their time stamps; a video that is on it already passes unchanged."""
    native, nominal = stream.average_rate or stream.guessed_rate, stream.base_rate
    if native == fps and nominal and abs(native / nominal - 1) < RATE_TOLERANCE:
        for frame in frames:
            yield to_bgr(frame)
        return
    held, slot, origin = None, 0, None
    for frame in frames:
        if frame.pts is None:
            place = slot + 1
        else:
            origin = frame.pts if origin is None else origin
            place = round((frame.pts - origin) * stream.time_base * fps)
        repeats = place - slot
        if held is not None and repeats > 0:
            pixels = to_bgr(held)
            yield pixels
            for _ in range(repeats - 1):
                yield pixels.copy()
        slot = max(slot, place)
        held = frame
    if held is not None:
        yield to_bgr(held)


def to_bgr(frame: av.VideoFrame) -> np.ndarray:
    """A decoded frame as an upright (H, W, 3) uint8 BGR array, by the matrix and range that the stream is tagged with.

    Untagged YUV counts as BT.601, as everywhere in FFmpeg.
    """
    pixels = frame.to_ndarray(format="bgr24")
    turns = _quarter_turns(frame)
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Counter-clockwise quarter turns that the display matrix asks for."""
    return round((frame.rotation or 0) / 90) % 4


def _rational(rate: float | Fraction) -> Fraction:
    return Fraction(rate).limit_denominator(100_000)


def _read_image(path: Path) -> np.ndarray:
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{path} cannot be read as a picture: give a jpg or png file")
    return image
