"""Folding batch norm: the same numbers from fewer layers."""

import pytest
import torch
from parity_fill import fill, x
from torch import nn

from models import SyncNet_color, Wav2Lip
from models.fuse import fold_batch_norm


def filled(network: nn.Module) -> nn.Module:
    """Statistics and scales far from the identity, so that leaving batch norm out would show."""
    network.load_state_dict(fill(network.state_dict()))
    return network.eval()


@pytest.mark.parametrize("width", [0.25, 1.0])
def test_outputs_agree_and_no_batch_norm_is_left(width):
    network = filled(Wav2Lip(width=width))
    folded = fold_batch_norm(network).to(memory_format=torch.channels_last)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    mels, faces = torch.from_numpy(8 * x("mel4", 2, 1, 80, 16) - 4), torch.from_numpy(x("img4", 2, 6, 96, 96))
    with torch.inference_mode():
        torch.testing.assert_close(folded(mels, faces), network(mels, faces), atol=1e-5, rtol=0)


def test_the_given_network_stays_as_it_was():
    network = filled(SyncNet_color(width=0.125))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fold_batch_norm(network)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match="eval mode"):
        fold_batch_norm(Wav2Lip(width=0.125))
