"""What the three stages learn: networks, samples, losses, evaluation. The loop around them is training/trainer.py."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from errors import InputError
from evaluation import metrics
from hparams import HParams
from models import SyncNet_color, Wav2Lip, Wav2Lip_disc_qual
from models.discriminator import lower_half
from models.grow import calibrate
from models.syncnet import window_frames
from training import initial, losses, whole_clips
from training.augment import jitter
from training.clips import Clip
from training.data import ExpertDataset, ExpertPairsDataset, GeneratorDataset, load_clips, training_set
from training.distributed import bare, gathered
from training.perceptual import VGGFeatures, vgg_loss
from training.stage import Batch, Learn, Stage
from training.stream import ShardStream
from training.taught import TAUGHT, read_taught
from training.variety import in_other_voice

EVAL_SEED = 20200823  # validation windows are the same in every run


class ExpertStage(Stage):
    """Stage 1: the expert lip-sync discriminator (paper section 3.1)."""

    def __init__(self, hp: HParams):
        super().__init__(hp)
        self.networks = {"": SyncNet_color(hp.face_size, hp.syncnet_width)}
        self.networks[""].fps = hp.fps
        self.learning_rates = {"": hp.syncnet_lr}
        self.batch_size = hp.syncnet_batch_size
        if hp.teachers_wt:
            embedding = self.networks[""].face_encoder[-1].conv_block[0].out_channels
            self.networks["heads_"] = losses.TeachersHeads(embedding, TAUGHT, hp.face_size, hp.syncnet_width)
            self.learning_rates["heads_"] = hp.syncnet_lr

    @property
    def loader_batch(self) -> int:
        if self.hp.syncnet_loss != "bce":
            return max(1, self.batch_size // self.hp.syncnet_windows)
        return self.batch_size

    def dataset(self, data_root: Path, split: str, seed: int, filelists: Path) -> Dataset:
        if split == "train":
            kind = ExpertDataset if self.hp.syncnet_loss == "bce" else ExpertPairsDataset
            made = training_set(data_root, self.hp, filelists, seed, kind)
            if self.hp.teachers_wt:
                if isinstance(made, ShardStream):
                    raise InputError("teachers_wt takes a tree or a pack: shards are not in the order of the teachers")
                made.taught = read_taught(data_root, [len(clip.numbers) for clip in made.clips])
            return made
        return ExpertDataset(
            load_clips(data_root, split, self.hp, self.lead, filelists), self.hp, EVAL_SEED, train=False
        )

    def prepare(self, batch: Batch) -> Batch:
        if "voice" not in batch:
            return batch
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(batch["voice"][0]))  # a sample's own, so that a resumed run hears the same
            mel, _ = in_other_voice(batch["mel"].flatten(0, 1), batch["mel"])
        return {**batch, "mel": mel.view_as(batch["mel"])}

    def eval_items(self, dataset: Dataset) -> int:
        return 2 * super().eval_items(dataset)  # a true and a false sample of each draw

    def step(self, batch: Batch, learn: Learn) -> dict[str, Tensor]:
        expert = self.networks[""]
        if self.hp.syncnet_loss != "bce":
            embeddings = expert(batch["mel"].flatten(0, 1), batch["faces"].flatten(0, 1))
            own = batch["clip"].flatten(), batch["start"].flatten()
            audio_embedding, face_embedding, *windows = (
                gathered(part) for part in (*embeddings, *own)
            )  # of all processes
            cosine = audio_embedding @ face_embedding.T
            windows = *windows, self.hp.negative_frames
            if self.hp.syncnet_loss == "infonce":
                same_clip_only = self.hp.infonce_negatives == "clip"
                loss = losses.info_nce(self.hp.infonce_scale * cosine, *windows, same_clip_only=same_clip_only)
            else:
                loss = losses.pairwise_bce(cosine, *windows)
            hits = (cosine.argmax(1) == torch.arange(len(cosine), device=cosine.device)).float().mean()
            shown = {"loss": loss, "top1": hits}
            if self.hp.teachers_wt:
                taught = (batch[name].flatten(0, 1) for name in ("heard", "seen"))
                shown["taught"] = self.networks["heads_"](*embeddings, *taught, *own, self.hp.negative_frames)
                loss = loss + self.hp.teachers_wt * shown["taught"]
            learn("", loss)
            return shown
        loss = losses.cosine_bce(*expert(batch["mel"], batch["faces"]), batch["label"])
        learn("", loss)
        return {"loss": loss}

    def evaluate(self, batch: Batch, network: nn.Module) -> dict[str, Tensor]:
        """Published loss; accuracy of the cosine against 0.5; accuracy of preferring the true window of a pair."""
        audio_embedding, face_embedding = network(batch["mel"], batch["faces"])
        cosine = F.cosine_similarity(audio_embedding.float(), face_embedding.float())
        true, false = cosine[0::2], cosine[1::2]
        return {
            "loss": losses.cosine_bce(audio_embedding, face_embedding, batch["label"]),
            "accuracy": ((cosine > 0.5) == (batch["label"][:, 0] > 0.5)).float().mean(),
            "pair_accuracy": ((true > false).float() + 0.5 * (true == false).float()).mean(),
            "cosine_true": true.mean(),
            "cosine_false": false.mean(),
        }

    def measure_clips(self, clips: list[Clip], network: nn.Module) -> dict[str, float]:
        return whole_clips.of_real_clips(network, clips, self.hp.fps)


class GeneratorStage(Stage):
    """Stage 2: the generator (paper section 3.4): (1 - w) L1 + w sync.

    w starts at `hp.syncnet_wt` and becomes `settled_wt` once the evaluation sync loss is under the threshold; it is
    part of the checkpoint.
    """

    lead = 1
    smallest_part = 1  # its five frames are a batch

    def __init__(self, hp: HParams, expert: SyncNet_color):
        super().__init__(hp)
        self.networks = {"": Wav2Lip(hp.face_size, hp.generator_width)}
        self.learning_rates = {"": hp.initial_learning_rate}
        self.networks[""].mel_lead_ms = 1000 * self.lead / hp.fps
        self.networks[""].checkpointing = hp.activation_checkpointing
        self.networks[""].fps = hp.fps
        self.networks[""].reference = "fitting" if hp.fitting_references else "own"
        if hp.start_as_copy:
            self.passing = 2 * initial.COLOURS
            initial.start_as_copy(self.networks[""])
            initial.hear_like(self.networks[""], expert)
        self._hear(expert)
        self.expert = expert.eval().requires_grad_(False)
        self.vgg = VGGFeatures() if hp.perceptual_wt > 0 else None
        self.frozen = tuple(network for network in (self.expert, self.vgg) if network is not None)
        self.sync_wt = hp.syncnet_wt
        self.settled_wt = hp.syncnet_wt_settled

    def dataset(self, data_root: Path, split: str, seed: int, filelists: Path) -> Dataset:
        steps = window_frames(self.hp.fps, self.expert.fps)  # the five frames are for the expert to see
        if split == "train":
            return training_set(data_root, self.hp, filelists, seed, GeneratorDataset, steps)
        clips = load_clips(data_root, split, self.hp, self.lead, filelists, steps)
        return GeneratorDataset(clips, self.hp, EVAL_SEED, False, steps)

    def train_mode(self) -> None:
        super().train_mode()
        if self.hp.hold_statistics:
            self.networks[""].eval()
        elif self.hp.start_as_copy:
            initial.hold_colours(bare(self.networks[""]))

    def after_loading(self, path: Path, samples: Callable[[], Batch]) -> None:
        """Let it hear as `hp.hear_as_expert` says; say so where batches have other statistics than the weights were
        last taught with."""
        self._hear(self.expert)
        if not self.hp.hold_statistics:
            initial.compare_statistics(path, self._as_trained, _first_frames(samples()))

    def after_growth(self, path: Path, small: nn.Module, samples: Callable[[], Batch]) -> None:
        """Let it hear as `hp.hear_as_expert` says, and start in the smaller network's colours, where it does not do so
        by itself."""
        self._hear(self.expert)
        network, first, held = self.networks[""], _first_frames(samples()), self.hp.hold_statistics
        grown, before = copy.deepcopy(network.state_dict()), initial.l1(self._as_trained(not held), first)
        calibrate(small, network, *first[:2], self.passing)
        if initial.l1(self._as_trained(not held), first) > before:
            network.load_state_dict(grown)
        if not held:
            initial.compare_statistics(path, self._as_trained, first)

    def _hear(self, expert: SyncNet_color) -> None:
        """Hear as the expert does, if that is asked for. Raises InputError where the widths differ."""
        if self.hp.hear_as_expert and not initial.hear_like(self.networks[""], expert):
            raise InputError(
                f"hear_as_expert: the generator's width is {self.hp.generator_width:g}, the expert's {expert.width:g}: "
                "they must be the same"
            )

    def _as_trained(self, training: bool) -> Wav2Lip:
        """A copy of the generator that uses the statistics of its batch, as in training, or those that it holds."""
        network = copy.deepcopy(self.networks[""]).train(training)
        if self.hp.start_as_copy:
            initial.hold_colours(network)
        return network

    def _generate(self, batch: Batch, network: nn.Module) -> Tensor:
        return network(batch["indiv_mels"], generator_input(batch))

    def step(self, batch: Batch, learn: Learn) -> dict[str, Tensor]:
        generated = self._generate(batch, self.networks[""])
        shown = self._generator_losses(batch, generated)
        learn("", shown["loss"])
        return shown

    def prepare(self, batch: Batch) -> Batch:
        """In the first samples, as many as `hp.spoken_over_share` says: what inference does to a video.

        The target is its own reference and says what the reference says. Its mouth is not known then, only how far it
        opens (`mouth`); `spoken_over` (B,) marks these samples.
        """
        count = len(batch["mel"])
        chosen = torch.arange(count) < round(self.hp.spoken_over_share * count)
        if not chosen.any():
            return {**batch, "mouth": batch["target"], "spoken_over": None}

        def pick(where_chosen: str, elsewhere: str) -> Tensor:
            mask = chosen.view(-1, *(1,) * (batch[elsewhere].dim() - 1))
            return torch.where(mask, batch[where_chosen], batch[elsewhere])

        return {
            **batch,
            "reference": pick("target", "reference"),
            "mouth": pick("reference", "target"),
            "indiv_mels": pick("reference_indiv_mels", "indiv_mels"),
            "mel": pick("reference_mel", "mel"),
            "reference_mel": pick("mel", "reference_mel"),
            "spoken_over": chosen,
        }

    def _generator_losses(self, batch: Batch, generated: Tensor) -> dict[str, Tensor]:
        l1 = losses.reconstruction_loss(generated, batch["target"], self.hp.mouth_wt, batch["spoken_over"])
        shown = {"l1": l1}
        total = (1 - self.sync_wt) * l1
        if self.hp.shade_wt > 0:
            shown["shade"] = losses.shade_loss(generated, batch["mouth"])
            total = total + self.hp.shade_wt * shown["shade"]
        if any((self.sync_wt, self.hp.contrast_wt, self.hp.lips_wt)):
            for name, weight, value in self._expert_losses(batch, generated):
                shown[name] = value
                total = total + weight * value
        known = _known(batch)
        if self.vgg is not None and len(generated[known]):
            shown["vgg"] = vgg_loss(self.vgg, generated[known], batch["target"][known])
            total = total + self.hp.perceptual_wt * shown["vgg"]
        return {"loss": total, **shown}

    def _expert_losses(self, batch: Batch, generated: Tensor) -> Iterator[tuple[str, float, Tensor]]:
        """Name, weight and value of what the expert says of generated faces."""
        generated, truth = (losses.at_size_of(self.expert, faces) for faces in (generated, batch["target"]))
        if not self.hp.sync_colours:
            generated = truth + (generated.float() - truth).mean(1, keepdim=True)
        if self.hp.augment:  # both alike
            both = torch.cat((generated.float(), truth), dim=2)
            generated, truth = jitter(both, batch["jitter"]).chunk(2, dim=2)
        seen = losses.look(self.expert, generated)
        if self.sync_wt > 0 or self.hp.contrast_wt > 0:
            lips, heard = seen[-1], losses.hear(self.expert, batch["mel"])
            if self.sync_wt > 0:
                yield "sync", self.sync_wt, losses.sync_of(heard, lips)
            if self.hp.contrast_wt > 0:
                other = losses.hear(self.expert, batch["reference_mel"])
                yield "contrast", self.hp.contrast_wt, losses.contrast_of(heard, other, lips)
        known = _known(batch)
        if self.hp.lips_wt > 0 and len(truth[known]):
            with torch.no_grad():
                expected = losses.look(self.expert, truth[known])
            yield "lips", self.hp.lips_wt, losses.lips_of([layer[known] for layer in seen], expected)

    def evaluate(self, batch: Batch, network: nn.Module) -> dict[str, Tensor]:
        """L1; sync loss of generated and of real faces (the scale of the former); PSNR (dB), SSIM of the lower half."""
        return self._judge(batch, self._generate(batch, network))

    def _judge(self, batch: Batch, generated: Tensor) -> dict[str, Tensor]:
        sync = losses.sync_loss(self.expert, batch["mel"], generated)
        l1 = losses.reconstruction_loss(generated, batch["target"])
        weight = self.sync_wt or self.settled_wt
        return {
            "loss": (1 - weight) * l1 + weight * sync,
            "l1": l1,
            "sync": sync,
            "sync_real": losses.sync_loss(self.expert, batch["mel"], batch["target"]),
            "psnr_lower": metrics.psnr_lower(generated, batch["target"]),
            "ssim_lower": metrics.ssim_lower(generated, batch["target"]),
        }

    def measure_clips(self, clips: list[Clip], network: nn.Module) -> dict[str, float]:
        return whole_clips.of_generated_clips(network, self.expert, clips, self.hp.fps)

    def after_evaluation(self, metrics: dict[str, float]) -> None:
        if metrics["sync"] < self.hp.syncnet_threshold:
            self.sync_wt = max(self.sync_wt, self.settled_wt)

    def state(self) -> dict[str, Any]:
        return {"sync_wt": self.sync_wt}

    def load_state(self, state: dict[str, Any]) -> None:
        self.sync_wt = max(self.hp.syncnet_wt, float(state.get("sync_wt", 0.0)))  # --hparams may switch it on

    def sample_sheets(self, batch: Batch, network: nn.Module) -> np.ndarray:
        """Reference | input | generated | truth."""
        generated = self._generate(batch, network).float()
        stacked = generator_input(batch)
        row = torch.cat((batch["reference"], stacked[:, :3], generated, batch["target"]), dim=-1)
        return (row * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1).cpu().numpy()


class QualityStage(GeneratorStage):
    """Stage 2 with the visual-quality discriminator (paper section 3.5): w sync + 0.07 perceptual + the rest L1."""

    betas = (0.5, 0.999)

    def __init__(self, hp: HParams, expert: SyncNet_color):
        super().__init__(hp, expert)
        self.networks["disc_"] = Wav2Lip_disc_qual(hp.face_size, hp.disc_width)
        self.networks["disc_"].checkpointing = hp.activation_checkpointing
        if hp.disc_keeps_variance:
            initial.keep_variance(self.networks["disc_"])
        self.learning_rates["disc_"] = hp.disc_initial_learning_rate
        self.settled_wt = hp.hq_syncnet_wt_settled

    def step(self, batch: Batch, learn: Learn) -> dict[str, Tensor]:
        discriminator = self.networks["disc_"]
        generated = self._generate(batch, self.networks[""])
        shown = self._generator_losses(batch, generated)
        if self.hp.disc_wt > 0:
            discriminator.requires_grad_(False)
            shown["perceptual"] = losses.perceptual_loss(bare(discriminator), generated)
            discriminator.requires_grad_(True)
            shown["loss"] = shown["loss"] - self.hp.disc_wt * shown["l1"] + self.hp.disc_wt * shown["perceptual"]
        learn("", shown["loss"])
        real, fake = losses.discriminator_loss(discriminator, batch["target"], generated)
        learn("disc_", (real + fake) / 2)
        return {**shown, "disc_real": real, "disc_fake": fake}

    def evaluate(self, batch: Batch, network: nn.Module) -> dict[str, Tensor]:
        generated = self._generate(batch, network)
        real, fake = losses.discriminator_loss(bare(self.networks["disc_"]), batch["target"], generated)
        return {**self._judge(batch, generated), "disc_real": real, "disc_fake": fake}


def _known(batch: Batch) -> Tensor | slice:
    """The samples whose true mouth is known."""
    return slice(None) if batch["spoken_over"] is None else ~batch["spoken_over"]


def _first_frames(batch: Batch) -> initial.FirstFrames:
    """Of each sample."""
    return batch["indiv_mels"][:, 0], generator_input(batch)[:, :, 0], batch["target"][:, :, 0]


def generator_input(batch: Batch) -> Tensor:
    """Target with its lower half zero, stacked before the reference: (B, 6, 5, H, W)."""
    masked = batch["target"].clone()
    lower_half(masked).zero_()
    return torch.cat((masked, batch["reference"]), dim=1)
