"""Reading video: upright BGR frames at a constant rate, one at a time (PyAV, FFmpeg's libraries)."""

import contextlib
from collections.abc import Generator, Iterator
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
FALLBACK_RATE = Fraction(25)  # frames a second of a picture, and where a container states no usable rate
PLAUSIBLE_RATES = (1, 480)  # a rate outside is a container's time base, not a frame rate
LONGEST_STILL_SECONDS = 60  # a longer gap between time stamps is a fault of the file: it is closed
LONGEST_LAST_FRAME_SECONDS = 1  # stated durations of the last frame beyond this are not believed
CUT_SHORT_SECONDS = 0.5  # a video that ends this much before its stated end was cut short


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
        limits = ColorRange.JPEG if full else ColorRange.MPEG
        return cls(frame.colorspace, frame.color_primaries, frame.color_trc, limits)


@dataclass(frozen=True)
class Orientation:
    """How stored pixels are turned upright: rows and columns swapped, then mirrored."""

    swapped: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "Orientation":
        """By the frame's display matrix, in quarter turns.

        The matrix [[a, b], [c, d]] sends a pixel at (x, y) to (a x + c y, b x + d y), up to a shift.
        """
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return cls()
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5]
        return cls(True, c < 0, b < 0) if abs(int(b)) > abs(int(a)) else cls(False, a < 0, d < 0)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) as stored -> upright, (W, H, 3) where swapped."""
        pixels = np.swapaxes(pixels, 0, 1) if self.swapped else pixels
        rows, columns = (slice(None, None, -1 if mirrored else 1) for mirrored in (self.mirrored_y, self.mirrored_x))
        return np.ascontiguousarray(pixels[rows, columns])


class FrameReader:
    """Frames of a video, or the one frame of a picture, in presentation order.

    Iterating decodes from the start each time and holds no frame, so that memory does not grow with length.
    Rotation metadata is applied. A variable frame rate is made constant at its average by time stamps: frames
    are repeated or left out; a constant rate gives exactly the file's frames. A file that is cut short or
    damaged gives what decodes and one warning. Colours follow the matrix and range that the stream is tagged
    with (BT.601, limited, where it is not), with the same arithmetic as OpenCV's reader.

    Args:
        path: a video, or a picture (jpg, jpeg, png).
        fps: frames a second to deliver; None keeps the video's own rate (25 for a picture).

    Attributes:
        fps: frames a second, a Fraction; `float(reader.fps)` where a number is needed.
        width, height: of the upright frames, in pixels.
        frame_count: how many frames there are by the container's word, an estimate; None if it does not say.
        is_image: whether the file is a still picture.
        colour: the source's colour tags.
        pixel_aspect: width of a pixel of the upright frames over its height, a Fraction.
        start: time of the first frame by the file's clock, in seconds, a Fraction: sound is in step by it.

    Raises InputError when there is no such file, or it holds no video that decodes.
    """

    def __init__(self, path: str | Path, fps: float | Fraction | None = None):
        self.path = Path(path)
        self.is_image = self.path.suffix.lower() in IMAGE_SUFFIXES
        self.colour, self.pixel_aspect, self.start = Colour(), Fraction(1), Fraction(0)
        self._open: list[Generator[np.ndarray]] = []  # iterations under way
        self._warned = False
        _require_file(self.path)
        if self.is_image:
            self._image = _read_image(self.path)
            self.height, self.width = self._image.shape[:2]
            self.fps, self.frame_count = _as_fraction(fps or FALLBACK_RATE), 1
        else:
            self._probe(fps)

    def __enter__(self) -> "FrameReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the iterations that are under way; the reader can be iterated again."""
        for frames in self._open:
            frames.close()
        self._open.clear()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield (H, W, 3) uint8 BGR frames, each its own array. Raises InputError when no frame decodes."""
        if self.is_image:
            return iter([self._image.copy()])
        frames = self._frames()
        self._open = [other for other in self._open if other.gi_frame is not None] + [frames]
        return frames

    def _probe(self, fps: float | Fraction | None) -> None:
        with _opened(self.path) as container:
            stream = _video_stream(container, self.path)
            native = _native_rate(stream)
            first = next(_decoded(container, stream, []), None)
            if first is None:
                raise InputError(f"no frame of {self.path} can be decoded: give another video")
            self.fps = _as_fraction(fps) if fps else native
            self.colour = Colour.of(first)
            self.start = (first.pts or 0) * stream.time_base
            # Once for the whole video: a frame whose side data was looked at lives until the next garbage collection.
            self._orientation = Orientation.of(first)
            self._stored_size = self.width, self.height = first.width, first.height
            self.pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
            if self._orientation.swapped:
                self.width, self.height = self.height, self.width
                self.pixel_aspect = 1 / self.pixel_aspect
            self.frame_count = _frame_count(container, stream, native, self.fps)

    def _frames(self) -> Generator[np.ndarray]:
        faults: list[str] = []
        with _opened(self.path) as container:
            stream = _video_stream(container, self.path)
            stream.thread_type = "AUTO"
            decoded = _at_constant_rate(_decoded(container, stream, faults), stream.time_base, self.fps)
            count = 0
            for frame, repeats in decoded:
                pixels = self._pixels(frame)
                count += repeats
                for _ in range(repeats - 1):
                    yield pixels.copy()
                yield pixels
        if not count:
            raise InputError(f"no frame of {self.path} can be decoded: give another video")
        if faults and not self._warned:
            self._warned = True
            warn(f"{self.path} is {faults[0]}: going on with the {count} frames that decode")

    def _pixels(self, frame: av.VideoFrame) -> np.ndarray:
        """(height, width, 3) uint8 BGR; frames of another size, where a stream changes it, are scaled."""
        width, height = self._stored_size
        return self._orientation.apply(frame.to_ndarray(format="bgr24", width=width, height=height))


def _require_file(path: Path) -> None:
    remedy = "give a video or a picture"
    try:
        if not path.exists():
            raise InputError(f"{path} does not exist: {remedy}")
        if path.is_dir():
            raise InputError(f"{path} is a folder: {remedy}")
        with path.open("rb") as file:
            if not file.read(1):
                raise InputError(f"{path} is empty: {remedy}")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): {remedy}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    """An open container; `file:` keeps FFmpeg from reading a colon in the name as a protocol."""
    try:
        container = av.open(f"file:{path}")
    except (av.error.FFmpegError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "its name is not text"
        raise InputError(f"{path} cannot be read as a video ({reason}): give a video or a picture") from error
    with container:
        yield container


def _video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    cover = Disposition.attached_pic  # the picture of an album is no video
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise InputError(f"{path} has no video stream: give a video or a picture")
    if streams[0].codec_context is None:
        raise InputError(f"the video stream of {path} cannot be decoded: convert it first")
    return streams[0]


def _as_fraction(fps: float | Fraction) -> Fraction:
    return fps if isinstance(fps, Fraction) else Fraction(fps).limit_denominator(100_000)


def _native_rate(stream: av.VideoStream) -> Fraction:
    """The constant rate of the time stamps where the index shows one, else the average rate."""
    average = next(
        (
            Fraction(rate)
            for rate in (stream.average_rate, stream.guessed_rate)
            if rate and PLAUSIBLE_RATES[0] <= rate <= PLAUSIBLE_RATES[1]
        ),
        FALLBACK_RATE,
    )
    if stream.frames < 3 or len(stream.index_entries) != stream.frames:
        return average
    stamps = np.array([entry.timestamp for entry in stream.index_entries], np.int64)
    step = Fraction(int(stamps[-2] - stamps[0]), len(stamps) - 2)  # the last duration is often not a frame's
    if step <= 0 or np.abs(np.diff(stamps[:-1]) - float(step)).max() > 1:
        return average
    constant = 1 / (step * stream.time_base)
    close = abs(constant / average - 1) < 1e-3
    plausible = PLAUSIBLE_RATES[0] <= constant <= PLAUSIBLE_RATES[1]
    return average if close or not plausible else constant.limit_denominator(100_000)


def _frame_count(
    container: av.container.InputContainer, stream: av.VideoStream, native: Fraction, fps: Fraction
) -> int | None:
    if stream.frames and fps == native:
        return stream.frames
    seconds = stream.duration * stream.time_base if stream.duration else None
    if seconds is None and container.duration:
        seconds = Fraction(container.duration, av.time_base)
    return max(1, round(seconds * fps)) if seconds else None


def _decoded(
    container: av.container.InputContainer, stream: av.VideoStream, faults: list[str]
) -> Iterator[av.VideoFrame]:
    """Every frame that decodes; what is wrong with the file is appended to `faults`."""
    end = None
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                faults.append("damaged")
                continue
            for frame in frames:
                if frame.pts is not None:
                    end = max(end or 0, frame.pts + (frame.duration or 0))
                yield frame
    except av.error.FFmpegError as error:
        faults.append(f"damaged ({error.strerror})")
    if _is_cut_short(container, stream, end):
        faults.insert(0, "cut short")


def _is_cut_short(container: av.container.InputContainer, stream: av.VideoStream, end: int | None) -> bool:
    """Whether the index points past the end of the file, or frames end well before the stated end."""
    entries = stream.index_entries
    if len(entries) and stream.frames:
        last = entries[len(entries) - 1]
        return last.pos + last.size > container.size
    stated = stream.metadata.get("DURATION")  # Matroska: hours:minutes:seconds
    if end is None or not stated:
        return False
    hours, minutes, seconds = (float(part) for part in stated.split(":"))
    return 3600 * hours + 60 * minutes + seconds - float(end * stream.time_base) > CUT_SHORT_SECONDS


def _at_constant_rate(
    frames: Iterator[av.VideoFrame], time_base: Fraction, fps: Fraction
) -> Iterator[tuple[av.VideoFrame, int]]:
    """Place frames on a constant grid: pairs of a frame and how many times it is shown.

    Slot i shows the latest frame whose time stamp, rounded to the grid, is not past i.
    """
    step = time_base * fps  # slots a tick
    longest = round(LONGEST_STILL_SECONDS * fps)
    held, shown, origin = None, 0, None
    for frame in frames:
        if held is None:
            held, origin = frame, frame.pts
            continue
        place = shown + 1
        if frame.pts is not None and origin is not None:
            stamped = round((frame.pts - origin) * step)
            if abs(stamped - shown) > longest:  # a break in the time stamps: go on from here
                origin = frame.pts - round(place / step)
            else:
                place = stamped
        if place > shown:
            yield held, place - shown
            shown = place
        elif place < shown:
            continue
        held = frame
    if held is not None:
        last = 1
        if held.pts is not None and origin is not None and held.duration:
            end = round((held.pts + held.duration - origin) * step)
            last = min(end - shown, round(LONGEST_LAST_FRAME_SECONDS * fps))
        yield held, max(1, last)


def _read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 BGR, turned as the picture's own metadata asks."""
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise InputError(f"{path} cannot be read as a picture: give a jpg or png file")
    return image
