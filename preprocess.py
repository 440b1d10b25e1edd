"""Videos -> face crops, audio and mels for training.

    python preprocess.py --data_root mvlrs_v1/main --preprocessed_root lrs2_preprocessed
    python preprocess.py --raw videos --preprocessed_root preprocessed --filelists lists

The first reads LRS2-shaped clips, `data_root/<folder>/<id>.mp4` (any container). The second takes raw videos of any
kind and length: `--raw . --help` lists its flags. Both write `preprocessed_root/<folder>/<id>/` with
`<frame number>.jpg`, `audio.wav` (16 kHz mono) and `mel.npy`. What is written appears whole; what is done is skipped,
so that an interrupted run goes on where it was.
"""

import sys
from collections.abc import Sequence

from errors import InputError, run_script
from lipsync.command_line import parse


def main(argv: Sequence[str] | None = None) -> None:
    """Preprocess as the command line says; see `errors.run_script` for how it fails."""
    argv = sys.argv[1:] if argv is None else argv
    given = {word.partition("=")[0] for word in argv}
    if {"--raw", "--data_root"} <= given:
        raise InputError("--raw takes raw videos and --data_root LRS2-shaped clips: give one of them")
    if "--raw" in given:
        from preprocessing.options import RawOptions
        from preprocessing.raw import preprocess_raw

        options = parse(RawOptions, argv, __doc__)
        preprocess_raw(options)
    else:
        from preprocessing.lrs2 import Lrs2Options, preprocess_clips

        options = parse(Lrs2Options, argv, __doc__)
        preprocess_clips(options)
    if options.shards:
        from training.shards import FILELISTS, write_splits

        write_splits(options.preprocessed_root, options.shards, options.filelists or FILELISTS)


if __name__ == "__main__":
    run_script(main)
