"""A live stream: sound from a pipe, pictures and sound out to a player, paced by the clock."""

import threading
import time
from collections.abc import Callable
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np

from lipsync.live import SAMPLE_RATE, LipSyncStream
from lipsync.stages import Queue
from lipsync.video_writer import in_stream_format

BYTES_PER_SAMPLE = 2  # s16le
READ_SAMPLES = 320  # 20 ms
HELD_SAMPLES = 3200  # 200 ms: a sender that is faster than the clock waits, so that latency is bounded
CUSHION_SAMPLES = 960  # 60 ms of sound that must have come before it is used, so that uneven senders do not crackle
FIRST_SOUND_SECONDS = 0.5  # how long the first sound is waited for before silence begins
LATE_SECONDS = 0.12  # behind the clock by more than this, the picture before is shown again
KEYFRAME_SECONDS = 2
AAC_BITS = 96_000  # a second
QUEUED_CALLS = 4  # of a stream written in the background: two frames and their sound


class SoundPipe:
    """Samples from a stream of s16le at 16 kHz, silence where none have come. The stream is read in a thread.

    Attributes:
        ended: whether the stream is at its end and all of it has been taken.
    """

    def __init__(self, stream: BinaryIO):
        self._stream, self._held, self._changed = stream, np.zeros(0, np.int16), threading.Condition()
        self._closed, self._flowing = False, False
        threading.Thread(target=self._read, daemon=True).start()  # may sit in a read for ever

    @property
    def ended(self) -> bool:
        with self._changed:
            return self._closed and not len(self._held)

    def wait(self, seconds: float) -> None:
        """Until sound is there, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._held) >= CUSHION_SAMPLES, seconds)

    def take(self, count: int) -> np.ndarray:
        """(count,) int16. After silence, sound begins once a cushion of it has come."""
        with self._changed:
            flowed = self._flowing
            self._flowing = self._closed or len(self._held) >= (count if flowed else CUSHION_SAMPLES)
            taken = self._held[: count if self._flowing else 0]
            self._held = self._held[len(taken) :]
            self._changed.notify_all()
        silence = np.zeros(count - len(taken), np.int16)
        return np.concatenate([taken, silence] if flowed else [silence, taken])

    def _read(self) -> None:
        rest = b""
        while True:
            try:
                chunk = self._stream.read(READ_SAMPLES * BYTES_PER_SAMPLE)
            except (OSError, ValueError):
                chunk = b""
            with self._changed:
                if not chunk:
                    self._closed = True
                    self._changed.notify_all()
                    return
                whole = rest + chunk
                used = len(whole) - len(whole) % BYTES_PER_SAMPLE
                rest = whole[used:]
                self._held = np.concatenate([self._held, np.frombuffer(whole[:used], "<i2")])
                self._changed.notify_all()
                self._changed.wait_for(lambda: len(self._held) < HELD_SAMPLES)


class TransportStream:
    """MPEG-TS of H.264 and AAC, written as it is made."""

    def __init__(self, out: BinaryIO, stream: LipSyncStream, crf: int, preset: str):
        self._colour, self._fps = stream.colour, stream.fps
        options = {"flush_packets": "1", "pes_payload_size": "0"}  # each packet leaves at once
        self._container = av.open(out, "w", format="mpegts", options=options)
        video_options = {"crf": str(crf), "preset": preset, "tune": "zerolatency"}
        self._video = self._container.add_stream("libx264", rate=stream.fps, options=video_options)
        self._video.width, self._video.height = stream.width, stream.height
        self._video.pix_fmt = "yuv444p" if stream.height % 2 or stream.width % 2 else "yuv420p"
        context = self._video.codec_context
        context.gop_size = max(1, round(KEYFRAME_SECONDS * stream.fps))
        context.colorspace, context.color_range = self._colour.matrix, self._colour.range
        context.color_primaries, context.color_trc = self._colour.primaries, self._colour.transfer
        context.time_base, context.sample_aspect_ratio = 1 / stream.fps, stream.pixel_aspect
        self._audio = self._container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        self._audio.bit_rate = AAC_BITS
        self._resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE)
        self._samples = 0

    def write_sound(self, pcm: np.ndarray) -> None:
        """Append (samples,) int16."""
        if not len(pcm):
            return
        sound = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE, self._samples, Fraction(1, SAMPLE_RATE)
        self._samples += len(pcm)
        for part in self._resampler.resample(sound):
            self._container.mux(self._audio.encode(part))

    def write_frame(self, frame: np.ndarray, index: int) -> None:
        """Show (H, W, 3) uint8 BGR at `index` / fps seconds."""
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="bgr24")
        picture = in_stream_format(picture, self._video.pix_fmt, self._colour)
        picture.pts, picture.time_base = index, 1 / self._fps
        self._container.mux(self._video.encode(picture))

    def close(self) -> None:
        self._container.mux(self._video.encode(None))
        self._container.mux(self._audio.encode(None))
        self._container.close()


class RawStream:
    """Frames alone, BGR bytes one after the other."""

    def __init__(self, out: BinaryIO):
        self._out = out

    def write_sound(self, pcm: np.ndarray) -> None:
        """Left out."""

    def write_frame(self, frame: np.ndarray, index: int) -> None:
        rest = memoryview(np.ascontiguousarray(frame)).cast("B")
        while rest:
            rest = rest[self._out.write(rest) :]

    def close(self) -> None:
        self._out.flush()


class InBackground:
    """A stream that is written in a thread of its own, so that encoding a frame does not keep the next one waiting.

    An error of that thread is raised by the next call.
    """

    def __init__(self, out: TransportStream | RawStream):
        self._out, self._error = out, None
        self._calls: Queue[tuple[Callable, tuple]] = Queue(QUEUED_CALLS)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def write_sound(self, pcm: np.ndarray) -> None:
        self._do(self._out.write_sound, pcm)

    def write_frame(self, frame: np.ndarray, index: int) -> None:
        self._do(self._out.write_frame, frame, index)

    def close(self) -> None:
        """Finish what is waiting."""
        self._do(self._out.close)
        self._calls.close()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _do(self, function: Callable, *arguments: object) -> None:
        if not self._calls.put((function, arguments)):
            raise self._error

    def _work(self) -> None:
        try:
            for function, arguments in self._calls:
                function(*arguments)
        except BaseException as error:
            self._error = error
            self._calls.close(discard=True)


def broadcast(
    stream: LipSyncStream,
    sound: SoundPipe,
    out: TransportStream | RawStream | InBackground,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Feed a stream from a pipe and write it, each frame at its time by the clock, until the sound ends.

    The time of frame i is fixed from the start, so that nothing drifts; what the machine is too slow for shows the
    picture before again. Returns the number of frames made anew.
    """
    sound.wait(FIRST_SOUND_SECONDS)
    begun, made, samples, frame = now(), 0, 0, None
    end = None  # samples after which there is only silence
    while end is None or stream.frame_index * SAMPLE_RATE < end * stream.fps:
        index = stream.frame_index
        due = begun + float(index / stream.fps)
        if now() < due:
            sleep(due - now())
        wanted = stream.missing()
        pcm = sound.take(wanted)
        samples += wanted
        if end is None and sound.ended:
            end = samples
        stream.push(pcm)
        out.write_sound(pcm)
        if frame is not None and now() - due > LATE_SECONDS:
            stream.skip()
        else:
            frame, made = next(stream.frames()), made + 1
        out.write_frame(frame, index)
    out.close()
    return made
