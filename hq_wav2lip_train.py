"""Stage 2 with the visual-quality discriminator (paper section 3.5).

    python hq_wav2lip_train.py --data_root lrs2_preprocessed --checkpoint_dir runs/wav2lip_hq \\
        --syncnet_checkpoint_path runs/expert/checkpoint_best.pth
"""

from pathlib import Path

from errors import run_script


def main() -> None:
    from models.checkpoint import load_expert
    from training.cli import make_parser, read_arguments
    from training.stages import QualityStage
    from training.trainer import Trainer

    parser = make_parser("Train the generator with the visual-quality discriminator (stage 2)")
    parser.add_argument("--syncnet_checkpoint_path", type=Path, required=True, help="the trained expert")
    parser.add_argument("--disc_checkpoint_path", type=Path, help="resume the discriminator from this checkpoint")
    args = parser.parse_args()
    options, hp = read_arguments(args)
    Trainer(QualityStage(hp, load_expert(args.syncnet_checkpoint_path)), options, hp).run()


if __name__ == "__main__":
    run_script(main)
