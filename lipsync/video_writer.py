"""Writing video: BGR frames and a speech file's sound into one file that appears whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from errors import InputError
from lipsync.soundtrack import Soundtrack
from lipsync.video_reader import Colour

DEFAULT_CRF = 18  # H.264 constant rate factor: visually lossless for most material
DEFAULT_PRESET = "veryfast"
FASTSTART_SUFFIXES = (".mp4", ".mov", ".m4v")  # containers whose index is moved to the front, for streaming
# Rounded to the nearest value at full resolution: swscale's default darkens by half a level.
CONVERSION = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)
UNSPECIFIED = 2  # colour matrix that no one named: BT.601, as in FFmpeg


class VideoWriter:
    """A video file under construction.

    Use as a context: `write` every frame; leaving it without an error completes the file and renames it into place.
    On any error the unfinished file is removed and what was at `path` before stays as it was.

    H.264 in 4:2:0; frames of odd width or height get 4:4:4 instead, since 4:2:0 needs even sizes and the size is
    kept. Lossless: FFV1 in RGB and PCM, in Matroska whatever the suffix.

    Args:
        path: its suffix names the container (mp4, mov, mkv, ...); the folder is made.
        size: (height, width) of the frames in pixels.
        fps: frames a second.
        speech: file whose first audio stream becomes the sound, in its own quality; None for a silent video.
        crf: H.264 quality, 0 (best) to 51.
        preset: of x264: how much work goes into small files.
        colour: how YUV values are to be meant, usually the source's.
        pixel_aspect: width of a pixel over its height.
        lossless: exact pixels and samples.

    Attributes:
        path: where the result goes (`.mkv` if lossless).

    Raises InputError for a container that cannot hold the video, and when the disk is full or not writable.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        fps: float | Fraction,
        speech: str | Path | None = None,
        *,
        crf: int = DEFAULT_CRF,
        preset: str = DEFAULT_PRESET,
        colour: Colour | None = None,
        pixel_aspect: Fraction = Fraction(1),
        lossless: bool = False,
    ):
        self.path = result_path(path, lossless)
        self._size, self._fps = size, Fraction(fps).limit_denominator(100_000)
        self._colour, self._lossless = colour or Colour(), lossless
        self._aside = self.path.with_name(f".{self.path.stem[:40]}.{os.getpid()}.part{self.path.suffix}")
        self._written, self._soundtrack = 0, None
        _make_empty(self._aside, self.path)
        try:
            with disk_errors(self.path):
                self._container = self._open()
                self._stream = self._add_video({"crf": str(crf), "preset": preset}, pixel_aspect)
                if speech is not None:
                    self._soundtrack = Soundtrack(speech, self._container, lossless)
        except BaseException:
            self._discard()
            raise

    def _open(self) -> av.container.OutputContainer:
        try:
            options = {"movflags": "+faststart"} if self.path.suffix.lower() in FASTSTART_SUFFIXES else {}
            container = av.open(str(self._aside.absolute()), mode="w", options=options)
        except ValueError as error:
            raise InputError(
                f"no video format is known by the ending of {self.path}: use .mp4, .mov or .mkv"
            ) from error
        if container.format.name == "image2":  # takes any codec, one picture a file
            raise InputError(f"{self.path} is the name of a picture: use .mp4, .mov or .mkv")
        return container

    def _add_video(self, options: dict[str, str], pixel_aspect: Fraction) -> av.VideoStream:
        height, width = self._size
        codec = "libx264"
        if self._lossless:
            codec, options = "ffv1", {"level": "3", "slicecrc": "1"}
        try:
            stream = self._container.add_stream(codec, rate=self._fps, options=options)
        except ValueError as error:
            raise InputError(f"a {self.path.suffix} file cannot hold H.264 video: use .mp4, .mov or .mkv") from error
        if self._lossless:
            stream.pix_fmt = "bgr0"
        else:
            stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
            codec = stream.codec_context
            codec.colorspace, codec.color_range = self._colour.matrix, self._colour.range
            codec.color_primaries, codec.color_trc = self._colour.primaries, self._colour.transfer
        stream.height, stream.width = height, width
        stream.codec_context.time_base = 1 / self._fps
        stream.codec_context.sample_aspect_ratio = pixel_aspect
        stream.codec_context.thread_type = "AUTO"
        return stream

    def write(self, frame: np.ndarray) -> None:
        """Append a frame: (H, W, 3) uint8 BGR of the writer's size."""
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="bgr24")
        picture = in_stream_format(picture, self._stream.pix_fmt, self._colour)
        picture.pts, picture.time_base = self._written, 1 / self._fps
        with disk_errors(self.path):
            self._container.mux(self._stream.encode(picture))
            self._written += 1
            if self._soundtrack:
                self._soundtrack.mux_until(self._written / self._fps)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if error is not None:
            self._discard()
            return
        try:
            with disk_errors(self.path):
                self._container.mux(self._stream.encode(None))
                if self._soundtrack:
                    self._soundtrack.finish()
                self._container.close()
                self._aside.replace(self.path)
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        """Remove the unfinished file; closing may fail for the same reason that we discard it."""
        for close in (self._soundtrack, getattr(self, "_container", None)):
            try:
                if close is not None:
                    close.close()
            except (av.error.FFmpegError, OSError, ValueError):
                pass
        self._aside.unlink(missing_ok=True)


def in_stream_format(picture: av.VideoFrame, pix_fmt: str, colour: Colour) -> av.VideoFrame:
    """A BGR picture as an encoder takes it: in its pixel format, with the meaning that `colour` gives to values."""
    if pix_fmt == "bgr0":
        return picture.reformat(format=pix_fmt)
    return picture.reformat(
        format=pix_fmt,
        dst_colorspace=Colorspace.ITU601 if colour.matrix == UNSPECIFIED else colour.matrix,
        src_color_range=ColorRange.JPEG,
        dst_color_range=colour.range,
        interpolation=CONVERSION,
    )


def result_path(path: str | Path, lossless: bool) -> Path:
    """Where a result really goes: lossless ones are Matroska files."""
    return Path(path).with_suffix(".mkv") if lossless else Path(path)


def _make_empty(aside: Path, path: Path) -> None:
    """Make the folder and the unfinished file, so that an unwritable place is known before any work."""
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
        aside.touch()
    except OSError as error:
        raise InputError(
            f"the result {path} cannot be written there ({error.strerror}): choose another folder or name"
        ) from error


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what goes wrong outside the program while writing `path` into an InputError."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise InputError(
            f"writing {path} failed ({os.strerror(error.errno)}): free some space or choose another folder"
        ) from error
