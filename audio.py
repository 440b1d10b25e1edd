"""Waveforms and mel spectrograms, as the networks expect them (paper section 3.1; constants in `hparams.py`).

A mel spectrogram has 80 frames a second; the networks see windows of 16 of them (200 ms).
"""

from functools import lru_cache
from pathlib import Path

import numpy as np

from errors import InputError
from hparams import HParams, hparams

MEL_STEP_SIZE = 16  # mel frames a window: 200 ms
MEL_FRAMES_PER_SECOND = hparams.sample_rate / hparams.hop_size  # 80
MIN_AMPLITUDE = 1e-5  # -100 dB: floor before the logarithm


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
    """y[n] = x[n] - k x[n-1], with x[-1] = 0."""
    from scipy import signal

    return signal.lfilter([1, -k], [1], wav)


def inv_preemphasis(wav: np.ndarray, k: float = hparams.preemphasis) -> np.ndarray:
    """The inverse of `preemphasis`."""
    from scipy import signal

    return signal.lfilter([1], [1, -k], wav)


def linearspectrogram(wav: np.ndarray, hp: HParams = hparams) -> np.ndarray:
    """Normalised magnitude spectrogram in dB of a (samples,) waveform: (1 + n_fft / 2, frames), in [-4, 4]."""
    return _normalize(_amp_to_db(_magnitude(wav, hp)) - hp.ref_level_db, hp)


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
    mel = _mel_filterbank(hp.sample_rate, hp.n_fft, hp.num_mels, hp.fmin, hp.fmax) @ _magnitude(wav, hp)
    return _normalize(_amp_to_db(mel) - hp.ref_level_db, hp).astype(np.float32)


def denormalize(spectrogram: np.ndarray, hp: HParams = hparams) -> np.ndarray:
    """[-4, 4] back to dB relative to the reference level."""
    clipped = np.clip(spectrogram, -hp.max_abs_value, hp.max_abs_value)
    return (clipped + hp.max_abs_value) * -hp.min_level_db / (2 * hp.max_abs_value) + hp.min_level_db


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
    while (start := int(len(starts) * (MEL_FRAMES_PER_SECOND / fps))) + MEL_STEP_SIZE <= mel_frames:
        starts.append(start)
    return [*starts, mel_frames - MEL_STEP_SIZE]


def _magnitude(wav: np.ndarray, hp: HParams) -> np.ndarray:
    """(1 + n_fft / 2, frames) magnitudes; reflect padding, as the published features were made with."""
    import librosa

    emphasized = preemphasis(wav, hp.preemphasis)
    return np.abs(
        librosa.stft(emphasized, n_fft=hp.n_fft, hop_length=hp.hop_size, win_length=hp.win_size, pad_mode="reflect")
    )


@lru_cache(maxsize=4)
def _mel_filterbank(sr: int, n_fft: int, num_mels: int, fmin: float, fmax: float) -> np.ndarray:
    import librosa

    return librosa.filters.mel(sr=sr, n_fft=n_fft, n_mels=num_mels, fmin=fmin, fmax=fmax)


def _amp_to_db(magnitude: np.ndarray) -> np.ndarray:
    return 20 * np.log10(np.maximum(MIN_AMPLITUDE, magnitude))


def _normalize(db: np.ndarray, hp: HParams) -> np.ndarray:
    scaled = 2 * hp.max_abs_value * (db - hp.min_level_db) / -hp.min_level_db - hp.max_abs_value
    return np.clip(scaled, -hp.max_abs_value, hp.max_abs_value)
