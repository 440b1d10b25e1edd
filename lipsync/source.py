"""The frames that a run works on: read, resized, turned, cropped, repeated; never more than one held."""

from collections.abc import Iterator
from fractions import Fraction

import cv2
import numpy as np

from errors import InputError
from lipsync.options import DETECT, InferenceOptions
from lipsync.video import FrameReader


class FrameSource:
    """Prepared frames of the face video, as often as asked for.

    Args:
        options: what the run is asked to do.
        fps: frames a second to read the video at; None keeps its own rate.

    Attributes:
        fps, colour, pixel_aspect: of the video; `options.fps` for a picture.
        frame_count: an estimate of the number of frames; None if the file does not say.
        height, width: of the prepared frames in pixels.
        static: whether there is one frame only.

    Raises InputError for a video that cannot be read and for a crop outside the picture.
    """

    def __init__(self, options: InferenceOptions, fps: float | None = None):
        self._reader = FrameReader(options.face, fps)
        self.static = options.static or self._reader.is_image
        self.fps, self.colour = self._reader.fps, self._reader.colour
        if self._reader.is_image:
            self.fps = Fraction(options.fps).limit_denominator(100_000)
        self.frame_count = 1 if self.static else self._reader.frame_count
        self.pixel_aspect = 1 / self._reader.pixel_aspect if options.rotate else self._reader.pixel_aspect
        self._rotate = options.rotate
        self._scaled = (self._reader.width // options.resize_factor, self._reader.height // options.resize_factor)
        if min(self._scaled) < 1:
            raise InputError(
                f"--resize_factor {options.resize_factor} leaves nothing of {self._reader.width} x "
                f"{self._reader.height} pixels: use a smaller number"
            )
        width, height = self._scaled[::-1] if options.rotate else self._scaled
        self._rows, self._columns = crop_slices(options.crop, height, width)
        self.height, self.width = self._rows.stop - self._rows.start, self._columns.stop - self._columns.start

    def frames(self) -> Iterator[np.ndarray]:
        """The video once through (static: its first frame): (height, width, 3) uint8 BGR."""
        for frame in self._reader:
            yield self._prepare(frame)
            if self.static:
                return

    def repeated(self, count: int) -> Iterator[tuple[int, np.ndarray]]:
        """`count` frames with their place in the video, which starts over when it ends. Frames may be written to."""
        done = 0
        still = next(self.frames()) if self.static else None
        while done < count:
            for place, frame in enumerate([still.copy()] if self.static else self.frames()):
                yield place, frame
                done += 1
                if done == count:
                    return

    def _prepare(self, frame: np.ndarray) -> np.ndarray:
        if (frame.shape[1], frame.shape[0]) != self._scaled:
            frame = cv2.resize(frame, self._scaled)
        if self._rotate:
            frame = cv2.rotate(frame, cv2.ROTATE_90_CLOCKWISE)
        return np.ascontiguousarray(frame[self._rows, self._columns])


def crop_slices(crop: tuple[int, int, int, int], height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of `--crop T B L R`. Raises InputError unless they lie in the picture and hold a pixel."""
    top, bottom, left, right = crop
    bottom, right = (height if bottom == -1 else bottom), (width if right == -1 else right)
    _check_inside("--crop", crop, (top, bottom, left, right), height, width)
    return slice(top, bottom), slice(left, right)


def constant_box(box: tuple[int, int, int, int], height: int, width: int) -> tuple[int, int, int, int] | None:
    """`--box T B L R` as (x1, y1, x2, y2); None when it asks for detection. Raises InputError if it is not inside."""
    if box == DETECT:
        return None
    _check_inside("--box", box, box, height, width)
    top, bottom, left, right = box
    return left, top, right, bottom


def _check_inside(flag: str, given: tuple, sides: tuple[int, int, int, int], height: int, width: int) -> None:
    top, bottom, left, right = sides
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise InputError(
            f"{flag} {' '.join(map(str, given))} (top, bottom, left, right) is outside or inverted: "
            f"the picture has {height} rows and {width} columns there"
        )
