"""Audio features against the published numbers, and waveforms that cannot be used."""

import json
import subprocess
import sys
from pathlib import Path

import librosa
import numpy as np
import pytest
from scipy.io import wavfile

import audio
from errors import InputError


def tone(seconds: float, sr: int = 16000) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * sr)) / sr).astype(np.float32)


def test_mel_equals_the_parity_vector(parity):
    vectors = np.load(parity / "mel.npz")
    mel = audio.melspectrogram(vectors["wav"])
    assert mel.shape == vectors["mel"].shape
    np.testing.assert_allclose(mel, vectors["mel"], atol=1e-3)


def test_mel_window_starts_equal_the_parity_vectors(parity):
    for case in json.loads((parity / "mel_windows.json").read_text()):
        assert audio.mel_window_starts(case["mel_frames"], case["fps"]) == case["starts"]


@pytest.mark.parametrize("fps", [22.13, 24, 25, 29.97, 60])
def test_windows_stay_inside_and_the_last_is_the_final_16_frames(fps):
    for mel_frames in range(16, 120):
        starts = audio.mel_window_starts(mel_frames, fps)
        assert starts[-1] == mel_frames - 16
        assert all(b >= a for a, b in zip(starts, starts[1:], strict=False))
        assert starts[:-1] == [int(i * (80 / fps)) for i in range(len(starts) - 1)]


def test_80_mel_frames_a_second_in_range():
    mel = audio.melspectrogram(tone(1.0))
    assert mel.shape == (80, 81)
    assert mel.dtype == np.float32
    assert mel.min() >= -4
    assert mel.max() <= 4


def test_reflect_padding_keeps_the_first_frame_like_the_second():
    mel = audio.melspectrogram(tone(1.0))
    loudest = mel[:, 10].argmax()
    assert abs(mel[loudest, 0] - mel[loudest, 10]) < 0.3  # zero padding would halve it: 0.5 of the scale


def test_mel_equals_librosas():
    """Which the published features were made with; not needed to run."""
    import librosa

    wav = np.random.default_rng(0).uniform(-0.5, 0.5, 16000).astype(np.float32)
    bands = librosa.filters.mel(sr=16000, n_fft=800, n_mels=80, fmin=55, fmax=7600)
    np.testing.assert_allclose(audio.mel_filterbank(16000, 800, 80, 55, 7600), bands, atol=1e-8)
    spectrum = np.abs(
        librosa.stft(audio.preemphasis(wav), n_fft=800, hop_length=200, win_length=800, pad_mode="reflect")
    )
    db = 20 * np.log10(np.maximum(1e-5, bands @ spectrum)) - 20
    np.testing.assert_allclose(audio.melspectrogram(wav), np.clip(8 * (db + 100) / 100 - 4, -4, 4), atol=1e-5)


def test_long_sound_is_computed_in_parts_that_fit_together(monkeypatch):
    wav = np.random.default_rng(0).uniform(-0.5, 0.5, 20000).astype(np.float32)
    whole = audio.melspectrogram(wav)
    monkeypatch.setattr(audio, "CHUNK_FRAMES", 7)
    np.testing.assert_allclose(audio.melspectrogram(wav), whole, atol=1e-5)
    np.testing.assert_allclose(audio.mel_frames(wav, 30, 53), whole[:, 30:53], atol=1e-5)


def test_features_load_nothing_slow():
    script = "import sys, numpy, audio; audio.melspectrogram(numpy.zeros(9999)); print('scipy' in sys.modules)"
    root = Path(audio.__file__).parent
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_preemphasis_has_an_inverse():
    wav = np.random.default_rng(0).standard_normal(1000)
    np.testing.assert_allclose(audio.inv_preemphasis(audio.preemphasis(wav)), wav, atol=1e-9)
    assert audio.preemphasis(wav)[1] == pytest.approx(wav[1] - 0.97 * wav[0])


def test_denormalize_inverts_the_scale():
    assert audio.denormalize(np.array([-4.0, 0.0, 4.0])).tolist() == [-100, -50, 0]


def test_linear_spectrogram_has_a_bin_per_frequency():
    spectrogram = audio.linearspectrogram(tone(0.5))
    assert spectrogram.shape == (401, 41)
    assert spectrogram[:, 20].argmax() == round(440 / 20)


def test_any_rate_and_channels_load_as_16_khz_mono(tmp_path):
    stereo = np.stack([tone(1.0, 44100), tone(1.0, 44100)], axis=1)
    wavfile.write(tmp_path / "a b'c.wav", 44100, (stereo * 32767).astype(np.int16))
    wav = audio.load_wav(tmp_path / "a b'c.wav")
    assert wav.ndim == 1
    assert abs(len(wav) - 16000) < 64
    np.testing.assert_allclose(wav[1000:2000], tone(1.0)[1000:2000], atol=5e-3)


def test_save_wav_uses_the_full_range(tmp_path):
    audio.save_wav(0.1 * tone(0.5), tmp_path / "x.wav")
    rate, samples = wavfile.read(tmp_path / "x.wav")
    assert rate == 16000
    assert abs(int(samples.max()) - 32767) < 5


def test_bad_audio_is_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        audio.load_wav(tmp_path / "none.wav")
    (tmp_path / "text.wav").write_text("not sound")
    with pytest.raises(InputError, match="cannot be read as audio"):
        audio.load_wav(tmp_path / "text.wav")
    with pytest.raises(InputError, match="NaN"):
        audio.melspectrogram(np.array([0, np.nan] * 1000))
    with pytest.raises(InputError, match="200 ms"):
        audio.melspectrogram(tone(0.01))
    with pytest.raises(InputError, match="200 ms"):
        audio.mel_window_starts(10, 25)


def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    audio.save_wav(tone(0.5), "a:b.wav")
    assert len(audio.load_wav("a:b.wav")) == 8000


@pytest.mark.parametrize(("context", "ahead"), [(0, 0), (5, 0), (36, 8)])
def test_windows_have_silence_around_the_sound(context, ahead):
    mel = np.random.default_rng(0).uniform(-3, 4, (80, 50)).astype(np.float32)
    places = np.array([-7, 0, 20, 45, 60, 120])
    padded = np.pad(mel, ((0, 0), (context + 7, ahead + 120)), constant_values=-4)
    found = audio.stretches_at(mel, places, context, ahead)
    assert found.shape == (6, 80, context + ahead) and found.dtype == np.float32
    for window, place in zip(found, places, strict=True):
        assert np.array_equal(window, padded[:, place + 7 : place + 7 + context + ahead])
    assert audio.stretches_at(mel, places[:0], context, ahead).shape == (0, 80, context + ahead)


def test_speech_spectrogram_is_librosas_of_power_in_our_decibels():
    wav = (0.1 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    power = librosa.feature.melspectrogram(y=wav, sr=16000, n_fft=400, hop_length=160, n_mels=80, pad_mode="reflect")
    expected = np.clip((10 * np.log10(power) - 20 + 100) / 12.5 - 4, -4, 4)
    found = audio.speech_spectrogram(wav)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_allclose(audio.speech_frames(wav[800:], 20, 60), found[:, 25:65], atol=1e-5)
    assert audio.speech_places(np.arange(4), 25).tolist() == [0, 4, 8, 12]
    assert audio.speech_places(np.array([30]), 30, -20.0).tolist() == [98]
