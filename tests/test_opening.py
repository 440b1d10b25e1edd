"""How far mouths are open, seen and heard, and the loss that makes generated ones follow the speech."""

import numpy as np
import pytest
import torch
from test_training import SMALL
from torch import nn
from toy import make_data_set

from errors import InputError
from hparams import hparams
from models import SyncNet_color
from models.checkpoint import load_heard_opening, load_network, load_seen_opening
from models.opening import MouthOpening, SpeechOpening
from training import landmarks, opening
from training.clips import open_clips
from training.data import GeneratorDataset
from training.following import Following
from training.stages import GeneratorStage


class DarkMouth(MouthOpening):
    """Sees a mouth as open as it is dark."""

    def standardised(self, faces):
        return 10 * (0.5 - faces[:, :, 70:80, 40:56].mean((1, 2, 3)))


class Loud(SpeechOpening):
    def standardised(self, mel):
        return mel.mean((1, 2, 3)) / 4


class Mouth(nn.Module):
    """A generator that darkens the reference's mouth by what it hears, or not."""

    def __init__(self, response: float):
        super().__init__()
        self.response = response

    def forward(self, mel, faces):
        out = faces[:, 3:].clone()
        out[:, :, 62:88, 32:64] -= self.response * (mel.mean((1, 2, 3)) / 40)[:, None, None, None]
        return out


@pytest.fixture
def batch():
    torch.manual_seed(0)
    levels = torch.linspace(-3, 3, 4)[None, :, None, None, None]
    face = torch.full((2, 3, 5, 96, 96), 0.5)
    return {"target": face, "reference": face, "speeches": levels.expand(2, 4, 1, 80, 16)}


def test_following_prefers_the_mouth_that_opens_with_its_speech(batch):
    following = Following(DarkMouth(), Loud(), gain=1.0)
    deaf, right, wrong = (following(batch, Mouth(response))[0] for response in (0, 1, -1))
    assert right < 0.1 * deaf < 0.1 * wrong


def test_following_does_not_reward_what_a_mouth_did_before(batch):
    """A face whose own mouth is open must not make the same difference for all that it says."""
    following = Following(DarkMouth(), Loud(), gain=1.0)
    opened = batch | {"target": batch["target"].clone()}
    opened["target"][..., 62:88, 32:64] = 0.3
    assert following(opened, Mouth(0))[0] > following(batch, Mouth(0))[0]


def test_what_is_around_the_mouth_stays(batch):
    class Spots(nn.Module):
        def forward(self, mel, faces):
            out = faces[:, 3:].clone()
            out[:, :, :20] = 1
            return out

    following = Following(DarkMouth(), Loud(), gain=1.0)
    assert following(batch, Mouth(1))[1] < 0.002
    assert following(batch, Spots())[1] > 0.05


def test_seen_opening_takes_any_size_and_no_light():
    network = MouthOpening().eval()
    faces = torch.rand(3, 3, 24, 24).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert network(faces).shape == (3,)
    torch.testing.assert_close(network(faces * 0.5 + 0.2), network(faces), atol=0.02, rtol=0.1)
    assert network(torch.rand(2, 3, 192, 144)).shape == (2,)


def test_shipped_networks_load():
    seen, heard = load_seen_opening(), load_heard_opening()
    assert not seen.training and not any(weight.requires_grad for weight in (*seen.parameters(), *heard.parameters()))
    assert 0.005 < float(heard.std) < float(seen.std) < 0.05


def test_shipped_networks_hear_silence_and_see_real_mouths(shared):
    """Silence closes a mouth more than speech; a clip's openings vary and stay in the range of mouths."""
    from audio import load_wav, melspectrogram

    mel = melspectrogram(load_wav(shared / "clips/speech_two.wav"))
    speech = np.stack([mel[:, start : start + 16] for start in range(0, mel.shape[1] - 16, 16)])
    windows = torch.from_numpy(np.concatenate([speech, np.full((1, 80, 16), -4.0)])).float()[:, None]
    openings = load_heard_opening()(windows)
    assert openings[-1] < openings[:-1].median()


def test_stage_learns_from_speeches_of_the_data(toy):
    data, lists = toy
    hp = hparams.override(f"{SMALL},opening_wt=0.5,opening_speeches=3,augment=True,hold_statistics=True")
    clips = open_clips(data, "train", hp, 1, lists)
    dataset = GeneratorDataset(clips, hp, seed=0, train=True)
    sample = dataset[0]
    assert sample["speeches"].shape == (3, 1, 80, 16)
    assert np.array_equal(sample["speeches"], dataset[0]["speeches"])
    loudness = [np.mean([dataset[i]["speeches"][k].mean() for i in range(10)]) for k in range(3)]
    assert loudness == sorted(loudness)
    stage = GeneratorStage(hp, SyncNet_color(width=0.125))
    stage.train_mode()
    assert not any(module.training for module in stage.networks[""].modules())
    batch = {name: torch.from_numpy(np.stack([value, value])) for name, value in sample.items()}
    batch = {name: value / 255 if value.dtype == torch.uint8 else value for name, value in batch.items()}
    learnt = []
    shown = stage.step(stage.prepare(batch), lambda prefix, loss: learnt.append(loss))
    torch.testing.assert_close(learnt[0], shown["l1"] + 0.5 * shown["opening"] + shown["around"])
    assert "speeches" not in GeneratorDataset(clips, hp, seed=0, train=False)[0]


def test_training_from_landmarks_learns_and_says_what_is_missing(tmp_path, monkeypatch, capsys):
    data, lists = make_data_set(tmp_path)
    words = ["opening", "--data_root", data, "--filelists", lists, "--target_dir", tmp_path / "out", "--steps", 25]
    monkeypatch.setattr("sys.argv", [str(word) for word in words])
    with pytest.raises(InputError, match=r"training\.landmarks"):
        opening.main()
    for split in ("train", "val"):
        clips = open_clips(data, split, hparams, 0, lists)
        faces = [clip.face(at, (96, 96)) for clip in clips for at in range(len(clip.numbers))]
        np.save(landmarks.labels_path(data, split), np.array([dark(face) for face in faces], np.float32))
    opening.main()
    lines = capsys.readouterr().out.splitlines()
    assert float(lines[0].split()[2]) > 0.5  # drawn mouths are easily seen
    assert isinstance(load_network(MouthOpening, tmp_path / "out/mouth_opening.pth"), MouthOpening)
    np.save(landmarks.labels_path(data, "val"), np.zeros(3, np.float32))
    with pytest.raises(InputError, match="again"):
        opening.main()


def dark(face: np.ndarray) -> float:
    """The height of a drawn mouth, over the face's."""
    return float((face[60:92, 48, 1] < 50).sum() / 96)


def test_landmarks_give_the_gap_over_the_eyes(monkeypatch):
    points = np.zeros((468, 2))
    points[13], points[14], points[33], points[263] = (50, 60), (50, 66), (20, 30), (80, 30)
    face = np.zeros((96, 96, 3), np.uint8)
    assert landmarks.opening_of(face, lambda picture: points) == pytest.approx(0.1)
    assert np.isnan(landmarks.opening_of(face, lambda picture: None))
    monkeypatch.setitem(__import__("sys").modules, "mediapipe", None)
    with pytest.raises(InputError, match="environment of its own"):
        landmarks.landmark_model()
