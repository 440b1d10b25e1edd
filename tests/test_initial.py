"""Where training starts: the generator as a copy of its reference, the discriminator awake."""

import pytest
import torch

from errors import InputError
from hparams import hparams
from models import SyncNet_color, Wav2Lip, Wav2Lip_disc_qual
from models.grow import colour_path
from training import initial
from training.stages import GeneratorStage, QualityStage


@pytest.fixture(scope="module")
def pictures():
    """Smooth pictures in [0.1, 0.9]: targets with their lower half zero, stacked before references."""
    torch.manual_seed(0)
    coarse = torch.rand(2, 6, 6, 6) * 0.8 + 0.1
    stacked = torch.nn.functional.interpolate(coarse, (96, 96), mode="bilinear")
    stacked[:, :3, 48:] = 0
    return stacked


def test_output_is_the_target_above_the_reference(pictures):
    torch.manual_seed(0)
    generator = Wav2Lip(width=0.5)
    initial.start_as_copy(generator)
    generator.eval()
    with torch.inference_mode():
        made = generator(torch.zeros(2, 1, 80, 16), pictures)
    expected = torch.cat((pictures[:, :3, :48], pictures[:, 3:, 48:]), dim=2)
    assert (made - expected).abs().mean() < 0.06
    correlation = torch.corrcoef(torch.stack((made.flatten(), expected.flatten())))[0, 1]
    assert correlation > 0.98


def test_generator_hears_with_the_experts_encoder():
    generator, expert = Wav2Lip(width=0.25), SyncNet_color(width=0.25)
    assert initial.hear_like(generator, expert)
    mel = torch.rand(1, 1, 80, 16)
    pairs = zip(generator.audio_encoder[:11].eval(), expert.audio_encoder[:11].eval(), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine(mel), theirs(mel))
        mel = theirs(mel)
    torch.testing.assert_close(generator.audio_encoder[-1].state_dict(), expert.audio_encoder[-1].state_dict())
    assert not initial.hear_like(generator, SyncNet_color(width=0.5))


def hears_alike(generator, expert):
    mine, theirs = generator.audio_encoder[-1].state_dict(), expert.audio_encoder[-1].state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_hear_as_expert_outlives_the_weights_that_are_loaded(tmp_path):
    expert = SyncNet_color(width=0.125)
    stage = GeneratorStage(hparams.override("hear_as_expert=True,hold_statistics=True,generator_width=0.125"), expert)
    generator = stage.networks[""]
    assert hears_alike(generator, expert)
    generator.load_state_dict(Wav2Lip(width=0.125).state_dict())
    assert not hears_alike(generator, expert)
    stage.after_loading(tmp_path / "checkpoint.pth", dict)
    assert hears_alike(generator, expert)


def test_hear_as_expert_needs_the_experts_width():
    hp = hparams.override("hear_as_expert=True,generator_width=0.25")
    with pytest.raises(InputError, match=r"width is 0\.25, the expert's 0\.125"):
        GeneratorStage(hp, SyncNet_color(width=0.125))


def test_colours_do_not_depend_on_the_rest_of_the_batch():
    hp = hparams.override("start_as_copy=True,generator_width=0.5")
    stage = GeneratorStage(hp, SyncNet_color(width=0.125))
    stage.train_mode()
    generator = stage.networks[""]
    assert [block.conv_block[1].training for block in colour_path(generator)] == [False, False]
    assert generator.face_encoder_blocks[1][0].conv_block[1].training


@pytest.mark.parametrize("width", [0.25, 1.0])
def test_discriminator_that_keeps_variance_tells_pictures_apart(width):
    def spread(keeps: bool) -> float:
        torch.manual_seed(1)
        hp = hparams.override(f"disc_keeps_variance={keeps},disc_width={width},generator_width=0.125")
        network: Wav2Lip_disc_qual = QualityStage(hp, SyncNet_color(width=0.125)).networks["disc_"]
        with torch.inference_mode():
            said = network(torch.rand(8, 3, 1, 96, 96, generator=torch.Generator().manual_seed(2)))
        assert (said - 0.5).abs().max() < 0.15
        return float(said.std())

    assert spread(True) > 1000 * spread(False)
