"""The one door for weights: every checkpoint is read and written here.

A checkpoint is a dict with `state_dict`, and `optimizer`, `global_step`, `global_epoch` where training goes on from
it (SPEC of the published system); networks that differ from the published ones also carry `dims`. Bare state
dicts load too. Nothing but tensors and plain containers is ever unpickled.
"""

import dataclasses
import os
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from torch import Tensor, nn

from errors import InputError
from models.discriminator import Wav2Lip_disc_qual
from models.face_mesh import FaceMesh
from models.mouth_cover import MouthCover
from models.speech_shape import SpeechShape
from models.syncnet import PUBLISHED_FPS, SyncNet_color
from models.wav2lip import Wav2Lip
from whole import written_whole

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
DEFAULT_GENERATOR = CHECKPOINTS / "wav2lip_small_gan.pth"
DEFAULT_EXPERT = CHECKPOINTS / "lipsync_expert_small.pth"
FACE_MESH = CHECKPOINTS / "face_mesh.pth"
HEARD_SHAPE = CHECKPOINTS / "speech_shape.pth"
MOUTH_COVER = CHECKPOINTS / "mouth_cover.pth"

REFERENCES = ("own", "fitting")  # of `Wav2Lip.reference`
LARGE = 2**16  # weights of a layer; smaller ones, those that pictures pass among them, cost little and need precision

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class ModelDims:
    """What a checkpoint says of its network; the defaults are the published network and its usage."""

    img_size: tuple[int, int] = (96, 96)  # (height, width) of the face in pixels
    width: float = 1.0  # factor on every channel count
    mel_lead_ms: float = 0.0  # of a generator: see `Wav2Lip`
    fps: float = PUBLISHED_FPS  # frames a second of the videos that it learnt from
    reference: str = "own"  # of a generator: see `Wav2Lip`

    @classmethod
    def of(cls, network: nn.Module) -> "ModelDims":
        lead, fps = (float(getattr(network, name, getattr(cls, name))) for name in ("mel_lead_ms", "fps"))
        reference = getattr(network, "reference", cls.reference)
        return cls(tuple(network.img_size), float(network.width), lead, fps, reference)

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any], path: Path) -> "ModelDims":
        """The dimensions that a checkpoint carries, or the published ones. Raises InputError if they make no sense."""
        try:
            dims = dict(checkpoint.get("dims", {}))
            height, width = dims.get("img_size", cls.img_size)
            names = ("width", "mel_lead_ms", "fps")
            numbers = (float(dims.get(name, getattr(cls, name))) for name in names)
            if dims.get("reference", cls.reference) not in REFERENCES:
                raise ValueError("an unknown reference")
            return cls((int(height), int(width)), *numbers, str(dims.get("reference", cls.reference)))
        except (TypeError, ValueError) as error:
            raise InputError(f"checkpoint {path} has unreadable network dimensions: use another file") from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint to CPU memory: a dict with at least `state_dict` (prefix `module.` stripped, float32).

    Raises InputError when the file is missing, is no checkpoint (an HTML page saved under its name, a cut
    download) or holds pickled code, which is never run.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist or is not a file: see checkpoints/README.md")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign files, which end in one clear line below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, OSError) as error:
        raise InputError(_why_unreadable(path, error)) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        checkpoint = content
    elif isinstance(content, dict) and content and all(isinstance(value, Tensor) for value in content.values()):
        checkpoint = {"state_dict": content}
    else:
        raise InputError(f"checkpoint {path} holds no network weights: use a file with a state_dict")
    weights, scales = checkpoint["state_dict"], checkpoint.pop("scales", {})
    if not all(isinstance(value, Tensor) for value in (*weights.values(), *dict(scales).values())):
        raise InputError(f"checkpoint {path} holds no network weights: its state_dict has entries other than tensors")
    checkpoint["state_dict"] = {
        name.removeprefix("module."): _restored(value, scales.get(name)) for name, value in weights.items()
    }
    return checkpoint


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The weights alone; see `read_checkpoint`."""
    return read_checkpoint(path)["state_dict"]


def misfits_of(expected: dict[str, Tensor], found: dict[str, Tensor]) -> set[str]:
    """The names of tensors that are in one of both only, or of other shapes."""
    shared = expected.keys() & found.keys()
    return (expected.keys() ^ found.keys()) | {name for name in shared if expected[name].shape != found[name].shape}


def load_weights(network: nn.Module, state_dict: dict[str, Tensor], path: str | Path) -> None:
    """Copy weights into a network of the same names and shapes; one on the "meta" device takes the tensors themselves.

    Raises InputError for weights of another network.
    """
    expected = network.state_dict()
    misfits = misfits_of(expected, state_dict)
    if misfits:
        raise InputError(
            f"checkpoint {path} is of another network than {type(network).__name__}: "
            f"{len(misfits)} of {len(expected)} tensors differ, such as {min(misfits)}; use the file made for it"
        )
    network.load_state_dict(state_dict, assign=any(parameter.is_meta for parameter in network.parameters()))


def load_network(kind: type[Network], path: str | Path, device: str | torch.device = "cpu") -> Network:
    """Build a network of the dimensions that its checkpoint carries and fill it; returned in eval mode."""
    checkpoint = read_checkpoint(path)
    return build_network(kind, checkpoint, Path(path)).to(device).eval()


def build_network(kind: type[Network], checkpoint: dict[str, Any], path: Path) -> Network:
    """The network of a checkpoint that has been read already, on the CPU."""
    dims = ModelDims.from_checkpoint(checkpoint, path)
    try:
        with torch.device("meta"):  # no random weights are drawn that would be overwritten at once
            network = kind(dims.img_size, dims.width)
    except ValueError as error:
        raise InputError(f"checkpoint {path}: {error}") from error
    load_weights(network, checkpoint["state_dict"], path)
    for name in ("mel_lead_ms", "fps", "reference"):
        if getattr(dims, name) != getattr(ModelDims, name):
            setattr(network, name, getattr(dims, name))
    return network


def network_of(checkpoint: dict[str, Any], path: Path, kinds: Sequence[type[nn.Module]]) -> nn.Module:
    """The network among `kinds` whose names and shapes a checkpoint has. Raises InputError if there is none."""
    for kind in kinds:
        try:
            return build_network(kind, checkpoint, path)
        except InputError:
            continue
    raise InputError(f"checkpoint {path} is of none of the networks {', '.join(kind.__name__ for kind in kinds)}")


def load_generator(path: str | Path, device: str | torch.device = "cpu") -> Wav2Lip:
    """The generator of a checkpoint, in eval mode. Raises InputError."""
    return load_network(Wav2Lip, path, device)


def load_expert(path: str | Path, device: str | torch.device = "cpu") -> SyncNet_color:
    """The expert discriminator of a checkpoint, frozen, in eval mode. Raises InputError."""
    return load_network(SyncNet_color, path, device).requires_grad_(False)


def load_discriminator(path: str | Path, device: str | torch.device = "cpu") -> Wav2Lip_disc_qual:
    """The visual-quality discriminator of a checkpoint, in eval mode. Raises InputError."""
    return load_network(Wav2Lip_disc_qual, path, device)


def load_face_mesh(path: str | Path = FACE_MESH) -> FaceMesh:
    """The network that sees where the points of a face are, frozen, in eval mode. Raises InputError."""
    return load_network(FaceMesh, path).requires_grad_(False).to(memory_format=torch.channels_last)  # quicker on a CPU


def load_mouth_cover(path: str | Path = MOUTH_COVER) -> MouthCover:
    """The network that sees whether mouths are covered, frozen, in eval mode. Raises InputError."""
    return load_network(MouthCover, path).requires_grad_(False)


def load_heard_shape(path: str | Path = HEARD_SHAPE) -> SpeechShape:
    """The network that hears how far mouths are open and how wide they are, frozen, in eval mode. Raises InputError."""
    return load_network(SpeechShape, path).requires_grad_(False)


def save_checkpoint(path: str | Path, network: nn.Module, bits: int = 32, **entries: Any) -> None:
    """Write a checkpoint aside and rename it into place, so that it appears whole or not at all.

    `entries` are stored beside `state_dict` (`optimizer`, `global_step`, `global_epoch`, ...). `dims` are stored only
    where they are not the published ones. `bits` of 16 stores half precision (running statistics too: they lie well
    inside its range); 8 stores large layers as bytes, with a `scales` entry of one factor for each first index, and the
    rest in half precision.
    """
    weights = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    if bits == 8:
        large = {name: value for name, value in weights.items() if value.dim() > 1 and value.numel() >= LARGE}
        quantised = {name: _to_bytes(value) for name, value in large.items()}
        entries["scales"] = {name: scale for name, (_, scale) in quantised.items()}
        weights |= {name: integers for name, (integers, _) in quantised.items()}
    if bits <= 16:
        weights = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    dims = ModelDims.of(network)
    if dims != ModelDims():
        entries["dims"] = dataclasses.asdict(dims)
    write_whole(path, {"state_dict": weights, **entries})


def write_whole(path: str | Path, content: Any) -> None:
    """torch.save to a file beside `path`, then rename; the file aside is removed when anything fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as aside, aside.open("wb") as file:
        _save(content, file)
        file.flush()
        os.fsync(file.fileno())


def _save(content: Any, file: BinaryIO) -> None:
    """torch.save, whose own error at closing hides why writing failed: that is raised instead."""
    try:
        torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _to_bytes(value: Tensor) -> tuple[Tensor, Tensor]:
    """Integers in [-127, 127] and a float32 scale for each first index, whose product is nearest to the value."""
    scale = value.flatten(1).abs().amax(1).clamp_min(1e-12) / 127
    return (value / scale.view(-1, *(1,) * (value.dim() - 1))).round().to(torch.int8), scale


def _restored(value: Tensor, scale: Tensor | None) -> Tensor:
    """A stored tensor as float32, or as it is when it counts."""
    if scale is not None:
        return value.float() * scale.float().view(-1, *(1,) * (value.dim() - 1))
    return value.float() if value.is_floating_point() else value


def _why_unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"checkpoint {path} may not be read: check its permissions"
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if not head:
        return f"checkpoint {path} is empty: download or train it again"
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return f"checkpoint {path} is a web page, not weights: download the file itself"
    if "unsupported global" in str(error).lower():
        return f"checkpoint {path} holds pickled code, which is refused: use a file of tensors only"
    return f"checkpoint {path} is damaged or is no checkpoint: download or train it again"
