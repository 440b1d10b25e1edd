"""The network of S3FD: VGG-16 with extra layers, and a classifier and a box regressor on six of its levels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-10


class L2Norm(nn.Module):
    """Divide the features of each position by their L2 norm, then scale each channel by a learnt factor."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), scale))

    def forward(self, features: Tensor) -> Tensor:
        norm = features.pow(2).sum(dim=1, keepdim=True).sqrt() + EPSILON
        return features / norm * self.weight.view(1, -1, 1, 1)


class s3fd(nn.Module):  # noqa: N801 - the published name
    """S3FD (Section 3.1 of its paper). Names and shapes of the weights are those of `s3fd.pth`.

    forward: (B, 3, H, W), RGB in [0, 255] less 104, 117, 123 -> 12 maps, (B, 2, h, w) background and face before
    softmax and (B, 4, h, w) box offsets, for the strides 4, 8, 16, 32, 64 and 128 in turn.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1_1 = _conv(3, 64)
        self.conv1_2 = _conv(64, 64)
        self.conv2_1 = _conv(64, 128)
        self.conv2_2 = _conv(128, 128)
        self.conv3_1 = _conv(128, 256)
        self.conv3_2 = _conv(256, 256)
        self.conv3_3 = _conv(256, 256)
        self.conv4_1 = _conv(256, 512)
        self.conv4_2 = _conv(512, 512)
        self.conv4_3 = _conv(512, 512)
        self.conv5_1 = _conv(512, 512)
        self.conv5_2 = _conv(512, 512)
        self.conv5_3 = _conv(512, 512)
        self.fc6 = nn.Conv2d(512, 1024, kernel_size=3, padding=3)
        self.fc7 = nn.Conv2d(1024, 1024, kernel_size=1)
        self.conv6_1 = nn.Conv2d(1024, 256, kernel_size=1)
        self.conv6_2 = _conv(256, 512, stride=2)
        self.conv7_1 = nn.Conv2d(512, 128, kernel_size=1)
        self.conv7_2 = _conv(128, 256, stride=2)

        self.conv3_3_norm = L2Norm(256, scale=10.0)
        self.conv4_3_norm = L2Norm(512, scale=8.0)
        self.conv5_3_norm = L2Norm(512, scale=5.0)

        self.conv3_3_norm_mbox_conf = _conv(256, 4)  # three kinds of background, then face
        self.conv3_3_norm_mbox_loc = _conv(256, 4)
        self.conv4_3_norm_mbox_conf = _conv(512, 2)
        self.conv4_3_norm_mbox_loc = _conv(512, 4)
        self.conv5_3_norm_mbox_conf = _conv(512, 2)
        self.conv5_3_norm_mbox_loc = _conv(512, 4)
        self.fc7_mbox_conf = _conv(1024, 2)
        self.fc7_mbox_loc = _conv(1024, 4)
        self.conv6_2_mbox_conf = _conv(512, 2)
        self.conv6_2_mbox_loc = _conv(512, 4)
        self.conv7_2_mbox_conf = _conv(256, 2)
        self.conv7_2_mbox_loc = _conv(256, 4)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = _relu_stack(images, self.conv1_1, self.conv1_2)
        features = _relu_stack(_halve(features), self.conv2_1, self.conv2_2)
        conv3_3 = _relu_stack(_halve(features), self.conv3_1, self.conv3_2, self.conv3_3)
        conv4_3 = _relu_stack(_halve(conv3_3), self.conv4_1, self.conv4_2, self.conv4_3)
        conv5_3 = _relu_stack(_halve(conv4_3), self.conv5_1, self.conv5_2, self.conv5_3)
        fc7 = _relu_stack(_halve(conv5_3), self.fc6, self.fc7)
        conv6_2 = _relu_stack(fc7, self.conv6_1, self.conv6_2)
        conv7_2 = _relu_stack(conv6_2, self.conv7_1, self.conv7_2)

        levels = {
            "conv3_3_norm": self.conv3_3_norm(conv3_3),
            "conv4_3_norm": self.conv4_3_norm(conv4_3),
            "conv5_3_norm": self.conv5_3_norm(conv5_3),
            "fc7": fc7,
            "conv6_2": conv6_2,
            "conv7_2": conv7_2,
        }
        maps = []
        for name, level in levels.items():
            confidences = getattr(self, f"{name}_mbox_conf")(level)
            maps += [_max_out_background(confidences), getattr(self, f"{name}_mbox_loc")(level)]
        return maps


def _max_out_background(confidences: Tensor) -> Tensor:
    """(B, n + 1, h, w) -> (B, 2, h, w): the strongest of the n backgrounds, and the face (Section 3.3)."""
    background = confidences[:, :-1].amax(dim=1, keepdim=True)
    return torch.cat([background, confidences[:, -1:]], dim=1)


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1)


def _halve(features: Tensor) -> Tensor:
    return F.max_pool2d(features, kernel_size=2, stride=2)


def _relu_stack(features: Tensor, *layers: nn.Module) -> Tensor:
    for layer in layers:
        features = F.relu(layer(features), inplace=True)
    return features
