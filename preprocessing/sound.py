"""Sound in step with the picture: 16 kHz mono, sample 0 at the time of the first video frame."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np

import audio
from errors import InputError
from hparams import hparams

RATE = hparams.sample_rate
SLIP_SECONDS = 0.02  # by which sound may miss its time stamps before it is put right: container rounding is less
LONGEST_GAP_SECONDS = 60  # a longer gap in the time stamps is a fault of the file, which the picture closes too


class Sound:
    """A waveform that lies in a file of 16-bit samples, so that its length takes no memory."""

    def __init__(self, path: Path):
        self._samples = np.memmap(path, np.int16, "r") if path.stat().st_size else np.zeros(0, np.int16)

    def __len__(self) -> int:
        return len(self._samples)

    def between(self, first: int, end: int) -> np.ndarray:
        """Samples [first, end) as int16, silence where there is no sound; `first` may be negative."""
        part = self._samples[max(0, first) : max(0, end)]
        return np.pad(part, (min(max(0, -first), end - first), max(0, end - max(0, first) - len(part))))

    def of_frames(self, first: int, end: int, fps: float, pad: bool = True) -> np.ndarray:
        """The sound of video frames [first, end); without `pad` it ends where the sound does."""
        start = round(first * RATE / fps)
        stop = start + round((end - first) * RATE / fps)
        return self.between(start, stop if pad else max(start, min(stop, len(self))))


def extract(source: Path, start: Fraction, target: Path, seen: Callable[[int], None] = lambda frames: None) -> Sound:
    """Decode the first audio stream of `source` into the file `target`, a piece at a time.

    `start` is the time of the first video frame by the file's clock: sound before it is left out, and gaps in the
    sound become silence, so that sample n is heard n / 16000 seconds after the first frame is seen. The channels'
    mean is taken, as `audio.load_wav` does. `seen` is called now and then, with 0 video frames.
    Raises InputError when there is no sound that decodes.
    """
    import av

    try:
        with av.open(f"file:{source}") as container, target.open("wb") as file:
            if not container.streams.audio:
                raise InputError(f"{source} has no audio stream: give a video with sound")
            line = _Timeline(file, start)
            for frame in _decoded(container):
                seen(0)
                line.add(frame)
            line.finish()
    except av.error.FFmpegError as error:
        raise InputError(f"the sound of {source} cannot be read ({error.strerror}): convert it first") from error
    if not target.stat().st_size:
        raise InputError(f"the audio stream of {source} holds no sound that decodes: give another file")
    return Sound(target)


def _decoded(container) -> Iterator:
    """Frames of the first audio stream; what is damaged is left out."""
    import av

    try:
        for packet in container.demux(container.streams.audio[0]):
            try:
                yield from packet.decode()
            except av.error.InvalidDataError:
                continue
    except av.error.FFmpegError:
        return  # damaged from here on


class _Timeline:
    """Writes decoded sound where its time stamps say."""

    def __init__(self, file: BinaryIO, start: Fraction):
        self._file, self._start = file, start
        self._resampler, self._setup = None, None
        self._expected: Fraction | None = None  # time of the next sample by the file's clock
        self._written = 0
        self._ahead = 0  # samples to leave out: the sound written already reaches further

    def add(self, frame) -> None:
        setup = (frame.format.name, frame.layout.name, frame.rate)
        time = self._expected if frame.pts is None else frame.pts * frame.time_base
        if time is None:
            time = self._start
        late = 0 if self._expected is None else time - self._expected
        if abs(late) > LONGEST_GAP_SECONDS:
            self._start += late
            late = 0
            self._expected = time
        if self._expected is None or abs(late) > SLIP_SECONDS or setup != self._setup:
            self._begin_again(time if self._expected is None or abs(late) > SLIP_SECONDS else self._expected, setup)
        self._expected += Fraction(frame.samples, frame.rate)
        frame.pts = None
        self._write(self._resampler.resample(frame))

    def finish(self) -> None:
        if self._resampler is not None:
            self._write(self._resampler.resample(None))

    def _begin_again(self, time: Fraction, setup: tuple) -> None:
        import av

        self.finish()
        self._resampler, self._setup, self._expected = av.AudioResampler(format="fltp", rate=RATE), setup, time
        missing = round((time - self._start) * RATE) - self._written
        self._ahead = max(0, -missing)
        if missing > 0:
            self._file.write(bytes(2 * missing))
            self._written += missing

    def _write(self, frames: list) -> None:
        for frame in frames:
            samples = as_int16(frame.to_ndarray().mean(axis=0))
            left_out = min(self._ahead, len(samples))
            self._ahead -= left_out
            self._file.write(samples[left_out:].tobytes())
            self._written += len(samples) - left_out


def as_int16(wav: np.ndarray) -> np.ndarray:
    """A waveform in [-1, 1] as 16-bit samples; what is louder is cut off."""
    return np.round(np.clip(wav, -1, 32767 / 32768) * 32768).astype(np.int16)


def mel_of(samples: np.ndarray) -> np.ndarray:
    """The mel spectrogram (80, mel frames) of 16-bit samples. Raises InputError when they are too few."""
    return audio.melspectrogram(samples / np.float32(32768))


def write_sound(samples: np.ndarray, folder: Path, fps: float) -> None:
    """audio.wav of 16-bit samples, and the mel of exactly that as mel.npy: (mel frames, 80) float32."""
    from scipy.io import wavfile

    mel = mel_of(samples)
    audio.mel_window_starts(mel.shape[1], fps)  # refuses sound shorter than a window
    wavfile.write(folder / "audio.wav", RATE, samples)
    np.save(folder / "mel.npy", mel.T)
