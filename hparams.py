"""Every hyper-parameter of the system, in one documented dataclass, and the parser of `--hparams` overrides.

The defaults are the published ones (paper sections 3 and 4 and the reference configuration); fields under
"this toolkit" are additions whose defaults leave the published behaviour as it is.
"""

import dataclasses
from dataclasses import dataclass

from errors import InputError

SLOWEST, FASTEST = 1, 480  # frames a second of crops


@dataclass
class HParams:
    """Hyper-parameters; `hparams` below is the instance that the scripts share."""

    # Mel spectrogram
    num_mels: int = 80  # bands of the mel filterbank
    n_fft: int = 800  # samples a transform
    hop_size: int = 200  # samples a step: 12.5 ms, 80 mel frames a second
    win_size: int = 800  # samples of the Hann window: 50 ms
    sample_rate: int = 16000  # Hz
    preemphasis: float = 0.97  # y[n] = x[n] - 0.97 x[n-1]
    min_level_db: float = -100.0
    ref_level_db: float = 20.0
    fmin: float = 55.0  # Hz, lowest edge of the filterbank
    fmax: float = 7600.0  # Hz, highest edge
    max_abs_value: float = 4.0  # mel values lie in [-4, 4]

    # Video
    img_size: int | tuple[int, int] = 96  # pixels a side of the face that the networks see, or (height, width)
    fps: float = 25.0  # frames a second of the crops; preprocess.py --fps makes others

    # Training of the generator
    batch_size: int = 16  # samples of 5 frames
    initial_learning_rate: float = 1e-4
    num_workers: int = 16  # loader processes, at most the machine's cores
    checkpoint_interval: int = 3000  # steps
    eval_interval: int = 3000  # steps
    save_optimizer_state: bool = True
    syncnet_wt: float = 0.0  # w: starts at 0, set by the schedule (training/losses.py)

    # Training of the expert
    syncnet_batch_size: int = 64
    syncnet_lr: float = 1e-4
    syncnet_eval_interval: int = 10000  # steps
    syncnet_checkpoint_interval: int = 10000  # steps

    # Visual-quality discriminator
    disc_wt: float = 0.07
    disc_initial_learning_rate: float = 1e-4

    # This toolkit: the sync schedule (paper section 3.4 and 3.5)
    syncnet_threshold: float = 0.75  # w is switched on once the evaluation sync loss falls under this
    syncnet_wt_settled: float = 0.01  # w from then on
    hq_syncnet_wt_settled: float = 0.03  # w from then on, with the discriminator

    # This toolkit: sizes (1.0 is the published network)
    generator_width: float = 1.0  # factor on the generator's channels
    syncnet_width: float = 1.0  # factor on the expert's channels
    disc_width: float = 1.0  # factor on the discriminator's channels

    # This toolkit: what the generator learns from
    mouth_wt: float = 0.0  # additional weight of the mouth's pixels in L1 (training/losses.py)
    spoken_over_share: float = 0.0  # of the samples: the target is its own reference and says what another window says
    shade_wt: float = 0.0  # weight of the squared error of the mouth's brightness at large
    fitting_references: bool = False  # references of the target's pose with a mouth about as open as the target's
    # (training/matching.py); inference with such a generator takes mouths that fit the speech
    opened_share: float = 0.0  # of such samples: drawn by how open mouths are, out of all clips, as training.landmarks
    # has found lips; the rest is drawn clip by clip
    contrast_wt: float = 0.0  # weight of telling the speech of generated lips from the reference's, by the expert
    sync_colours: bool = True  # False: the expert judges the generated brightness with the true colours, so that it
    # cannot be pleased by colours that no mouth has
    lips_wt: float = 0.0  # weight of the perceptual loss with the expert's face encoder

    hold_statistics: bool = False  # the generator's batch norms keep their statistics: to train on a settled network

    # This toolkit: where the networks start (training/initial.py)
    start_as_copy: bool = False  # as a copy of its reference, with the expert's audio encoder where widths match
    hear_as_expert: bool = False  # with the expert's audio encoder, whatever --init_from gives: a generator that has
    # learnt without much of a sync loss has unlearnt to hear
    disc_keeps_variance: bool = False  # the discriminator starts with weights that let differences through

    perceptual_wt: float = 0.0  # weight of the perceptual loss with VGG-16 (training/perceptual.py); needs torchvision

    # This toolkit: memory
    accumulate_steps: int = 1  # parts that a step's batch is cut into, one after the other; 0: as many as memory asks
    activation_checkpointing: bool = False  # compute activations again for gradients instead of keeping them

    # This toolkit: optimisation (defaults: Adam at a constant rate, as published)
    warmup_steps: int = 0  # learning rate rises linearly over these
    decay_steps: int = 0  # then falls along a cosine to a hundredth at this step; 0 keeps it
    weight_decay: float = 0.0  # decoupled (AdamW); 0 is Adam
    grad_clip: float = 0.0  # largest norm of a step's gradient; 0 is no limit
    ema_decay: float = 0.0  # weights averaged over steps, evaluated and stored beside the last; 0 is off
    compile: bool = False  # torch.compile the trained networks: a minute at the start, then faster steps

    # This toolkit: what the expert learns from
    # bce: the published loss; bce_pairs: the same over all pairs of a batch; infonce: contrast (training/losses.py)
    syncnet_loss: str = "bce"
    syncnet_windows: int = 4  # bce_pairs, infonce: windows of each clip; syncnet_batch_size / this many clips a batch
    infonce_negatives: str = "batch"  # batch: all other windows; clip: those of the same clip alone, so that only
    # timing tells them apart and never who speaks
    teachers_wt: float = 0.0  # bce_pairs, infonce: weight of what the expert learns from training.teachers
    vary_voices: bool = False  # bce_pairs, infonce: speech of longer and shorter throats, of other tone, in noise
    infonce_scale: float = 20.0  # factor on the cosines (inverse temperature)
    min_negative_distance: int = 1  # between a window and a negative of the same clip, in frames of 40 ms

    # This toolkit: evaluation
    eval_windows: int = 2  # fixed windows a validation clip

    # This toolkit: data
    augment: bool = False  # one random flip, colour and shift for all frames of a sample, mel gain
    vary_colours: bool = False  # with augment: hue and saturation change widely, too
    shard_buffer: int = 256  # clips of shards that a loader process draws from
    shard_visits: int = 4  # samples drawn from a clip of a shard each time that it is read
    cache_gb: float = 16.0  # decoded crops stay in memory when they need at most this and half of what is free

    @property
    def face_size(self) -> tuple[int, int]:
        """`img_size` as (height, width)."""
        return (self.img_size, self.img_size) if isinstance(self.img_size, int) else self.img_size

    @property
    def negative_frames(self) -> int:
        """`min_negative_distance` in frames of the crops, at least 1."""
        return max(1, round(self.min_negative_distance * self.fps * 0.04))

    def override(self, text: str) -> "HParams":
        """Return a copy with `name=value` pairs from a comma-separated text applied.

        Raises InputError for an unknown name, for a value that is not of the field's type, and for one that is out of
        its range.
        """
        types = {field.name: type(getattr(self, field.name)) for field in dataclasses.fields(self)}
        changes = {}
        for pair in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = (piece.strip() for piece in pair.partition("="))
            if not equals or name not in types:
                raise InputError(f"--hparams: '{pair}' is not name=value of a known hyper-parameter (see hparams.py)")
            changes[name] = (
                parse_size(value, "--hparams: img_size") if name == "img_size" else _parse(name, value, types[name])
            )
            for names, holds, demand in RANGES:
                if name in names and not holds(changes[name]):
                    raise InputError(f"--hparams: {name} must be {demand}, not {value}")
        return dataclasses.replace(self, **changes)

    def set_hparam(self, name: str, value: object) -> None:
        """Set one hyper-parameter in place (the reference scripts' interface)."""
        if name not in {field.name for field in dataclasses.fields(self)}:
            raise AttributeError(f"no hyper-parameter is named {name}")
        setattr(self, name, value)


_NAMES = tuple(HParams.__dataclass_fields__)
RANGES = (  # names, what holds for their values (never for NaN), and that in words
    (
        {name for name in _NAMES if name.endswith(("batch_size", "_interval", "_width", "_windows"))}
        | {"num_mels", "n_fft", "hop_size", "win_size", "sample_rate", "max_abs_value"}
        | {"infonce_scale", "shard_buffer", "shard_visits"},
        lambda value: value > 0,
        "above 0",
    ),
    (
        {name for name in _NAMES if name.endswith(("_lr", "learning_rate", "_steps"))}
        | {"num_workers", "weight_decay", "grad_clip", "cache_gb"},
        lambda value: value >= 0,
        "0 or more",
    ),
    ({name for name in _NAMES if name.endswith("_share")}, lambda value: 0 <= value <= 1, "from 0 to 1"),
    ({"ema_decay"}, lambda value: 0 <= value < 1, "at least 0 and below 1"),
    ({"fps"}, lambda value: SLOWEST <= value <= FASTEST, f"frames a second from {SLOWEST} to {FASTEST}"),
    ({"syncnet_loss"}, ("bce", "bce_pairs", "infonce").__contains__, "bce, bce_pairs or infonce"),
    ({"infonce_negatives"}, ("batch", "clip").__contains__, "batch or clip"),
)


def parse_size(text: str, flag: str = "--img_size") -> int | tuple[int, int]:
    """A face size as `img_size` holds it: "96" is 96, "288x192" (height x width) is (288, 192). Raises InputError."""
    sides = text.lower().split("x")
    if not (len(sides) in (1, 2) and all(side.strip().isdigit() and int(side) > 0 for side in sides)):
        raise InputError(f"{flag} takes pixels, such as 96 or 288x192 (height x width), not '{text}'")
    height, width = int(sides[0]), int(sides[-1])
    return height if height == width else (height, width)


def _parse(name: str, value: str, kind: type) -> object:
    if kind is bool:
        if value.lower() in ("true", "1", "yes"):
            return True
        if value.lower() in ("false", "0", "no"):
            return False
    else:
        try:
            return kind(value)
        except ValueError:
            pass
    raise InputError(f"--hparams: {name} takes a value of type {kind.__name__}, not '{value}'")


hparams = HParams()
