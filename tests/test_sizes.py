"""Faces of other sizes than the published one: their boxes, crops and files, and that 96 x 96 stays as published."""

import dataclasses
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from inference_setup import Painter, options, scene, stand_in
from media import noise, portrait, write_clip
from toy import make_clip

import crops
from audio import save_wav
from errors import InputError
from hparams import hparams, parse_size
from lipsync import live
from lipsync.pipeline import run
from models import SyncNet_color, Wav2Lip
from models.checkpoint import load_generator, save_checkpoint
from preprocessing import lrs2
from preprocessing.crops import crop_for, write_crop
from preprocessing.options import RawOptions
from training import losses
from training.augment import WindowTransform
from training.data import GeneratorDataset, load_clips

TALL, WIDE = (288, 192), (192, 384)
FRAME = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)


def test_sizes_are_read_as_height_by_width():
    assert (parse_size("96"), parse_size("192x192"), parse_size("1280x640")) == (96, 192, (1280, 640))
    assert hparams.face_size == (96, 96)
    assert hparams.override("img_size=288x192").face_size == (288, 192)
    for bad in ("", "96x", "0", "-96", "96x96x96", "big"):
        with pytest.raises(InputError, match="height x width"):
            parse_size(bad)


# Boxes and crops


@pytest.mark.parametrize("box", [(10, 20, 110, 150), (0, 0, 300, 200), (290, 10, 300, 190), (0, 180, 299, 200)])
def test_published_size_takes_any_box_as_it_is(box):
    assert crops.with_aspect(box, (96, 96)) == box
    x1, y1, x2, y2 = box
    expected = cv2.resize(FRAME[y1:y2, x1:x2], (96, 96))
    assert np.array_equal(crops.fit(crops.cut(FRAME, box), (96, 96)), expected)


@pytest.mark.parametrize("size", [TALL, WIDE, (192, 192), (1280, 640)])
@pytest.mark.parametrize("box", [(100, 50, 180, 150), (0, 20, 60, 60), (270, 100, 300, 200), (0, 0, 300, 200)])
def test_boxes_are_widened_or_heightened_about_their_middle(box, size):
    x1, y1, x2, y2 = crops.with_aspect(box, size)
    assert x1 <= box[0] and y1 <= box[1] and x2 >= box[2] and y2 >= box[3]
    assert (x1, x2) == (box[0], box[2]) or (y1, y2) == (box[1], box[3])  # one side grows
    assert abs((x1 + x2) - (box[0] + box[2])) <= 1 and abs((y1 + y2) - (box[1] + box[3])) <= 1
    assert abs((y2 - y1) * size[1] / size[0] - (x2 - x1)) < 1 + max(size) / min(size)
    again = crops.with_aspect((x1, y1, x2, y2), size)
    assert np.abs(np.subtract(again, (x1, y1, x2, y2))).max() <= 1


def test_over_the_frames_edge_the_outermost_pixels_are_repeated_and_nothing_is_squeezed():
    box = (-20, 150, 80, 250)
    window = crops.cut(FRAME, box)
    assert window.shape == (100, 100, 3)
    assert np.array_equal(window[:50, 20:], FRAME[150:200, :80])
    assert (window[:50, :20] == FRAME[150:200, :1]).all() and (window[50:] == window[49]).all()
    changed = FRAME.copy()
    crops.put_back(changed, 255 - window, box)
    assert np.array_equal(changed[150:, :80], 255 - FRAME[150:, :80])
    changed[150:, :80] = FRAME[150:, :80]
    assert np.array_equal(changed, FRAME)


def test_a_circle_stays_a_circle():
    frame = np.zeros((300, 400, 3), np.uint8)
    cv2.circle(frame, (60, 150), 40, (255, 255, 255), -1)
    box = crops.with_aspect((10, 100, 110, 200), TALL)  # heightened
    for crop in (crops.cut(frame, box), crops.cut(frame, (0, 60, 400, 240))):  # of the aspect, and far from it
        face = crops.fit(crop, TALL)[..., 0] > 127
        assert face.shape == TALL
        rows, columns = face.any(1).sum(), face.any(0).sum()
        assert rows == 0 or abs(rows - columns) <= 3


# Training data


def test_stored_crops_come_to_each_networks_size(tmp_path):
    make_clip(tmp_path / "a/1", seed=0)
    (tmp_path / "train.txt").write_text("a/1\n")
    hp = dataclasses.replace(hparams, img_size=TALL)
    for cached in (hp, dataclasses.replace(hp, cache_gb=0.0)):
        (clip,) = load_clips(tmp_path, "train", cached, lead=1, filelists=tmp_path)
        assert clip.window(3, TALL).shape == (5, *TALL, 3)
        assert clip.window(3, (96, 96)).shape == (5, 96, 96, 3)  # the expert's, of the same crops
        sample = GeneratorDataset([clip], cached, seed=0, train=True)[0]
        assert sample["target"].shape == (3, 5, *TALL)


def test_augmentation_turns_without_shear():
    turn = WindowTransform(True, False, (*cv2.getRotationMatrix2D((0, 0), 6, 1).ravel(),), (1.0,) * 3, 0.0)
    picture = np.zeros((1, 200, 100, 3), np.uint8)
    cv2.circle(picture[0], (50, 100), 30, (255, 255, 255), -1)
    assert np.abs(turn(picture).astype(int) - picture).mean() < 2  # a circle in the middle looks the same


def test_expert_sees_larger_faces_at_its_own_size():
    torch.manual_seed(0)
    expert = SyncNet_color(width=0.125).eval()
    faces = torch.rand(2, 3, 5, 288, 192, requires_grad=True)
    assert losses.at_size_of(expert, faces).shape == (2, 3, 5, 96, 96)
    small = torch.rand(2, 3, 5, 96, 96)
    assert losses.at_size_of(expert, small) is small
    losses.sync_loss(expert, torch.rand(2, 1, 80, 16), faces).backward()
    lower = faces.grad[..., 150:, :]
    assert (lower != 0).float().mean() > 0.95  # every pixel takes part
    # A stored crop at the expert's size is what the expert is shown of the same face at the generator's.
    crop = cv2.GaussianBlur(portrait(96), (0, 0), 1)
    shown = np.stack([crop] * 5)
    large = torch.from_numpy(np.stack([cv2.resize(f, (192, 288)) for f in shown])).permute(3, 0, 1, 2)[None] / 255
    seen = (losses.at_size_of(expert, large)[0].permute(1, 2, 3, 0) * 255).numpy()
    assert np.abs(seen - shown).mean() < 2


@pytest.mark.parametrize(
    ("img_size", "stored"),
    [(None, (120, 100)), ("96", (120, 100)), ("288x192", (150, 100)), ("192", (120, 120))],
)
def test_preprocessing_stores_crops_of_the_aspect(tmp_path, monkeypatch, img_size, stored):
    write_clip(tmp_path / "face.mp4", [scene()] * 3)
    given = lrs2.Lrs2Options(tmp_path, tmp_path, img_size=img_size)
    monkeypatch.setattr(lrs2, "_options", given, raising=False)
    monkeypatch.setattr(lrs2, "_detector", SimpleNamespace(
        get_detections_for_batch=lambda frames: [(60, 20, 160, 140)] * len(frames)))  # fmt: skip
    lrs2.write_faces(tmp_path / "face.mp4", tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.jpg")) == ["0.jpg", "1.jpg", "2.jpg"]
    assert cv2.imread(str(tmp_path / "1.jpg")).shape[:2] == stored


def test_preprocessing_reduces_crops_that_are_larger_than_needed(tmp_path):
    frame = cv2.resize(FRAME, None, fx=5, fy=5)
    box, pads = (100.2, 100, 600, 890), (0, 10, 0, 0)
    assert crop_for(frame, box, pads, (96, 96)).shape == (192, 120, 3)
    assert crop_for(frame, box, pads, TALL).shape == (360, 240, 3)
    write_crop(frame, (-90, 10, -5, 60), pads, tmp_path / "none.jpg", TALL)
    assert not (tmp_path / "none.jpg").exists()
    for kind, flag in ((lrs2.Lrs2Options, "data_root"), (RawOptions, "raw")):
        with pytest.raises(InputError, match="--img_size: a face of 100 x 90"):
            kind(**{flag: tmp_path}, preprocessed_root=tmp_path, img_size="100x90")


# Inference


class Copier(Painter):
    """Gives back the faces that it was shown."""

    face_size = TALL

    def fit(self, crop):
        return crops.fit(crop, self.face_size)

    def __call__(self, inputs):
        super().__call__(inputs)
        return [face for face, _ in inputs]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_clip(folder / "face.mp4", [scene(i) for i in range(4)])
    save_wav(noise(0.4), folder / "speech.wav")
    torch.manual_seed(0)
    save_checkpoint(folder / "generator.pth", Wav2Lip((192, 192), 0.125))
    return folder


@pytest.mark.parametrize("box", [(60, 20, 160, 140), (0, 10, 90, 150), (150, 60, 240, 160)])  # the latter at edges
def test_run_shows_the_generator_unsqueezed_faces(inputs, tmp_path, monkeypatch, box):
    painter = stand_in(monkeypatch, lambda i: [(*box, 0.9)], Copier())
    result = run(options(inputs, tmp_path / "out.mkv", lossless=True, nosmooth=True, pads=(0, 0, 0, 0)), workers=0)
    assert result.frames == 7
    face = painter.faces[0]
    assert face.shape == (*TALL, 3)
    from lipsync.video import FrameReader

    frame = next(iter(FrameReader(inputs / "face.mp4")))
    assert np.array_equal(face, crops.fit(crops.cut(frame, crops.with_aspect(box, TALL)), TALL))
    made = next(iter(FrameReader(result.outfile)))
    assert made.shape == frame.shape
    assert np.abs(made.astype(int) - frame).mean() < 1  # the same face comes back to the same place


def test_a_checkpoint_of_another_size_runs_in_file_and_live(inputs, tmp_path):
    given = {"box": (20, 140, 60, 160), "device": "cpu"}
    assert load_generator(inputs / "generator.pth").img_size == (192, 192)
    result = run(options(inputs, tmp_path / "out.mkv", lossless=True, **given))
    stream = live.LipSyncStream(inputs / "face.mp4", checkpoint_path=inputs / "generator.pth", **given)
    stream.push(noise(0.5))
    frames = list(stream.frames())
    assert result.frames == 7 and len(frames) > 3
    assert stream._faces[0].shape == (192, 192, 3)
    assert crops.with_aspect((60, 20, 160, 140), (192, 192)) == stream._boxes[0]


def test_scripts_name_sizes_that_cannot_be(toy, tmp_path, monkeypatch):
    import color_syncnet_train

    argv = ["x", "--data_root", toy[0], "--filelists", toy[1], "--checkpoint_dir", tmp_path]
    for flags, message in (
        (["--img_size", "100x90"], "100 x 90"),
        (["--img_size", "wide"], "height x width"),
        (["--batch_size", "some"], "auto"),
        (["--batch_size", "0"], "number from 1"),
        (["--batch_size", "auto", "--hparams", "syncnet_loss=infonce"], "all windows of a batch"),
    ):
        monkeypatch.setattr(sys, "argv", [*map(str, argv), *flags])
        with pytest.raises(InputError, match=message):
            color_syncnet_train.main()
