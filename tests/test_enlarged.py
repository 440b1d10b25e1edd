"""Generators of different face sizes on the same faces: what each is measured on, and that small ones look soft."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from errors import InputError
from evaluation import enlarged
from models import Wav2Lip
from models.checkpoint import save_checkpoint

LARGE = (192, 192)


class Copying(nn.Module):
    """Gives back the reference, as a perfect generator of a face that never moves would."""

    def __init__(self, img_size: tuple[int, int], reference: str = "own"):
        super().__init__()
        self.img_size, self.reference = img_size, reference

    def forward(self, _: Tensor, faces: Tensor) -> Tensor:
        return faces[:, 3:]


@pytest.fixture(scope="module")
def windows(toy, tmp_path_factory):
    """The toy's faces enlarged, with a grain that only large faces can show."""
    root = tmp_path_factory.mktemp("grained") / "data"
    shutil.copytree(toy[0], root)
    grain = np.random.default_rng(0).integers(-20, 20, (*LARGE, 1))
    for path in root.glob("*/*/*.jpg"):
        face = cv2.resize(cv2.imread(str(path)), LARGE) + grain
        cv2.imwrite(str(path), np.clip(face, 0, 255).astype(np.uint8))
    return enlarged.Windows(root, "val", toy[1], windows=2, seed=0)


def test_small_faces_are_softer_than_large_ones(windows):
    generators = {"small": Copying((96, 96)), "large": Copying(LARGE)}
    figures, pictures = enlarged.compare(windows, generators, LARGE, columns=3)
    assert list(figures) == ["own reference, copied", "small", "large", "truth through 96x96"]
    assert figures["large"] == pytest.approx(figures["own reference, copied"])
    assert figures["large"]["sharpness"] == pytest.approx(1, abs=0.1)
    for name in ("small", "truth through 96x96"):
        assert figures[name]["sharpness"] < 0.3
        assert figures[name]["sharpness_mouth"] < 0.3
    assert figures["truth through 96x96"]["psnr"] > figures["small"]["psnr"]
    assert pictures.shape == (5 * LARGE[0], 3 * LARGE[1], 3)  # a row more: the truth


def test_every_size_has_the_same_windows(windows):
    for size in ((96, 96), LARGE):
        windows.add(size, "own")
    windows.add(LARGE, "fitting")
    for index in range(len(windows)):
        small, large = (windows.at(size, "own", index) for size in ((96, 96), LARGE))
        assert torch.equal(windows.at(LARGE, "fitting", index)["target"], large["target"])
        assert torch.equal(small["indiv_mels"], large["indiv_mels"])
        for name in ("target", "reference"):
            halved = torch.nn.functional.avg_pool3d(large[name], (1, 2, 2))
            assert (halved - small[name]).abs().mean() < 0.03


def test_generators_see_the_references_that_they_ask_for(windows):
    figures, _ = enlarged.compare(windows, {kind: Copying(LARGE, kind) for kind in ("own", "fitting")}, LARGE)
    for kind in ("own", "fitting"):
        assert figures[kind] == pytest.approx(figures[f"{kind} reference, copied"])
    assert figures["own"]["psnr"] != pytest.approx(figures["fitting"]["psnr"])


def test_small_faces_get_the_detail_of_fitting_references(windows):
    kinds = {kind: Copying((96, 96), kind) for kind in ("own", "fitting")}
    figures, _ = enlarged.compare(windows, kinds, LARGE)
    assert "own, with detail" not in figures
    detailed, copied = figures["fitting, with detail"], figures["fitting reference, copied"]
    assert detailed == pytest.approx(copied, rel=0.02)
    assert detailed["sharpness"] > 3 * figures["fitting"]["sharpness"]


def test_generator_of_another_aspect_is_refused(windows):
    with pytest.raises(InputError, match="tall sees faces of 288x192, not of the aspect of 192x192"):
        enlarged.compare(windows, {"tall": Wav2Lip((288, 192), width=0.125)}, LARGE)


def test_command_prints_stores_and_draws(toy, tmp_path, capsys):
    for name, size in (("small", (96, 96)), ("large", LARGE)):
        save_checkpoint(tmp_path / f"{name}.pth", Wav2Lip(size, width=0.125))
    files = [tmp_path / "small.pth", tmp_path / "large.pth"]
    argv = ["--data_root", toy[0], "--filelists", toy[1], "--windows", 1, "--generators", *files]
    argv += ["--strips", tmp_path / "strips.png", "--columns", 2, "--json", tmp_path / "figures.json"]
    enlarged.main(list(map(str, argv)))
    assert "2 windows at 192x192" in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "strips.png")).shape == (5 * LARGE[0], 2 * LARGE[1], 3)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures[str(files[0])]["sharpness_mouth"] > 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--strips", "strips.film"], "does not end like a picture"),
        (["--windows", "0"], "take numbers from 1"),
        (["--img_size", "100"], "does not halve down"),
    ],
)
def test_bad_flags_say_so(toy, tmp_path, flags, words):
    save_checkpoint(tmp_path / "small.pth", Wav2Lip(width=0.125))
    argv = ["--data_root", str(toy[0]), "--filelists", str(toy[1]), "--generators", str(tmp_path / "small.pth")]
    with pytest.raises(InputError, match=words):
        enlarged.main([*argv, *flags])
