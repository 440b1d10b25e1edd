"""Stage 2: the generator against the frozen expert, without the visual-quality discriminator (paper section 3.4).

    python wav2lip_train.py --data_root lrs2_preprocessed --checkpoint_dir runs/wav2lip \\
        --syncnet_checkpoint_path runs/expert/checkpoint_best.pth
"""

from pathlib import Path

from errors import run_script


def main() -> None:
    from models.checkpoint import load_expert
    from training.cli import make_parser, read_arguments
    from training.stages import GeneratorStage
    from training.trainer import Trainer

    parser = make_parser("Train the generator without the visual-quality discriminator (stage 2)")
    parser.add_argument("--syncnet_checkpoint_path", type=Path, required=True, help="the trained expert")
    args = parser.parse_args()
    options, hp = read_arguments(args)
    Trainer(GeneratorStage(hp, load_expert(args.syncnet_checkpoint_path)), options, hp).run()


if __name__ == "__main__":
    run_script(main)
