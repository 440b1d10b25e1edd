"""Whisper's first layers under what hears mouths, and what stands on them."""

import copy

import librosa
import numpy as np
import pytest
import torch

import audio
from errors import InputError
from models.checkpoint import load_heard_shape, load_network
from models.speech_encoder import CHANNELS, SpeechEncoder, positions, resampled
from models.speech_shape import AHEAD, CONTEXT, FIRST, LAST, STRETCH, WINDOW, windows_along, windows_so_far
from training import speech_encoder

SPEECH = "demo/speech.wav"
PUBLISHED = ((0.318, 0.997, 1.265, 0.22), (0.441, 0.652, 1.198, 0.654))


@pytest.fixture(scope="module")
def shipped():
    return load_heard_shape()


def test_the_published_layers_come_out(shipped):
    """Against numbers of the published code with the published weights; bytes for weights cost some precision."""
    rows, frames = torch.meshgrid(torch.arange(80.0), torch.arange(100.0), indexing="ij")
    found = shipped.encoder.layers((torch.sin(rows / 5) * torch.cos(frames / 4))[None])
    for layer, expected in zip(found, PUBLISHED, strict=True):
        assert layer.shape == (1, 50, CHANNELS)
        assert layer[0, 20, [0, 100, 200, 300]].tolist() == pytest.approx(expected, abs=0.05)


def test_tokens_know_their_places():
    table = positions(1500)
    assert table.shape == (1500, CHANNELS) and torch.equal(table[0], (torch.arange(CHANNELS) >= CHANNELS // 2).float())
    assert (table[1:] - table[:-1]).norm(dim=1).min() > 0.1


def test_windows_are_resampled_from_the_first_frame():
    mel = torch.arange(24.0).expand(2, 80, 24)
    found = resampled(mel)
    assert found.shape == (2, 80, 29)
    torch.testing.assert_close(found[0, 0], 0.8 * torch.arange(29.0))


def test_the_published_spectrogram_is_librosas():
    rng = np.random.default_rng(0)
    wav = (0.1 * rng.standard_normal(16000)).astype(np.float32)
    power = librosa.feature.melspectrogram(y=wav, sr=16000, n_fft=400, hop_length=160, n_mels=80, pad_mode="constant")
    log = np.log10(np.maximum(power, 1e-10))
    np.testing.assert_allclose(speech_encoder.spectrogram(wav), (np.maximum(log, log.max() - 8) + 4) / 4, atol=0.01)


def test_bands_are_fitted_to_speech_and_those_shipped_are_like_the_published(shipped):
    sounds = speech_encoder.read_sounds([SPEECH])
    network = copy.deepcopy(shipped.encoder)
    assert speech_encoder.fit_bands(network, sounds) > 0.9
    with torch.no_grad():
        network.bands.weight.add_(
            torch.randn(network.bands.weight.shape, generator=torch.Generator().manual_seed(0)) / 99
        )
    before = speech_encoder.unlike(network, sounds[0]).item()
    assert speech_encoder.refine_bands(network, sounds, 30, seed=0) < before / 2
    with torch.no_grad():
        assert speech_encoder.unlike(shipped.encoder, sounds[0]) < 0.15  # other voices made the fit


def test_a_place_is_heard_by_the_time_of_its_frame(shipped):
    """What comes later than what listeners take in changes nothing but by attention; what is there changes most."""
    torch.manual_seed(1)
    mel = 2 * torch.randn(1, 80, WINDOW)
    places = torch.tensor([[FIRST, 72, LAST]])
    before = shipped.standardised(mel, places)
    assert before.shape == (1, 3, 2)
    changes = []
    for at in (FIRST, 72, LAST):
        other = mel.clone()
        other[..., at : at + 16] = 2 * torch.randn(1, 80, 16)
        changes.append((shipped.standardised(other, places) - before)[0].norm(dim=1))
    assert (torch.stack(changes).argmax(0) == torch.arange(3)).all()


@pytest.mark.parametrize("fps", [24, 25, 30000 / 1001, 60])
def test_windows_along_speech_have_every_frame_once_with_both_sides_heard(fps):
    mel = np.random.default_rng(0).uniform(-4, 4, (80, 400)).astype(np.float32)
    starts = np.array(audio.mel_window_starts(400, fps))
    for windows, fewest in ((windows_along, STRETCH), (windows_so_far, AHEAD)):
        done = 0
        for window, places in windows(mel, starts):
            assert window.shape == (1, 80, WINDOW) and places.min() >= FIRST and places.max() <= LAST
            for place in places[0].tolist():
                at = starts[done]
                assert np.array_equal(window[0, :, place : place + 16], mel[:, at : at + 16])
                if at + 16 + fewest <= 400:
                    assert WINDOW - place - 16 >= fewest
                    assert np.array_equal(window[0, :, place + 16 :][:, :fewest], mel[:, at + 16 : at + 16 + fewest])
                done += 1
        assert done == len(starts)


def test_live_hears_the_same_whatever_is_known_already(shipped):
    mel = torch.randn(80, 300).numpy()
    at = np.arange(120, 160, 4)
    early, late = (
        [shipped.rank(*each) for each in windows_so_far(mel[:, :end], at)] for end in (at[-1] + 16 + AHEAD, 300)
    )
    assert torch.equal(torch.cat(early), torch.cat(late)) and CONTEXT == LAST


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        speech_encoder.read_published(SpeechEncoder(), tmp_path / "nothing.pt")
    (tmp_path / "page.pt").write_text("<html>")
    with pytest.raises(InputError, match=r"not the published tiny\.en\.pt"):
        speech_encoder.read_published(SpeechEncoder(), tmp_path / "page.pt")


def test_weights_are_read_fitted_and_written(toy, tmp_path, monkeypatch, capsys):
    torch.manual_seed(2)
    source = SpeechEncoder()
    weights = {f"encoder.{name}": value for name, value in source.state_dict().items() if "bands" not in name}
    torch.save({"dims": {}, "model_state_dict": weights | {"decoder.x": torch.zeros(2)}}, tmp_path / "tiny.en.pt")
    monkeypatch.setattr(speech_encoder, "DIGEST", speech_encoder.digest_of(tmp_path / "tiny.en.pt"))
    data, lists = toy
    words = ["speech_encoder", "--whisper", tmp_path / "tiny.en.pt", "--data_root", data, "--filelists", lists]
    words += ["--outfile", tmp_path / "out.pth", "--steps", 2]
    monkeypatch.setattr("sys.argv", [str(word) for word in words])
    speech_encoder.main()
    assert "explains" in capsys.readouterr().out
    read = load_network(SpeechEncoder, tmp_path / "out.pth")
    torch.testing.assert_close(read.blocks[1].mlp[0].weight, source.blocks[1].mlp[0].weight, atol=1e-3, rtol=0)
    assert not torch.equal(read.bands.weight, source.bands.weight)
