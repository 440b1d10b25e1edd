"""The published speech embedding under what hears mouths."""

import librosa
import numpy as np
import pytest
import torch

import audio
from errors import InputError
from models.checkpoint import HEARD_SHAPE, SPEECH_EMBEDDING, load_network, read_state_dict
from models.opening import AHEAD, CONTEXT, EMBEDDED, PLACES
from models.speech_embedding import FEATURES, LAYERS, SEEN, STEP, STRIDE, SpeechEmbedding, resampled
from training import embedding

SPEECH = "demo/speech.wav"
PUBLISHED = ((-0.117, -0.4, 0.53, -0.4), (0.926, -0.396, 1.676, -0.161))


@pytest.fixture(scope="module")
def shipped():
    return load_network(SpeechEmbedding, SPEECH_EMBEDDING).requires_grad_(False)


def test_the_published_layers_come_out(shipped):
    """Against numbers of the published network, whose own runtime gave its output to 1e-5 from these very layers."""
    rows, bands = torch.meshgrid(torch.arange(76.0), torch.arange(32.0), indexing="ij")
    found = shipped.of_spectrogram((5 + 2 * torch.sin(rows / 5) * torch.cos(bands / 4))[None])
    for layer, expected in zip(found, PUBLISHED, strict=True):
        assert layer[0, -1, [0, 50, 100, 150]].tolist() == pytest.approx(expected, abs=0.02)


def test_places_depend_on_the_frames_that_are_said(shipped):
    spectrogram = torch.rand(1, 76, 32) * 4 + 3
    layers = shipped.of_spectrogram(spectrogram)
    for layer, features in zip(layers, FEATURES, strict=True):
        assert layer.shape[2] == features
    for at in range(76):
        changed = spectrogram.clone()
        changed[:, at] += 3
        for before, after, seen in zip(layers, shipped.of_spectrogram(changed), SEEN, strict=True):
            different = (before != after).any(2)[0].nonzero()[:, 0]
            assert all(STRIDE * place <= at < STRIDE * place + seen for place in different.tolist())


def test_windows_are_resampled_to_the_last_frame():
    mel = torch.arange(24.0).expand(2, 80, 24)
    found = resampled(mel, 10)
    assert found.shape == (2, 10, 80)
    torch.testing.assert_close(found[0, :, 0], 22.4 - STEP * torch.arange(9.0, -1, -1))


def test_what_listeners_hear_fills_their_windows(shipped):
    layers = shipped(torch.rand(3, 80, CONTEXT + 16 + AHEAD), EMBEDDED)
    for layer, places in zip(layers, PLACES, strict=True):
        assert layer.shape[:2] >= (3, places)
    assert layers[1].shape[1] == PLACES[1] == (EMBEDDED - SEEN[1]) // STRIDE + 1
    assert (EMBEDDED - 1) * STEP <= CONTEXT + 16 + AHEAD - 1 < (EMBEDDED + 5) * STEP  # little of them is not heard


def test_the_published_spectrogram_is_librosas():
    rng = np.random.default_rng(0)
    wav = (0.1 * rng.standard_normal(16000)).astype(np.float32)
    power = librosa.feature.melspectrogram(
        y=32767 * wav, sr=16000, n_fft=512, hop_length=160, win_length=400, n_mels=32, fmin=60, fmax=3800,
        pad_mode="constant",
    )  # fmt: skip
    np.testing.assert_allclose(embedding.spectrogram(wav, rng), 2 + np.log10(power.T), atol=0.01)


def test_bands_are_fitted_to_speech_and_are_those_shipped(shipped):
    network = SpeechEmbedding()
    assert embedding.fit_bands(network, [SPEECH], seed=0) > 0.9
    wav = audio.load_wav(SPEECH)
    ours = torch.from_numpy(audio.melspectrogram(wav))[None]
    frames = 1 + int((ours.shape[2] - 1) // STEP)
    wanted = torch.from_numpy(embedding.spectrogram(wav, np.random.default_rng(0)))[:frames]
    with torch.no_grad():
        made = shipped.bands(resampled(ours, frames))[0]
    loud = wanted > 4
    assert (made - wanted)[loud].abs().mean() < 0.4 < wanted[loud].std()  # of 10 dB; other voices made the fit


def test_what_hears_mouths_stands_on_it_unchanged():
    heard = read_state_dict(HEARD_SHAPE)
    for name, value in read_state_dict(SPEECH_EMBEDDING).items():
        assert torch.equal(heard[f"embedding.{name}"], value)


def test_other_files_are_refused(tmp_path):
    onnx = pytest.importorskip("onnx", reason="training.embedding alone needs onnx")
    (tmp_path / "page.onnx").write_text("<html>")
    with pytest.raises(InputError, match="cannot be read as ONNX"):
        embedding.read_published(SpeechEmbedding(), tmp_path / "page.onnx")
    graph = onnx.helper.make_graph([], "nothing", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(InputError, match="another network"):
        embedding.read_published(SpeechEmbedding(), tmp_path / "other.onnx")


def test_weights_are_read(tmp_path):
    onnx = pytest.importorskip("onnx", reason="training.embedding alone needs onnx")
    rng, source = np.random.default_rng(1), SpeechEmbedding()
    tensors, nodes = [], []

    def add(kind: str, *values: np.ndarray) -> None:
        names = [f"{kind}{len(nodes)}_{at}" for at in range(len(values))]
        tensors.extend(onnx.numpy_helper.from_array(v, name) for v, name in zip(values, names, strict=True))
        nodes.append(onnx.helper.make_node(kind, ["x", *names], ["x"]))

    for at, layer in enumerate(source.convolutions):
        weight, bias = (value.detach().numpy() for value in (layer.weight, layer.bias))
        add("Conv", weight, *([bias] if at else []))
        if not at:
            norm = [rng.random(LAYERS[0][0]).astype(np.float32) + 0.1 for _ in range(4)]
            add("BatchNormalization", *norm)
    graph = onnx.helper.make_graph(nodes, "speech", [], [], initializer=tensors)
    onnx.save(onnx.helper.make_model(graph), tmp_path / "speech.onnx")
    network = SpeechEmbedding()
    embedding.read_published(network, tmp_path / "speech.onnx")
    x = torch.from_numpy(rng.random((1, LAYERS[0][0], 4, 4)).astype(np.float32))
    normed = torch.nn.functional.batch_norm(
        x, torch.from_numpy(norm[2]), torch.from_numpy(norm[3]), torch.from_numpy(norm[0]), torch.from_numpy(norm[1]),
        eps=embedding.NORM_EPS,
    )  # fmt: skip
    torch.testing.assert_close(x * network.scale + network.shift, normed)
    assert torch.equal(network.convolutions[5].weight, source.convolutions[5].weight)
    assert (network.convolutions[0].bias == 0).all() and (network.convolutions[5].bias != 0).any()
