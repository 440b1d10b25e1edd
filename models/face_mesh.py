"""MediaPipe's Face Mesh with attention (Grishchenko et al., 2020: "Attention Mesh: high-fidelity face mesh prediction
in real-time"): 468 points of a face, those of the lips from a closer look. It learnt from far more faces than there are
talking ones to learn from. The one without attention serves as a second opinion where hearing is taught.

The weights are published under the Apache License 2.0; `training.face_mesh` reads them. The branches that look at the
eyes, and the plain one's that says whether there is a face, are left out.
"""

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

POINTS = 468
EYE_CORNERS = 33, 263  # the outer ones
INNER_LIPS = 13, 14  # middle of the upper and of the lower one
# Corners of the mouth; upper and lower inner lip, lower edge; inner corners; the inner lips half way between the middle
# and these, above and below.
LIP_POINTS = (61, 291, 13, 14, 17, 78, 308, 81, 311, 178, 402)
MIRRORED = (1, 0, 2, 3, 4, 6, 5, 8, 7, 10, 9)  # `LIP_POINTS` in a mirror
# The lips' points, in the order of the branch that looks closely: rings from the outermost to the innermost.
LIPS = (
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409,
    78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415,
    76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306, 184, 74, 73, 72, 11, 302, 303, 304, 408,
    62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292, 183, 42, 41, 38, 12, 268, 271, 272, 407,
)  # fmt: skip
CORNERS = 61, 291  # of the mouth, the line through which the closer look has upright
BOX_SHARE = 1.25  # of a face box's longer side that the picture has whose points are asked for
MESH_SHARE = 1.5  # of the longer side of the points, upright
LIPS_SHARE = 1.5  # of the sides of the lips' points, that are looked at closely
SIDE = 192  # pixels of the square picture that is seen
EARLY = 3  # blocks after which features are looked at closely
CLOSE = 16  # cells a side of the closer look
CLOSE_UNITS = 64  # a side of it, in which its points are
STEM, NARROW = 16, 32  # channels of the first layer, and of those that heads see
# Channels and strides of blocks.
BODY = ((16, 1), (16, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1), (128, 2), (128, 1), (128, 1), (128, 2),
        (128, 1), (128, 1), (128, 2), (128, 1), (128, 1))  # fmt: skip
CLOSELY = ((32, 1), (32, 1), (64, 2), (64, 1), (64, 1), (128, 2), (128, 1), (128, 1), (128, 2), (128, 1), (128, 1))


class PlainFaceMesh(nn.Module):
    """Where the points of a face lie in a picture of it: "Real-time facial surface geometry from monocular video on
    mobile GPUs", Kartynnik et al., 2019."""

    def __init__(self, img_size: tuple[int, int] = (96, 96), width: float = 1.0) -> None:
        super().__init__()
        self.img_size, self.width = tuple(img_size), width  # not used; a checkpoint has them
        self.stem, self.stem_act = nn.Conv2d(3, STEM, 3, 2), nn.PReLU(STEM)
        self.body = _blocks(STEM, BODY)
        self.output_mesh = nn.Conv2d(NARROW, 3 * POINTS, 3)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (N, 3, 192, 192), RGB in [0, 1], upright and half as wide again as the face in them -> points
        (N, 468, 2) in pixels; and logits (N,) of that there is a face, which are 0 where that is not known."""
        points, _, features = self._seen(pictures)
        return points, torch.zeros(len(features), device=features.device)

    def _seen(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points (N, 468, 2), early features (N, 32, 48, 48), and those (N, 32, 3, 3) that heads see."""
        early = self.body[:EARLY](self.stem_act(self.stem(F.pad(pictures, (0, 1, 0, 1)))))
        features = self.body[EARLY:](early)
        return self.output_mesh(features).view(-1, POINTS, 3)[..., :2], early, features

    @torch.inference_mode()
    def points_of(self, face: np.ndarray) -> tuple[np.ndarray, float]:
        """The points of a face box (H, W, 3) uint8 BGR, as a detector finds it: (468, 2), x over the width and y over
        the height; and the logit of that there is a face. What is beyond the box is not known: its edge is repeated."""
        height, width = face.shape[:2]
        return self._points(face, _square((width / 2, height / 2), BOX_SHARE * max(height, width), 0.0))

    @torch.inference_mode()
    def closely(self, face: np.ndarray, points: np.ndarray | None = None) -> tuple[np.ndarray, float]:
        """The same, seen again where they were found, upright: nearer to the truth, the more the head leans.
        `points`: of `points_of`, where that has been asked already."""
        size = np.array(face.shape[1::-1])
        points = size * (self.points_of(face)[0] if points is None else points)
        first, second = points[list(EYE_CORNERS)]
        angle = float(np.arctan2(*(second - first)[::-1]))
        upright = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        turned = points @ upright.T
        low, high = turned.min(0), turned.max(0)
        return self._points(face, _square((low + high) / 2 @ upright, MESH_SHARE * float((high - low).max()), angle))

    def lips_of(self, face: np.ndarray, points: np.ndarray | None = None) -> np.ndarray:
        """`LIP_POINTS` (11, 2) of `closely`."""
        return self.closely(face, points)[0][list(LIP_POINTS)]

    def _points(self, face: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, float]:
        """The points in the part of a face that an affine matrix (2, 3) makes of the picture that is seen."""
        size, seen, where = np.array(face.shape[1::-1]), face, place
        shrink = float(np.hypot(place[0, 0], place[1, 0]))
        if shrink > 1:  # else fine lines would flicker
            small = np.maximum(1, np.round(size / shrink)).astype(int)
            seen = cv2.resize(face, small.tolist(), interpolation=cv2.INTER_AREA)
            ratio = small / size
            where = place * ratio[:, None] + np.column_stack((np.zeros((2, 2)), (ratio - 1) / 2))  # pixels have middles
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        picture = cv2.warpAffine(seen, where, (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        rgb = torch.from_numpy(picture[None, :, :, ::-1].copy()).permute(0, 3, 1, 2).float() / 255
        points, presence = self(rgb)
        return (points[0].numpy() @ place[:, :2].T + place[:, 2]) / size, float(presence)


class FaceMesh(PlainFaceMesh):
    """The same with attention, a closer look at the lips; and whether there is a face."""

    def __init__(self, img_size: tuple[int, int] = (96, 96), width: float = 1.0) -> None:
        super().__init__(img_size, width)
        self.lips = _blocks(BODY[EARLY - 1][0], CLOSELY)
        self.conv_lips = nn.Conv2d(NARROW, 2 * len(LIPS), 2)
        self.conv_faceflag = nn.Conv2d(NARROW, 1, 3)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """See `PlainFaceMesh`."""
        points, early, features = self._seen(pictures)
        refined = points.clone()
        refined[:, LIPS] = self._closely(early, points)
        return refined, self.conv_faceflag(features).flatten()

    def _closely(self, early: Tensor, points: Tensor) -> Tensor:
        """The lips' points (N, 80, 2) in pixels, from early features (N, 32, 48, 48) around where they are seen."""
        first, second = points[:, CORNERS[0]], points[:, CORNERS[1]]
        angle = torch.atan2(*(second - first).flip(1).unbind(1))
        cos, sin = angle.cos(), angle.sin()
        turn = torch.stack((cos, -sin, sin, cos), dim=1).view(-1, 2, 2)  # upright -> as seen
        upright = points[:, LIPS] @ turn
        low, high = upright.amin(1), upright.amax(1)
        linear = turn * LIPS_SHARE * (high - low)[:, None]  # from shares of the closer look, 0 in its middle
        middle = (((low + high) / 2)[:, None] @ turn.transpose(1, 2))[:, 0]
        # Grids have -1 to 1 from edge to edge.
        to_grid = 2 / SIDE
        theta = torch.cat((linear / 2 * to_grid, (middle * to_grid - 1)[..., None]), dim=2)
        grid = F.affine_grid(theta, [len(points), early.shape[1], CLOSE, CLOSE], align_corners=False)
        looked = F.grid_sample(early, grid, align_corners=False)
        found = self.conv_lips(self.lips(looked)).view(len(points), -1, 2)
        return (found / CLOSE_UNITS - 0.5) @ linear.transpose(1, 2) + middle[:, None]


def _square(middle: tuple[float, float] | np.ndarray, side: float, angle: float) -> np.ndarray:
    """Where the pixels of a picture of `SIDE` lie in a face, of which it shows a turned square: (2, 3)."""
    along, across = np.cos(angle) * side / SIDE, np.sin(angle) * side / SIDE
    turned = np.array([[along, -across], [across, along]])
    return np.column_stack((turned, np.asarray(middle) - turned.sum(1) * SIDE / 2))


class Block(nn.Module):
    """A convolution of each channel, one over channels, and what came in added, halved and with more channels where
    these are. (N, cin, H, W) -> (N, cout, H / stride, W / stride)."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.stride, self.more = stride, cout - cin
        self.depthwise = nn.Conv2d(cin, cin, 3, stride, 0 if stride == 2 else 1, groups=cin)
        self.pointwise = nn.Conv2d(cin, cout, 1)
        self.act = nn.PReLU(cout)

    def forward(self, x: Tensor) -> Tensor:
        """See the class. Strided convolutions are padded behind alone, as published."""
        out, kept = self.pointwise(self.depthwise(F.pad(x, (0, 1, 0, 1)) if self.stride == 2 else x)), x
        if self.stride == 2:
            columns = torch.maximum(kept[..., ::2], kept[..., 1::2])
            kept = torch.maximum(columns[..., ::2, :], columns[..., 1::2, :])  # quicker than max_pool2d on a CPU
        if self.more:
            kept = F.pad(kept, (0, 0, 0, 0, 0, self.more))
        return self.act(out + kept)


def _blocks(channels: int, plan: tuple[tuple[int, int], ...]) -> nn.Sequential:
    """Blocks by their channels and strides, and what narrows for a head."""
    blocks: list[nn.Module] = []
    for out, stride in plan:
        blocks.append(Block(channels, out, stride))
        channels = out
    return nn.Sequential(*blocks, nn.Conv2d(channels, NARROW, 1), nn.PReLU(NARROW), Block(NARROW, NARROW, 1))
