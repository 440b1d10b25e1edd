"""The command line that the three training scripts share."""

import argparse
import dataclasses
from pathlib import Path

import torch

from errors import InputError
from hparams import HParams, hparams, parse_size
from models.conv import checked_size
from training.clips import add_data_arguments
from training.trainer import TrainOptions

EPILOG = (
    "Ctrl-C saves a checkpoint and exits; --checkpoint_path resumes from it to the exact step. Curves: "
    "tensorboard --logdir CHECKPOINT_DIR/tensorboard. Several GPUs: torchrun --nproc_per_node=N SCRIPT ..."
)


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the arguments of every training script."""
    parser = argparse.ArgumentParser(description=description, epilog=EPILOG)
    add_data_arguments(parser, "preprocess.py, training.pack or training.shards")
    parser.add_argument("--checkpoint_dir", type=Path, required=True, help="checkpoints, samples and logs go here")
    parser.add_argument("--checkpoint_path", type=Path, help="resume from this checkpoint")
    parser.add_argument("--init_from", type=Path, help="start at step 0 with the weights of this checkpoint")
    parser.add_argument("--hparams", default="", metavar="NAME=VALUE,...", help="override values of hparams.py")
    parser.add_argument(
        "--img_size", metavar="HxW", help="face that the trained network sees, high x wide, such as 96 or 288x192"
    )
    parser.add_argument(
        "--batch_size", metavar="N|auto", help="samples a step; auto: as they are, in parts that fit into memory"
    )
    parser.add_argument("--steps", type=int, help="train up to this global step (default: until interrupted)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto",
                        help="autocast; auto: bf16 on GPUs that have it, else fp32")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    return parser


def read_arguments(args: argparse.Namespace, *, expert: bool = False) -> tuple[TrainOptions, HParams]:
    """Options and hyper-parameters of parsed arguments; also seeds torch, so that networks made then are the seed's.

    Raises InputError for what does not go together.
    """
    hp = _with_sizes(hparams.override(args.hparams), args, "syncnet_batch_size" if expert else "batch_size")
    torch.manual_seed(args.seed)  # the networks are drawn next
    if args.steps is not None and args.steps < 1:
        raise InputError("--steps takes a number from 1")
    if args.init_from and args.checkpoint_path:
        raise InputError("--init_from starts anew and --checkpoint_path resumes: give one of them")
    if expert and hp.syncnet_loss == "bce" and (hp.teachers_wt or hp.vary_voices):
        raise InputError("teachers_wt and vary_voices go with syncnet_loss=bce_pairs or infonce")
    if hp.accumulate_steps != 1 and expert and hp.syncnet_loss != "bce":
        raise InputError(f"syncnet_loss={hp.syncnet_loss} compares all windows of a batch: leave accumulate_steps at 1")
    checkpoints = {"": args.checkpoint_path}
    checkpoints |= {prefix: getattr(args, f"{prefix}checkpoint_path", None) for prefix in ("disc_", "heads_")}
    if checkpoints["heads_"] and not hp.teachers_wt:
        raise InputError("--heads_checkpoint_path goes with --hparams teachers_wt")
    options = TrainOptions(
        data_root=args.data_root,
        checkpoint_dir=args.checkpoint_dir,
        filelists=args.filelists,
        checkpoints={prefix: path for prefix, path in checkpoints.items() if path},
        init_from=args.init_from,
        steps=args.steps,
        checkpoint_interval=hp.syncnet_checkpoint_interval if expert else hp.checkpoint_interval,
        eval_interval=hp.syncnet_eval_interval if expert else hp.eval_interval,
        device=args.device,
        precision=args.precision,
        seed=args.seed,
    )
    return options, hp


def _with_sizes(hp: HParams, args: argparse.Namespace, batch_name: str) -> HParams:
    """The hyper-parameters with `--img_size` and `--batch_size` put in. Raises InputError for what cannot be."""
    if args.img_size is not None:
        hp = dataclasses.replace(hp, img_size=parse_size(args.img_size))
    checked_size(hp.face_size)
    if args.batch_size == "auto":
        hp = dataclasses.replace(hp, accumulate_steps=0)
    elif args.batch_size is not None:
        if not (args.batch_size.isdigit() and int(args.batch_size) > 0):
            raise InputError(f"--batch_size takes a number from 1, or auto, not '{args.batch_size}'")
        hp = dataclasses.replace(hp, **{batch_name: int(args.batch_size)})
    return hp
