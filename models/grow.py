"""A network for larger faces out of one for smaller faces, so that training goes on where the smaller one stopped.

Levels are matched from the coarse end, where both see the same part of a face in a cell. Levels that only the larger
network has start as enlarging and reducing by interpolation: at first it gives the smaller one's pictures enlarged
(progressive growing, Karras et al., arXiv 1710.10196).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import InputError
from models.conv import Conv2d, face_levels
from models.discriminator import Wav2Lip_disc_qual
from models.syncnet import SyncNet_color
from models.wav2lip import Wav2Lip

REDUCE = torch.tensor([0.25, 0.5, 0.25])  # a stride-2 convolution with these: the mean of an even pixel's surroundings
ENLARGE = torch.tensor([0.5, 1.0, 0.5])  # a stride-2 transposed convolution with these: linear interpolation
# A convolution with these at twice the size takes out what changes from each pixel of the smaller picture to the next:
# the grid that transposed convolutions leave in features, and that the smaller network's last convolution evens out.
EVEN_OUT = torch.tensor([0.5, 0.0, 0.5])
FITTED_CELL = 4  # pixels a side whose means are fitted: enlarged pictures hold no finer detail


@dataclass(frozen=True)
class Growth:
    """What a larger network took from a smaller one: names of its blocks.

    Attributes:
        taken: filled with the same weights.
        fitted: filled with kernels over the coarsest cells, interpolated to another number of cells.
        new: of levels that the smaller network does not have, or of other channels there.
    """

    taken: tuple[str, ...]
    fitted: tuple[str, ...]
    new: tuple[str, ...]

    def lines(self) -> list[str]:
        """A line each for what was taken, interpolated and not taken."""
        named = {"taken": self.taken, "interpolated": self.fitted, "not taken, new": self.new}
        return [f"{what}: {', '.join(_ranges(names)) if names else 'nothing'}" for what, names in named.items()]


@torch.no_grad()
def grow(small: nn.Module, large: nn.Module, pictures: int = 0) -> Growth:
    """Fill `large` with the weights of `small`, a network of the same kind and width for smaller faces.

    Args:
        pictures: of a generator that starts as a copy (training/initial.py): its last hidden channels at full size
            that pass pictures on; they go on doing so at the larger size, not enlarged.

    Raises InputError for another width, or a network of more levels than `large`.
    """
    if small.width != large.width:
        raise InputError(f"it has width {small.width:g}, not {large.width:g}: bring it there with models.widen first")
    extra = face_levels(large.img_size) - face_levels(small.img_size)
    if extra < 0:
        sizes = " to ".join("x".join(map(str, network.img_size)) for network in (small, large))
        raise InputError(f"it cannot shrink from {sizes}: networks grow from smaller faces to larger ones")
    sources = {_renamed(name, small, extra): value for name, value in small.state_dict().items()}
    filled: dict[str, str] = {}  # tensor -> how
    for name, target in large.state_dict().items():
        source = sources.get(name)
        if source is None:
            continue
        if source.shape != target.shape:
            if source.shape[:2] != target.shape[:2] or target.dim() != 4:
                continue
            source, filled[name] = _over_cells(source, target, "decoder" in name), "fitted"
        target.copy_(source)
        filled.setdefault(name, "taken")
    if extra:
        _pass_on(small, large, extra, pictures)
        if isinstance(large, Wav2Lip):
            filled = {name: how for name, how in filled.items() if not name.startswith("output_block.0.")}
    return _growth(large, filled)


@torch.no_grad()
def calibrate(small: Wav2Lip, large: Wav2Lip, mels: Tensor, faces: Tensor, pictures: int = 0) -> None:
    """Let a generator that was just grown make the small one's pictures, enlarged, of a batch: in the same colours.

    `grow` knows how channels vary from the small network's batch norms alone, and some channels find no room. Here the
    norms learn what passes them, so that training and evaluation see alike, and the last layer is fitted by least
    squares to what the small network gives.

    Args:
        mels, faces: (N, 1, 80, 16) and (N, 6, H, W), a batch as `Wav2Lip.forward` takes it, at the size of `large`.
        pictures: as for `grow`; their channels stay as they are.
    """
    _settle(large, colour_path(large) if pictures else (), mels, faces)
    reduced = F.interpolate(faces, small.img_size, mode="bilinear", antialias=True)
    _, wanted = _last_layer(small.eval(), mels, reduced)
    hidden, made = _last_layer(large, mels, faces)
    output, count = large.output_block[1], hidden.size(1) - pictures
    missing = F.interpolate(wanted, made.shape[-2:], mode="bilinear") - made
    inputs, missing = (
        F.avg_pool2d(part, FITTED_CELL).transpose(0, 1).flatten(1) for part in (hidden[:, :count], missing)
    )
    inputs = torch.cat((inputs, torch.ones_like(inputs[:1])))
    squares = inputs @ inputs.T
    squares += 1e-3 * squares.diagonal().mean() * torch.eye(len(squares))
    change = torch.linalg.solve(squares, inputs @ missing.T).T  # (3, count + 1)
    output.weight[:, :count, 0, 0] += change[:, :-1]
    output.bias += change[:, -1]


def colour_path(generator: Wav2Lip) -> tuple[Conv2d, Conv2d]:
    """The two blocks at full resolution, between which pictures pass on the outermost skip (training/initial.py)."""
    return generator.face_encoder_blocks[0][0], generator.output_block[0]


def _settle(network: Wav2Lip, held: tuple[nn.Module, ...], mels: Tensor, faces: Tensor) -> None:
    """Let the norms' statistics be those of a batch, but for those of the blocks that are held; in eval mode then."""
    network.train()
    for block in held:
        block.eval()
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d) and part.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all that passes from now on
    network(mels, faces)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def _last_layer(network: Wav2Lip, mels: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """What comes into a generator's last convolution and what it makes of it: (N, hidden, H, W), (N, 3, H, W)."""
    seen = []
    hook = network.output_block[1].register_forward_hook(lambda _, inputs, made: seen.extend((inputs[0], made)))
    network(mels, faces)
    hook.remove()
    return seen[0], seen[1]


def _renamed(name: str, network: nn.Module, extra: int) -> str:
    """The name of a tensor in a network of `extra` levels more, which come after the encoder's first block."""
    first = "face_encoder." if isinstance(network, SyncNet_color) else "face_encoder_blocks."
    if not extra or not name.startswith(first):
        return name
    index, rest = name.removeprefix(first).split(".", 1)
    return f"{first}{int(index) + extra * (int(index) > 0)}.{rest}"


def _over_cells(kernel: Tensor, like: Tensor, transposed: bool) -> Tensor:
    """A kernel over all cells, interpolated; one that sums over them (not `transposed`) keeps its sum."""
    resized = F.interpolate(kernel, like.shape[-2:], mode="bilinear", align_corners=True)
    share = 1 if transposed else math.prod(kernel.shape[-2:]) / math.prod(like.shape[-2:])
    return resized * share


def _pass_on(small: nn.Module, large: nn.Module, extra: int, pictures: int) -> None:
    """Set the levels that `large` alone has to reducing and enlarging."""
    if isinstance(large, Wav2Lip_disc_qual):
        reducing = [block[0] for block in large.face_encoder_blocks[1 : 1 + extra]]
    elif isinstance(large, SyncNet_color):
        reducing = list(large.face_encoder[1 : 1 + extra])
    else:
        reducing = [block[0] for block in large.face_encoder_blocks[1 : 1 + extra]]
        _enlarge(small, large, extra, pictures)
    first = large.face_encoder[0] if isinstance(large, SyncNet_color) else large.face_encoder_blocks[0][0]
    for block in reducing:
        _identity(block.conv_block[0], torch.outer(REDUCE, REDUCE))
        if isinstance(block, Conv2d):
            _keep_scale(block, *_after_relu(first))


def _enlarge(small: Wav2Lip, large: Wav2Lip, extra: int, pictures: int) -> None:
    """New decoder levels carry the small network's last hidden channels, enlarged, to the output.

    Where a level has fewer channels, those that matter most to the picture go on; the others' mean does.
    """
    old, output = small.output_block[0], small.output_block[1]
    mean, deviation = _after_relu(old)
    hidden, learnt = len(mean), small.face_decoder_blocks[-1][-1].conv_block[0].out_channels
    weight = output.weight.flatten(1)  # (3, hidden)
    levels = large.face_decoder_blocks[-extra:]
    room = levels[0][0].conv_block[0].out_channels
    importance = weight.norm(dim=0) * deviation
    importance[hidden - pictures :] = -1  # these need no room: they come from the full size
    carried = importance.argsort(descending=True)[:room]
    carried = carried[carried < hidden - pictures].sort().values
    grows = levels[0][0].conv_block
    plain = old.conv_block[0].weight.sum((2, 3))  # (hidden, inputs): what it does to smooth inputs
    grows[0].weight[:, : len(carried)] = _spread(plain[carried].T, ENLARGE)
    grows[0].bias[: len(carried)] = old.conv_block[0].bias[carried]
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(grows[1], name)[: len(carried)] = getattr(old.conv_block[1], name)[carried]
    count = len(carried)
    for level in levels[1:]:
        _identity(level[0].conv_block[0], torch.outer(ENLARGE, ENLARGE), count)
        _keep_scale(level[0], mean[carried], deviation[carried])
    for level in levels:
        for block in level[1:]:
            nn.init.zeros_(block.conv_block[1].weight)  # a residual block that adds nothing yet
    _hidden_again(small, large, carried, pictures, learnt, mean, deviation)


def _hidden_again(
    small: Wav2Lip, large: Wav2Lip, carried: Tensor, pictures: int, learnt: int, mean: Tensor, deviation: Tensor
) -> None:
    """The large network's output block: hidden channels that were carried as they come, pictures as in the small."""
    (convolution, norm), output = large.output_block[0].conv_block, large.output_block[1]
    old_convolution, old_norm = small.output_block[0].conv_block
    output.load_state_dict(small.output_block[1].state_dict())
    hidden, inputs = len(mean), large.face_decoder_blocks[-1][-1].conv_block[0].out_channels
    lost = torch.ones(hidden, dtype=torch.bool)
    lost[carried] = False
    lost[hidden - pictures :] = False
    output.bias += output.weight[:, lost, 0, 0] @ mean[lost]
    output.weight[:, lost] = 0
    convolution.weight[carried] = 0
    convolution.bias[carried] = 0
    convolution.weight[carried, torch.arange(len(carried))] = torch.outer(EVEN_OUT, EVEN_OUT)
    _keep_scale(large.output_block[0], mean[carried], deviation[carried], carried)
    passing = torch.arange(hidden - pictures, hidden)
    convolution.weight[passing, :inputs] = 0
    convolution.weight[passing, inputs:] = old_convolution.weight[passing, learnt:]
    convolution.bias[passing] = old_convolution.bias[passing]
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(norm, name)[passing] = getattr(old_norm, name)[passing]


def _after_relu(block: nn.Module) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a block's channels, whose batch norm makes them normal before the ReLU.

    Of a block without batch norm nothing is known: zeros and ones.
    """
    norm = block.conv_block[1] if len(block.conv_block) > 1 else None
    if norm is None:
        count = block.conv_block[0].out_channels
        return torch.zeros(count), torch.ones(count)
    centre, spread = norm.bias, norm.weight.abs().clamp_min(1e-6)
    ratio = centre / spread
    density, above = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi), torch.special.ndtr(ratio)
    mean = centre * above + spread * density
    square = (centre.square() + spread.square()) * above + centre * spread * density
    return mean, (square - mean.square()).clamp_min(0).sqrt()


def _keep_scale(block: nn.Module, mean: Tensor, deviation: Tensor, channels: Tensor | None = None) -> None:
    """Let a block's batch norm give back channels of this mean and deviation as they came, in either mode."""
    norm = block.conv_block[1]
    channels = torch.arange(len(mean)) if channels is None else channels
    norm.running_mean[channels] = mean
    norm.running_var[channels] = deviation.square()
    norm.weight[channels] = (deviation.square() + norm.eps).sqrt()
    norm.bias[channels] = mean


def _identity(convolution: nn.Module, kernel: Tensor, count: int | None = None) -> None:
    """Let the first `count` outputs of a convolution be its first inputs under `kernel` (k, k)."""
    count = min(convolution.in_channels, convolution.out_channels) if count is None else count
    transposed = isinstance(convolution, nn.ConvTranspose2d)
    outputs = convolution.weight.transpose(0, 1) if transposed else convolution.weight  # a view: (out, in, k, k)
    outputs[:count] = 0
    at = torch.arange(count)
    outputs[at, at] = kernel
    convolution.bias[:count] = 0


def _spread(weight: Tensor, profile: Tensor) -> Tensor:
    """(a, b) -> (a, b, k, k): each weight under the profile, down and across."""
    return weight[:, :, None, None] * torch.outer(profile, profile)


def _growth(network: nn.Module, filled: dict[str, str]) -> Growth:
    """What happened to each block of tensors: the part of their names that a level has."""
    ways: dict[str, set[str]] = {}
    for name in network.state_dict():
        ways.setdefault(_block(name), set()).add(filled.get(name, "new"))
    named = {how: tuple(name for name, found in ways.items() if how in found) for how in ("fitted", "new")}
    taken = tuple(name for name, found in ways.items() if found == {"taken"})
    return Growth(taken, named["fitted"], tuple(name for name in named["new"] if name not in named["fitted"]))


def _block(name: str) -> str:
    """`face_encoder_blocks.3` of `face_encoder_blocks.3.0.conv_block.0.weight`; a whole audio encoder is one block."""
    parts = name.split(".")
    return parts[0] if parts[0] == "audio_encoder" else ".".join(parts[:2])


def _ranges(names: tuple[str, ...]) -> list[str]:
    """Names, those that count on as `face_encoder_blocks.2-7`."""
    grouped: list[list] = []
    for name in names:
        stem, _, number = name.rpartition(".")
        if grouped and number.isdigit() and grouped[-1][0] == stem and grouped[-1][2] == int(number) - 1:
            grouped[-1][2] = int(number)
        else:
            grouped.append([stem, int(number), int(number)] if number.isdigit() else [name, None, None])
    return [stem if a is None else f"{stem}.{a}" if a == b else f"{stem}.{a}-{b}" for stem, a, b in grouped]
