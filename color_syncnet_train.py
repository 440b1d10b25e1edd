"""Stage 1: train the expert lip-sync discriminator, SyncNet (paper section 3.1).

    python color_syncnet_train.py --data_root lrs2_preprocessed --checkpoint_dir runs/expert

Its evaluation loss should come down to about 0.25 before the generator is trained; 0.693 is chance.
"""

from pathlib import Path

from errors import run_script


def main() -> None:
    from training.cli import make_parser, read_arguments
    from training.stages import ExpertStage
    from training.trainer import Trainer

    parser = make_parser("Train the expert lip-sync discriminator (stage 1)")
    parser.add_argument("--heads_checkpoint_path", type=Path, help="resume what compares with teachers")
    args = parser.parse_args()
    options, hp = read_arguments(args, expert=True)
    Trainer(ExpertStage(hp), options, hp).run()


if __name__ == "__main__":
    run_script(main)
