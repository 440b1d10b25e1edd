"""Waveforms and mel spectrograms, as the networks expect them (paper section 3.1; constants in `hparams.py`).

A mel spectrogram has 80 frames a second; the networks see windows of 16 of them (200 ms). What mouths are heard by
(`models.speech_shape`) has another one, of 100 frames a second: the speech spectrogram.
"""

import dataclasses
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from errors import InputError
from hparams import HParams, hparams

MEL_STEP_SIZE = 16  # mel frames a window: 200 ms
MEL_FRAMES_PER_SECOND = hparams.sample_rate / hparams.hop_size  # 80
ROUNDING = 1e-6  # mel frames: far more than sums of floats are off, far less than anyone hears
SPEECH_HPARAMS = dataclasses.replace(
    hparams, n_fft=400, win_size=400, hop_size=160, preemphasis=0.0, fmin=0.0, fmax=hparams.sample_rate / 2
)
SPEECH_FRAMES_PER_SECOND = SPEECH_HPARAMS.sample_rate / SPEECH_HPARAMS.hop_size  # 100
MIN_AMPLITUDE = 1e-5  # -100 dB: floor before the logarithm
CHUNK_FRAMES = 1024  # spectrogram frames computed at once, so that long sounds take little memory
# Slaney's mel scale: linear up to 1000 Hz, which is 15 mel, then logarithmic, 27 mel to a factor of 6.4.
HZ_PER_MEL, BREAK_HZ, BREAK_MEL, LOG_STEP = 200 / 3, 1000.0, 15.0, np.log(6.4) / 27


def load_wav(path: str | Path, sr: int = hparams.sample_rate) -> np.ndarray:
    """Decode the first audio stream of any media file to a mono waveform.

    Returns (samples,) float32, nominally in [-1, 1], at `sr` Hz: the mean of the channels.
    Raises InputError when the file is missing, is no media file or has no audio stream that decodes.
    A file that ends in the middle of a packet gives what decodes.
    """
    import av

    path = Path(path)
    if not path.is_file():
        raise InputError(f"audio file {path} does not exist or is not a file: give any file with an audio stream")
    resampler = av.AudioResampler(format="fltp", rate=sr)
    chunks = []
    try:
        with av.open(f"file:{path}") as container:
            if not container.streams.audio:
                raise InputError(f"{path} has no audio stream: give a file with sound")
            try:
                for frame in container.decode(container.streams.audio[0]):
                    chunks += [out.to_ndarray().mean(axis=0) for out in resampler.resample(frame)]
            except av.error.InvalidDataError:
                pass  # truncated: what decoded so far counts
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as audio ({_reason(error)}): give any file with an audio stream"
        ) from error
    if chunks:
        chunks += [out.to_ndarray().mean(axis=0) for out in resampler.resample(None)]
    wav = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
    if wav.size == 0:
        raise InputError(f"the audio stream of {path} holds no sound that decodes: give another file")
    return wav


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def save_wav(wav: np.ndarray, path: str | Path, sr: int = hparams.sample_rate) -> None:
    """Write a mono waveform as 16-bit PCM, scaled so that its largest sample uses the full range."""
    from scipy.io import wavfile

    scaled = wav * (32767 / max(0.01, float(np.max(np.abs(wav), initial=0))))
    wavfile.write(str(path), sr, scaled.astype(np.int16))


def preemphasis(wav: np.ndarray, k: float = hparams.preemphasis) -> np.ndarray:
    """y[n] = x[n] - k x[n-1], with x[-1] = 0; float64."""
    return _emphasised(np.asarray(wav), np.arange(len(wav)), k)


def inv_preemphasis(wav: np.ndarray, k: float = hparams.preemphasis) -> np.ndarray:
    """The inverse of `preemphasis`."""
    from scipy import signal

    return signal.lfilter([1], [1, -k], wav)


def linearspectrogram(wav: np.ndarray, hp: HParams = hparams) -> np.ndarray:
    """Normalised magnitude spectrogram in dB of a (samples,) waveform: (1 + n_fft / 2, frames), in [-4, 4]."""
    frames = _frame_count(len(wav), hp)
    return np.concatenate([_in_db(magnitude, hp) for magnitude in _magnitudes(wav, 0, frames, hp)], axis=1)


def melspectrogram(wav: np.ndarray, hp: HParams = hparams) -> np.ndarray:
    """Normalised mel spectrogram in dB of a (samples,) waveform at `hp.sample_rate`.

    Returns (num_mels, frames) float32 in [-4, 4], 1 + samples // hop_size frames.
    Raises InputError for samples that are NaN or infinite and for a waveform under half a window.
    """
    wav = np.asarray(wav)
    if not np.isfinite(wav).all():
        raise InputError("the audio has samples that are not numbers (NaN or infinite): export it again")
    if wav.size <= hp.n_fft // 2:
        raise InputError(f"the audio lasts {1000 * wav.size / hp.sample_rate:.0f} ms: at least 200 ms are needed")
    return mel_frames(wav, 0, _frame_count(wav.size, hp), hp)


def load_mel(path: str | Path, hp: HParams = hparams) -> np.ndarray:
    """`melspectrogram` of a file's sound: (num_mels, T). Raises InputError, see `load_wav`."""
    return melspectrogram(load_wav(path), hp)


def mel_frames(wav: np.ndarray, first: int, end: int, hp: HParams = hparams) -> np.ndarray:
    """Frames `first` to `end` (exclusive) of `melspectrogram`: (num_mels, end - first) float32.

    Frame t depends on the samples from t x hop_size - n_fft / 2 to t x hop_size + n_fft / 2 only.
    """
    return _in_bands(wav, first, end, hp)


def speech_spectrogram(wav: np.ndarray) -> np.ndarray:
    """Mel spectrogram of power, in the same decibels and range: (80, 1 + samples // 160) float32; frame t is centred on
    10 t milliseconds."""
    return speech_frames(wav, 0, _frame_count(len(wav), SPEECH_HPARAMS))


def speech_frames(wav: np.ndarray, first: int, end: int) -> np.ndarray:
    """Frames `first` to `end` (exclusive) of `speech_spectrogram`: (80, end - first) float32.

    Frame t depends on the samples from 160 t - 200 to 160 t + 200 only.
    """
    return _in_bands(wav, first, end, SPEECH_HPARAMS, of_power=True)


def speech_places(frames: np.ndarray, fps: float, shift_ms: float = 0.0) -> np.ndarray:
    """The frames of a speech spectrogram at some video frames (n,), or `shift_ms` after them."""
    seconds = frames / fps + shift_ms / 1000
    return np.floor(seconds * SPEECH_FRAMES_PER_SECOND + ROUNDING).astype(int)


def denormalize(spectrogram: np.ndarray, hp: HParams = hparams) -> np.ndarray:
    """[-4, 4] back to dB relative to the reference level."""
    clipped = np.clip(spectrogram, -hp.max_abs_value, hp.max_abs_value)
    return (clipped + hp.max_abs_value) * -hp.min_level_db / (2 * hp.max_abs_value) + hp.min_level_db


def mel_start(frame: int, fps: float) -> int:
    """First mel frame of a video frame, counted from 0."""
    return int(MEL_FRAMES_PER_SECOND * frame / fps)


def mel_starts(frames: np.ndarray, fps: float) -> np.ndarray:
    """`mel_start` of many frames."""
    return (MEL_FRAMES_PER_SECOND * frames / fps).astype(int)


def mel_window_start(index: int, fps: float, shift_ms: float = 0.0) -> int:
    """First mel frame of what a video frame hears, counted from 0: what sounds `shift_ms` after the frame's own time.

    Without a shift this is int(index x (80 / fps)), as published; with one, it is exact in time before it is rounded
    down, so that a frame's length earlier gives what training heard. Below 0 it lies before the sound.
    """
    start = index * (MEL_FRAMES_PER_SECOND / fps)
    return math.floor(start + shift_ms / 1000 * MEL_FRAMES_PER_SECOND + ROUNDING) if shift_ms else int(start)


def stretches_at(spectrogram: np.ndarray, places: np.ndarray, before: int, after: int) -> np.ndarray:
    """The `before` frames before some places (n,) of a spectrogram (bands, T) and the `after` from each place on:
    (n, bands, before + after).

    There is silence before the beginning and after the end.
    """
    first, end = int(places.min(initial=0)) - before, int(places.max(initial=0)) + after
    part = spectrogram[:, max(0, first) : max(0, end)]
    silence = (max(0, -first), max(0, end - max(0, first) - part.shape[1]))
    padded = np.pad(part, ((0, 0), silence), constant_values=-hparams.max_abs_value)
    return padded[:, (places - before - first)[:, None] + np.arange(before + after)].transpose(1, 0, 2)


def mel_window_starts(mel_frames: int, fps: float) -> list[int]:
    """First mel frame of the window of each video frame.

    Window i starts at int(i x 80 / fps); the first one that would pass the end is replaced by the final 16 mel
    frames, and the list ends there. Its length is the length of the result in video frames.
    Raises InputError when the speech is shorter than one window.
    """
    if mel_frames < MEL_STEP_SIZE:
        raise InputError(
            f"the audio lasts {1000 * mel_frames / MEL_FRAMES_PER_SECOND:.0f} ms: at least 200 ms are needed"
        )
    starts = []
    while (start := mel_window_start(len(starts), fps)) + MEL_STEP_SIZE <= mel_frames:
        starts.append(start)
    return [*starts, mel_frames - MEL_STEP_SIZE]


def _frame_count(samples: int, hp: HParams) -> int:
    return 1 + samples // hp.hop_size


def _in_bands(wav: np.ndarray, first: int, end: int, hp: HParams, of_power: bool = False) -> np.ndarray:
    """Frames in mel bands and normalised decibels, of magnitudes or of power: (num_mels, end - first) float32."""
    filters = mel_filterbank(hp.sample_rate, hp.n_fft, hp.num_mels, hp.fmin, hp.fmax)
    mel = np.empty((hp.num_mels, end - first), np.float32)
    done = 0
    for magnitude in _magnitudes(wav, first, end, hp):
        bands = np.sqrt(filters @ np.square(magnitude)) if of_power else filters @ magnitude
        mel[:, done : done + magnitude.shape[1]] = _in_db(bands, hp)
        done += magnitude.shape[1]
    return mel


def _magnitudes(wav: np.ndarray, first: int, end: int, hp: HParams) -> Iterator[np.ndarray]:
    """(1 + n_fft / 2, n) magnitudes, `CHUNK_FRAMES` at most at once.

    Frames are centred and the sound is mirrored at its ends, as the published features were made.
    """
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(hp.win_size) / hp.win_size)  # Hann, periodic
    for start in range(first, end, CHUNK_FRAMES):
        stop = min(end, start + CHUNK_FRAMES)
        places = np.arange(start * hp.hop_size, (stop - 1) * hp.hop_size + hp.n_fft) - hp.n_fft // 2
        places = np.abs(places)
        places = np.where(places < len(wav), places, 2 * (len(wav) - 1) - places)
        emphasised = _emphasised(wav, places, hp.preemphasis)
        frames = np.lib.stride_tricks.sliding_window_view(emphasised, hp.n_fft)[:: hp.hop_size]
        yield np.abs(np.fft.rfft(frames * window, axis=1)).T


def _emphasised(wav: np.ndarray, places: np.ndarray, k: float) -> np.ndarray:
    """`preemphasis` of a waveform at some of its samples."""
    before = np.where(places > 0, wav[places - 1].astype(np.float64), 0)
    return wav[places].astype(np.float64) - k * before


@lru_cache(maxsize=4)
def mel_filterbank(sr: int, n_fft: int, num_mels: int, fmin: float, fmax: float) -> np.ndarray:
    """Triangles of equal area between points equally far apart in mel (Slaney): (num_mels, 1 + n_fft / 2) float32."""
    edges = _to_hz(np.linspace(*_to_mel(np.array([fmin, fmax], np.float64)), num_mels + 2))
    frequencies = np.fft.rfftfreq(n_fft, 1 / sr)
    widths = np.diff(edges)[:, None]
    distances = edges[:, None] - frequencies
    triangles = np.maximum(0, np.minimum(-distances[:-2] / widths[:-1], distances[2:] / widths[1:]))
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def _to_mel(hz: np.ndarray) -> np.ndarray:
    logarithmic = BREAK_MEL + np.log(np.maximum(hz, BREAK_HZ) / BREAK_HZ) / LOG_STEP
    return np.where(hz < BREAK_HZ, hz / HZ_PER_MEL, logarithmic)


def _to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < BREAK_MEL, mel * HZ_PER_MEL, BREAK_HZ * np.exp(LOG_STEP * (mel - BREAK_MEL)))


def _in_db(magnitude: np.ndarray, hp: HParams) -> np.ndarray:
    """Magnitudes to normalised decibels in [-4, 4]."""
    return _normalize(_amp_to_db(magnitude) - hp.ref_level_db, hp)


def _amp_to_db(magnitude: np.ndarray) -> np.ndarray:
    return 20 * np.log10(np.maximum(MIN_AMPLITUDE, magnitude))


def _normalize(db: np.ndarray, hp: HParams) -> np.ndarray:
    scaled = 2 * hp.max_abs_value * (db - hp.min_level_db) / -hp.min_level_db - hp.max_abs_value
    return np.clip(scaled, -hp.max_abs_value, hp.max_abs_value)
