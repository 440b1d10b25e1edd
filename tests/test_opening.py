"""How far mouths are open, seen and heard."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import drawn_lips, make_data_set, write_labels

from errors import InputError
from models.checkpoint import load_face_mesh, load_heard_shape, load_mouth_cover, load_network
from models.face_mesh import EYE_CORNERS, POINTS
from models.mouth_cover import MouthCover
from models.speech_shape import heard_along
from training import landmarks, opening, variety
from training.clips import Clip
from training.labels import Labels, labels_paths


def test_shipped_networks_load():
    networks = load_face_mesh(), load_mouth_cover(), load_heard_shape()
    for network in networks:
        assert not network.training and not any(weight.requires_grad for weight in network.parameters())
    assert 0.005 < float(networks[2].std[0]) < 0.05


def test_shipped_networks_hear_silence_and_see_real_mouths(shared):
    """Silence closes a mouth more than speech; a clip's openings vary and stay in the range of mouths."""
    from audio import load_wav, speech_spectrogram

    speech = speech_spectrogram(load_wav(shared / "clips/speech_two.wav"))
    speech[:, 150:250] = -4
    hear, places = load_heard_shape(), np.arange(0, speech.shape[1], 20)
    shapes, ranks = (heard_along(f, speech, places) for f in (hear, hear.rank))
    assert shapes.shape == ranks.shape == (len(places), 2)
    assert ranks[10:12].tolist() == [[0, 0.5]] * 2 and ranks[:, 0].median() > 0.1 and ranks[:, 0].max() > 0.8
    assert shapes.std(0).min() > 0.005 and shapes.abs().max() < 0.15


def test_training_from_landmarks_learns_and_says_what_is_missing(tmp_path, monkeypatch, capsys):
    data, lists = make_data_set(tmp_path)
    words = ["opening", "--data_root", data, "--filelists", lists, "--target_dir", tmp_path / "out", "--steps", 15]
    monkeypatch.setattr("sys.argv", [str(word) for word in words])
    with pytest.raises(InputError, match=r"training\.landmarks"):
        opening.main()
    write_labels(data, lists)
    paths = labels_paths(data, "val")
    lesson = opening.LESSONS["mouth_cover"]
    small = dataclasses.replace(lesson, plan=dataclasses.replace(lesson.plan, batch=16))
    monkeypatch.setitem(opening.LESSONS, "mouth_cover", small)
    for more in (["--only", "mouth_cover", "--steps", "50"], ["--only", "speech_shape", "--steps", "2"]):
        monkeypatch.setattr("sys.argv", [*map(str, words), *more])
        opening.main()
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines.keys() == {lesson.file.name for lesson in opening.LESSONS.values()}
    assert float(lines["mouth_cover.pth"][2]) > 0.5, lines  # told apart
    assert isinstance(load_network(MouthCover, tmp_path / "out/mouth_cover.pth"), MouthCover)
    np.save(paths.openings, np.zeros(3, np.float32))
    with pytest.raises(InputError, match="is of 3 crops.*again"):
        opening.main()
    paths.openings.write_bytes(b"no array")
    with pytest.raises(InputError, match="damaged.*again"):
        opening.main()


def test_clips_of_some_folders_are_drawn_more_often():
    clips = [Clip(Path(folder) / "00000", np.arange(3), np.zeros((9, 80))) for folder in ("a", "b", "a")]
    assert opening.how_often(clips, []) is None
    assert opening.how_often(clips, ["a=2.5"]).tolist() == [2.5, 1, 2.5]
    for wrong, why in (("a", "TIMES"), ("a=0", "over 0"), ("a=nan", "over 0"), ("c=2", "no folder c")):
        with pytest.raises(InputError, match=why):
            opening.how_often(clips, [wrong])


def test_other_throats_move_bands_and_noise_fills_silence():
    torch.manual_seed(0)
    mel = torch.full((64, 1, 80, 48), -4.0)
    mel[:, :, 30:34] = 3
    moved = variety.of_other_throats(mel)[:, 0, :, 0].argmax(1)
    assert 27 <= moved.min() < 29 and 33 < moved.max() <= 37  # 12 % of band 30 and more
    assert variety.of_other_throats(mel).shape == mel.shape
    heard = variety.in_noise(mel)
    silent = heard[:, 0, 50:].mean((1, 2))
    assert 0.3 < (silent > -3.2).float().mean() < 0.7  # noise in half of them, some of it faint
    assert (heard[:, 0, 31:33].mean((1, 2)) > 2).all() and heard.min() >= -4 and heard.max() <= 4
    shown, known = variety.in_other_voice(mel, torch.ones(64, 2, 7))
    assert shown.shape == mel.shape and (known == 1).all()


def test_covered_mouths_are_told_by_how_much_of_them_is_covered():
    torch.manual_seed(0)
    points = torch.from_numpy(96 * drawn_lips(drawn_mouth())).expand(64, -1, -1)
    faces = torch.full((64, 3, 96, 96), 0.5)
    faces[1::2] = 0.9  # a neighbour shows wherever a face is covered
    covered, share = variety.partly_covered(faces, points)
    changed = (covered != faces).any(1)
    assert (changed.flatten(1).any(1) >= (share > 0)).all() and 0.5 < changed.flatten(1).any(1).float().mean() < 0.8
    x0, y0, x1, y1 = (*points[0].amin(0).int().tolist(), *points[0].amax(0).int().tolist())
    of_mouth = changed[:, y0 : y1 + 1, x0 : x1 + 1].float().mean((1, 2))
    assert (of_mouth[share > 0.9] > 0.8).all() and (of_mouth[share == 0] < 0.2).all()
    assert (share < 0.1).sum() > 20 and (share > 0.35).sum() > 8


def drawn_mouth() -> np.ndarray:
    face = np.full((96, 96, 3), 128, np.uint8)
    face[68:78, 36:60] = 20
    return face


def test_points_move_with_their_pictures():
    """A bright spot stays where its point says, whatever is drawn."""
    torch.manual_seed(0)
    places = torch.tensor([
        [30.0, 60.0], [66.0, 60.0], [48.0, 54.0], [48.0, 66.0], [48.0, 72.0], [32.0, 60.0],
        [64.0, 60.0], [39.0, 56.0], [57.0, 56.0], [39.0, 65.0], [57.0, 65.0],
    ])  # fmt: skip
    faces = torch.zeros(22, 3, 96, 96)
    rows, columns = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    for face in range(22):
        x, y = places[face % 11]
        faces[face] = 255 * torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
    moved, points = variety.moved_with_points(faces, places.expand(22, -1, -1))
    for face in range(22):
        brightest = int(moved[face].mean(0).flatten().argmax())
        found = torch.tensor([brightest % 96 + 0.5, brightest // 96 + 0.5])
        own = variety.MIRRORED.index(face % 11)
        nearest = (points[face, [face % 11, own]] - found).norm(dim=1).min()
        inside = ((points[face] > 3) & (points[face] < 93)).all()
        assert nearest < 2 or not inside


class KnownMesh:
    """Sees points at given places."""

    def __init__(self, presence: float):
        self.presence, self.points = presence, np.full((POINTS, 2), 0.5)
        self.points[EYE_CORNERS[0]] = 0.1

    def closely(self, face):
        return self.points, self.presence


def test_landmarks_give_lips_and_the_gap_over_the_eyes():
    mesh, face = KnownMesh(9.0), np.zeros((96, 80, 3), np.uint8)
    for point, place in {13: (40, 60), 14: (40, 66), 33: (10, 30), 263: (70, 30), 61: (12, 48)}.items():
        mesh.points[point] = np.array(place) / (80, 96)
    gap, lips, second = landmarks.labels_of(face, mesh)
    assert gap == second == pytest.approx(0.1)
    assert lips.shape == (11, 2) and lips[0] == pytest.approx((12 / 80, 0.5))
    other = KnownMesh(0.0)
    other.points[:] = mesh.points
    other.points[14] = np.array((40, 63)) / (80, 96)
    first, its_lips, second = landmarks.labels_of(face, mesh, other)
    assert (first, second) == pytest.approx((0.1, 0.05)) and np.array_equal(its_lips, lips)
    gap, lips, second = landmarks.labels_of(face, KnownMesh(-2.0), other)
    assert np.isnan((gap, second)).all() and np.isnan(lips).all()


def test_labels_of_a_data_set_are_written(toy, monkeypatch, capsys):
    data, lists = toy
    monkeypatch.setattr(landmarks, "load_face_mesh", lambda: KnownMesh(9.0))
    words = ["landmarks", "--data_root", data, "--filelists", lists, "--splits", "val"]
    monkeypatch.setattr("sys.argv", [str(word) for word in words])
    landmarks.main()
    assert "0.0% of them without a face" in capsys.readouterr().out
    labels = Labels(*map(np.load, labels_paths(data, "val")))
    assert (
        len(labels.lips) == len(labels.openings) == len(labels.second) > 0
        and (labels.lips == 0.5).all()
        and (labels.widths == 0).all()
    )
