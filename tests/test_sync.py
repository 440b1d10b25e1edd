"""The sync metrics: their definitions on distances that are known, and the offset of tracks whose shift is known."""

import numpy as np
import pytest
import torch
from media import RATE, noise
from torch import nn

import audio
from errors import InputError
from evaluation import sync
from models import SyncNet_color
from models.checkpoint import DEFAULT_EXPERT, load_expert

CODE = 16  # values that a frame's face, and its sound, say


class KnownExpert(nn.Module):
    """Stands in for the expert: faces and mel windows hold their embedding, in their first pixels and values."""

    img_size = (96, 96)
    fps = 25.0

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def face_encoder(self, faces):  # (N, 15, 48, 96): the first frame's lower half, blue
        return faces[:, 0, 0, :CODE, None]

    def audio_encoder(self, mel):  # (N, 1, 80, 16): the first mel frame
        return mel[:, 0, :CODE, :1]


def track(frames: int, shift: int, fps: float = 25) -> tuple[np.ndarray, np.ndarray]:
    """Faces (F, 96, 96, 3) and mel (80, T) that say the same, the sound `shift` frames later."""
    codes = np.random.default_rng(0).integers(0, 255, (frames + 60, CODE)).astype(np.uint8)
    faces = np.zeros((frames, 96, 96, 3), np.uint8)
    faces[:, 48, :CODE, 0] = codes[30 : 30 + frames]
    mel = np.zeros((80, audio.mel_start(frames - 1, fps) + 16), np.float32)
    for frame in range(frames):
        start, end = audio.mel_start(frame, fps), audio.mel_start(frame + 1, fps)
        mel[:CODE, start:end] = codes[30 + frame - shift][:, None] / 255
    return faces, mel


@pytest.mark.parametrize("fps", [24, 25, 30000 / 1001, 50])
@pytest.mark.parametrize("shift", [-15, -4, 0, 1, 12])
def test_sound_that_is_late_has_a_positive_offset(shift, fps):
    found = sync.measure(KnownExpert(), *track(70, shift, fps), fps)
    assert found.offset == shift
    assert found.distance == pytest.approx(0, abs=1e-5)
    assert found.confidence > 0.3


def test_matrix_is_the_distance_of_normalised_embeddings_and_nan_without_sound():
    faces, mel = track(20, 0)
    matrix = sync.distances(KnownExpert(), faces, mel, 25)
    assert matrix.shape == (16, 31)
    assert np.isnan(matrix[0, :15]).all() and np.isfinite(matrix[0, 15:]).all()
    face, speech = faces[3, 48, :CODE, 0].astype(np.float64), mel[:CODE, audio.mel_start(7, 25)]
    expected = np.linalg.norm(face / np.linalg.norm(face) - speech / np.linalg.norm(speech))
    assert matrix[3, 15 + 4] == pytest.approx(expected, abs=1e-6)


def test_score_is_the_minimum_of_the_mean_curve_and_its_depth_under_the_median():
    matrix = np.full((4, 31), 1.0, np.float32)
    matrix[:, 20] = (0.2, 0.4, 0.2, 0.4)
    matrix[0, :3] = np.nan
    found = sync.score(matrix)
    assert (found.offset, found.windows) == (5, 4)
    assert found.distance == pytest.approx(0.3) and found.confidence == pytest.approx(0.7)
    assert found.curve[0] == 1 and len(found.curve) == 31


def test_offset_with_sound_for_few_windows_does_not_count():
    matrix = np.ones((20, 31), np.float32)
    matrix[:, 0] = np.nan
    matrix[0, 0] = 0
    found = sync.score(matrix)
    assert found.distance == 1 and np.isnan(found.curve[0])


def test_windows_do_not_reach_across_missing_frames():
    numbers = np.array([0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12])
    assert sync.window_places(numbers).tolist() == [0, 1, 6]
    faces, mel = track(40, 3)
    kept = np.r_[0:12, 17:40]
    assert sync.measure(KnownExpert(), faces[kept], mel, 25, kept).offset == 3


def test_what_cannot_be_measured_is_said():
    faces, mel = track(20, 0)
    with pytest.raises(InputError, match="never in 5 in a row"):
        sync.measure(KnownExpert(), faces[:4], mel, 25)
    with pytest.raises(InputError, match="the sound ends before"):
        sync.measure(KnownExpert(), faces, mel[:, :16], 25, np.arange(100, 120))


def test_batches_and_sizes_of_faces_do_not_matter(monkeypatch):
    torch.manual_seed(0)
    expert = SyncNet_color(width=0.125).eval()
    mel = audio.melspectrogram(noise(1.2))
    faces = np.random.default_rng(0).integers(0, 255, (30, 96, 96, 3)).astype(np.uint8)
    whole = sync.distances(expert, faces, mel, 25)
    monkeypatch.setattr(sync, "BATCH", 7)
    np.testing.assert_allclose(sync.distances(expert, faces, mel, 25), whole, atol=1e-5)
    larger = [np.repeat(np.repeat(face, 2, 0), 2, 1) for face in faces]
    np.testing.assert_allclose(sync.distances(expert, larger, mel, 25), whole, atol=0.02)


def test_shipped_expert_finds_shifted_sound_of_real_people(shared):
    from lipsync.video import FrameReader

    clip = shared / "data" / "mvlrs_v1" / "main" / "7002" / "00000.mp4"
    faces = [frame[30:150, 30:130] for frame in FrameReader(clip)]
    wav = audio.load_wav(clip)
    expert = load_expert(DEFAULT_EXPERT)
    scores = [
        sync.measure(expert, faces, audio.melspectrogram(np.roll(wav, shift * RATE // 25)), 25) for shift in (0, 7)
    ]
    assert scores[1].offset - scores[0].offset == 7
