"""The recipe of the default weights, from a preprocessed tree or a pack to three small files; resumable at any point.

    python -m training.recipe --data_root packed --runs runs/default
    python -m training.recipe --data_root packed --runs runs/tiny --tiny    # minutes on a CPU, to see it learn

Each step is one of the training scripts in a folder of its own. A step whose last checkpoint is there is not run again;
one that was interrupted goes on from its newest checkpoint.
"""

import argparse
import dataclasses
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from errors import InputError, run_script
from training.clips import add_data_arguments
from training.labels import labels_paths
from training.taught import taught_path

ROOT = Path(__file__).resolve().parent.parent
COMMON = "grad_clip=1,weight_decay=0.01,compile={compile}"
EXPERT = f"{COMMON},syncnet_batch_size=64,syncnet_windows=4,syncnet_checkpoint_interval=200,syncnet_eval_interval=200"
GENERATOR = (
    f"{COMMON},start_as_copy=True,generator_width=0.5,augment=True,batch_size=8,min_negative_distance=5,"
    "mouth_wt=1,lips_wt=0.03,sync_colours=False,syncnet_threshold=0,warmup_steps=50,"
    "checkpoint_interval=100,eval_interval=200,eval_windows=1,ema_decay=0.99"
)
FITTING = (  # by gradients at the picture, a weight of 0.001 makes the sync loss about as strong as L1
    "fitting_references=True,opened_share=0.6,vary_colours=True,hold_statistics=True,batch_size=4,lips_wt=0,"
    "syncnet_wt=0.001,syncnet_wt_settled=0.001,hq_syncnet_wt_settled=0.001"
)
QUALITY = "disc_width=0.5,disc_keeps_variance=True,disc_wt=0.03,disc_initial_learning_rate=2e-4"


@dataclass(frozen=True)
class Step:
    """One training run: a script, its steps, its hyper-parameters and what it starts from (by step name)."""

    name: str
    script: str
    steps: int
    hparams: str
    seed: int
    expert: str = ""  # step whose best checkpoint is the frozen expert
    init_from: str = ""  # step whose best checkpoint gives the first weights
    widen: float = 0.0  # the width that those are brought to


STEPS = (
    Step(
        "expert_contrast", "color_syncnet_train.py", 2300,
        f"{EXPERT},syncnet_width=0.25,syncnet_loss=infonce,min_negative_distance=3,syncnet_lr=1e-3,warmup_steps=20,"
        "decay_steps=2300,ema_decay=0.995",
        seed=4,
    ),
    Step(
        "expert", "color_syncnet_train.py", 2600,
        f"{EXPERT},syncnet_width=0.5,syncnet_loss=bce_pairs,augment=True,min_negative_distance=5,syncnet_lr=7e-4,"
        "warmup_steps=50,decay_steps=2600,ema_decay=0.995",
        seed=11, init_from="expert_contrast", widen=0.5,
    ),
    Step(  # what landmarks and Whisper's tokens teach
        "expert_taught", "color_syncnet_train.py", 10000,
        f"{EXPERT},syncnet_width=0.5,syncnet_loss=bce_pairs,syncnet_windows=8,augment=True,vary_colours=True,"
        "vary_voices=True,teachers_wt=0.5,min_negative_distance=5,syncnet_lr=5e-4,weight_decay=0.05,warmup_steps=100,"
        "decay_steps=10000,ema_decay=0.998,syncnet_checkpoint_interval=500,syncnet_eval_interval=500",
        seed=61, init_from="expert",
    ),
    Step(  # the face alone: with the expert's losses from the start, specks that please it come before lips
        "generator_face", "wav2lip_train.py", 450,
        f"{GENERATOR},initial_learning_rate=1e-3,syncnet_wt=0",
        seed=12, expert="expert",
    ),
    Step(
        "generator", "wav2lip_train.py", 2050,
        f"{GENERATOR},initial_learning_rate=5e-4,decay_steps=2050,"
        "spoken_over_share=0.5,shade_wt=15,contrast_wt=0.01,syncnet_wt=0.002,syncnet_wt_settled=0.002",
        seed=13, expert="expert", init_from="generator_face",
    ),
    Step(  # references whose mouth fits the speech: the face settles, the speech is not heard yet
        "generator_fitting", "wav2lip_train.py", 3000,
        f"{GENERATOR},{FITTING},initial_learning_rate=3e-4,decay_steps=6000,checkpoint_interval=500,eval_interval=500",
        seed=47, expert="expert_taught", init_from="generator",
    ),
    Step(  # it learns to listen: the expert's ears anew, and a sync loss ten times as strong as L1
        "generator_hearing", "wav2lip_train.py", 3000,
        f"{GENERATOR},{FITTING},hear_as_expert=True,syncnet_wt=0.01,syncnet_wt_settled=0.01,initial_learning_rate=5e-4,"
        "decay_steps=3000",
        seed=71, expert="expert_taught", init_from="generator_fitting",
    ),
    Step(  # with a fifth of it: the picture gains
        "generator_settling", "wav2lip_train.py", 3000,
        f"{GENERATOR},{FITTING},syncnet_wt=0.002,syncnet_wt_settled=0.002,initial_learning_rate=5e-4,decay_steps=3000",
        seed=81, expert="expert_taught", init_from="generator_hearing",
    ),
    Step(  # judged at its end alone, for validation does not see what a discriminator is for; later skin gets stripes
        "generator_quality", "hq_wav2lip_train.py", 500,
        f"{GENERATOR},{FITTING},{QUALITY},initial_learning_rate=1e-4,decay_steps=1250,eval_interval=500",
        seed=49, expert="expert_taught", init_from="generator_settling",
    ),
)  # fmt: skip

FILES = {  # what the steps end in
    "expert_taught": "lipsync_expert_small.pth",
    "generator_settling": "wav2lip_small.pth",
    "generator_quality": "wav2lip_small_gan.pth",
}

TINY_EXPERT = "syncnet_batch_size=16,min_negative_distance=2,ema_decay=0.9"
TINY_GENERATOR = "opened_share=0,generator_width=0.25,batch_size=2,ema_decay=0.9,warmup_steps=5"
TINY_LAST = (3, f"{TINY_GENERATOR},decay_steps=3,eval_interval=3,checkpoint_interval=3")
TINY = {
    "expert_contrast": (150, f"{TINY_EXPERT},decay_steps=150,syncnet_eval_interval=50"),
    "expert": (60, f"{TINY_EXPERT},decay_steps=60,syncnet_eval_interval=30"),
    "expert_taught": (10, f"{TINY_EXPERT},decay_steps=10,syncnet_eval_interval=10,teachers_wt=0"),
    "generator_face": (60, f"{TINY_GENERATOR},eval_interval=10,checkpoint_interval=60"),
    "generator": (60, f"{TINY_GENERATOR},decay_steps=60,eval_interval=60,checkpoint_interval=60"),
    "generator_fitting": (5, f"{TINY_GENERATOR},decay_steps=5,eval_interval=5,checkpoint_interval=5"),
    "generator_hearing": (3, f"{TINY_GENERATOR},hear_as_expert=False,eval_interval=3,checkpoint_interval=3"),
    "generator_settling": TINY_LAST,
    "generator_quality": TINY_LAST,
}


def tiny(step: Step) -> Step:
    """The same step on a few clips in under a minute."""
    steps, overrides = TINY[step.name]
    return dataclasses.replace(step, steps=steps, hparams=f"{step.hparams},num_workers=0,{overrides}")


def run_step(step: Step, args: argparse.Namespace) -> None:
    """Run a step to its end, from its newest checkpoint if it has one."""
    folder = args.runs / step.name
    saved = sorted(folder.glob("checkpoint_step*.pth"))
    if saved and saved[-1].name == f"checkpoint_step{step.steps:09d}.pth":
        print(f"== {step.name}: done already", flush=True)
        return
    print(f"== {step.name}: {step.steps} steps of {step.script}", flush=True)
    argv = [step.script, "--data_root", args.data_root, "--filelists", args.filelists, "--checkpoint_dir", folder]
    argv += ["--steps", step.steps, "--seed", step.seed]
    argv += ["--device", args.device, "--precision", args.precision]
    argv += ["--hparams", step.hparams.format(compile=args.compile)]
    if step.expert:
        argv += ["--syncnet_checkpoint_path", best(args.runs, step.expert)]
    if saved:
        argv += ["--checkpoint_path", saved[-1]]
        for prefix in ("disc_", "heads_"):
            beside = saved[-1].with_name(f"{prefix}{saved[-1].name}")
            argv += [f"--{prefix}checkpoint_path", beside] if beside.is_file() else []
    elif step.init_from:
        source = best(args.runs, step.init_from)
        if step.widen:
            wide = folder / "widened.pth"
            call(["-m", "models.widen", source, wide, "--width", step.widen, "--seed", step.seed])
            source = wide
        argv += ["--init_from", source]
    call(argv)


def ask_teachers(args: argparse.Namespace) -> None:
    """Have what the expert learns from beside the data: landmarks, and what the teachers made of them."""
    data = ["--data_root", args.data_root, "--filelists", args.filelists]
    if not all(path.is_file() for split in ("train", "val") for path in labels_paths(args.data_root, split)):
        call(["-m", "training.landmarks", *data])
    if not taught_path(args.data_root).is_file():
        call(["-m", "training.teachers", *data, "--device", args.device])


def best(runs: Path, step: str) -> Path:
    """The best checkpoint of a step by validation."""
    return runs / step / "checkpoint_best.pth"


def call(argv: list[object]) -> None:
    """Run Python on a script or module of this repository. Raises InputError when it fails: it has said why itself.

    A terminal's Ctrl-C reaches the script too, which saves a checkpoint first: it is waited for.
    """
    process = subprocess.Popen([sys.executable, *map(str, argv)], cwd=ROOT)
    handlers = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
    }
    try:
        status = process.wait()
    finally:
        for kind, handler in handlers.items():
            signal.signal(kind, handler)
    if status == 130:
        raise KeyboardInterrupt
    if status:
        raise InputError(f"{argv[0]} ended with exit status {status}: see above; the same command goes on from there")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the default weights, as they were trained")
    add_data_arguments(parser)
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs and the three files they end in")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--precision", default="auto", help="of all training scripts (default: %(default)s); bf16 is "
                        "faster on CPUs that compute it, too")  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="torch.compile the networks; needs a C++ compiler")
    parser.add_argument("--tiny", action="store_true", help="a few minutes on a CPU, on a few clips, to see it learn")
    args = parser.parse_args()
    for name in ("data_root", "runs", "filelists"):
        setattr(args, name, getattr(args, name).resolve())
    if not args.tiny:  # drawn faces have no landmarks
        ask_teachers(args)
    for step in STEPS:
        run_step(tiny(step) if args.tiny else step, args)
    for step, name in FILES.items():
        call(["-m", "models.export", best(args.runs, step), args.runs / name])


if __name__ == "__main__":
    run_script(main)
