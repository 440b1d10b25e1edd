"""Whisper's first layers under what hears mouths, and what stands on them."""

import librosa
import numpy as np
import pytest
import torch

import audio
from errors import InputError
from models.checkpoint import load_heard_shape, load_network
from models.speech_encoder import CHANNELS, SpeechEncoder, as_published, positions
from models.speech_shape import AHEAD, CONTEXT, FIRST, LAST, STRETCH, WINDOW, windows_along, windows_so_far
from training import speech_encoder
from training.published import digest_of

SPEECH = "demo/speech.wav"
PUBLISHED = (0.441, 0.652, 1.198, 0.654)


@pytest.fixture(scope="module")
def shipped():
    return load_heard_shape()


def test_the_published_layers_come_out(shipped):
    """Against numbers of the published code with the published weights; bytes for weights cost some precision."""
    rows, frames = torch.meshgrid(torch.arange(80.0), torch.arange(100.0), indexing="ij")
    found = shipped.encoder.of_published((torch.sin(rows / 5) * torch.cos(frames / 4))[None])
    assert found.shape == (1, 50, CHANNELS)
    assert found[0, 20, [0, 100, 200, 300]].tolist() == pytest.approx(PUBLISHED, abs=0.05)


def test_the_published_spectrogram_comes_out():
    wav = (np.linspace(0.01, 0.3, 25600) * np.random.default_rng(0).standard_normal(25600)).astype(np.float32)
    power = librosa.feature.melspectrogram(y=wav, sr=16000, n_fft=400, hop_length=160, n_mels=80, pad_mode="reflect")
    log = np.log10(np.maximum(power, 1e-10))
    expected = (np.maximum(log, log.max() - 8) + 4) / 4
    made = as_published(torch.from_numpy(audio.speech_spectrogram(wav))[None])[0]
    heard = expected > expected.max() - 1.9  # deeper down ours ends
    assert heard.mean() > 0.5
    np.testing.assert_allclose(made.numpy()[heard], expected[heard], atol=0.01)


def test_tokens_know_their_places():
    table = positions(1500)
    assert table.shape == (1500, CHANNELS) and torch.equal(table[0], (torch.arange(CHANNELS) >= CHANNELS // 2).float())
    assert (table[1:] - table[:-1]).norm(dim=1).min() > 0.1


def test_a_place_is_heard_by_the_time_of_its_frame(shipped):
    """A moment of silence changes most where it is."""
    speech = torch.from_numpy(audio.speech_spectrogram(audio.load_wav(SPEECH)))[None, :, 100 : 100 + WINDOW]
    places = torch.tensor([[FIRST, 96, LAST]])
    before = shipped.standardised(speech, places)
    assert before.shape == (1, 3, 2)
    changes = []
    for at in (FIRST, 96, LAST):
        other = speech.clone()
        other[..., at - 8 : at + 16] = -4
        changes.append((shipped.standardised(other, places) - before)[0, :, 0].abs())
    assert (torch.stack(changes).argmax(1) == torch.arange(3)).all()


@pytest.mark.parametrize("fps", [24, 25, 30000 / 1001, 60])
def test_windows_along_speech_have_every_frame_once_with_both_sides_heard(fps):
    speech = np.random.default_rng(0).uniform(-4, 4, (80, 500)).astype(np.float32)
    places = audio.speech_places(np.arange(int(5 * fps)), fps)
    for windows, fewest in ((windows_along, STRETCH), (windows_so_far, AHEAD)):
        done = 0
        for window, where in windows(speech, places):
            assert window.shape == (1, 80, WINDOW) and where.min() >= FIRST and where.max() <= LAST
            for place in where[0].tolist():
                at = places[done]
                after = min(WINDOW - place, 500 - at)
                assert after >= min(fewest, 500 - at)
                assert np.array_equal(window[0, :, place : place + after], speech[:, at : at + after])
                before = min(place, at)
                assert np.array_equal(window[0, :, place - before : place], speech[:, at - before : at])
                done += 1
        assert done == len(places)


def test_live_hears_the_same_whatever_is_known_already(shipped):
    speech = torch.randn(80, 300, generator=torch.Generator().manual_seed(0)).numpy()
    at = np.arange(120, 160, 4)
    early, late = (
        [shipped.rank(*each) for each in windows_so_far(speech[:, :end], at)] for end in (at[-1] + AHEAD, 300)
    )
    assert torch.equal(torch.cat(early), torch.cat(late)) and CONTEXT == LAST


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        speech_encoder.read_published(tmp_path / "nothing.pt")
    (tmp_path / "page.pt").write_text("<html>")
    with pytest.raises(InputError, match=r"not the published tiny\.en\.pt"):
        speech_encoder.read_published(tmp_path / "page.pt")


def test_weights_are_read_and_written(tmp_path, monkeypatch, capsys):
    source = SpeechEncoder()
    weights = {f"encoder.{name}": value for name, value in source.state_dict().items()}
    torch.save({"dims": {}, "model_state_dict": weights | {"decoder.x": torch.zeros(2)}}, tmp_path / "tiny.en.pt")
    monkeypatch.setattr(speech_encoder, "DIGEST", digest_of(tmp_path / "tiny.en.pt"))
    words = ["speech_encoder", "--whisper", tmp_path / "tiny.en.pt", "--outfile", tmp_path / "out.pth"]
    monkeypatch.setattr("sys.argv", [str(word) for word in words])
    speech_encoder.main()
    assert "4.1 million" in capsys.readouterr().out
    read = load_network(SpeechEncoder, tmp_path / "out.pth")
    for name, value in source.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], value, atol=2e-3, rtol=1e-3)
