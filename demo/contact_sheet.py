"""Put frames of a video side by side in one PNG, evenly spaced in time.

Run as `python -m demo.contact_sheet results/result_voice.mp4`.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from errors import InputError, run_script

TILE_HEIGHT = 200  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description="Frames of a video side by side in one PNG, written beside it")
    parser.add_argument("video", type=Path)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--rows", type=int, default=3)
    args = parser.parse_args()
    if args.columns < 1 or args.rows < 1:
        raise InputError("--columns and --rows take a number from 1")
    path = args.video.with_name(f"{args.video.stem}_sheet.png")
    if not cv2.imwrite(str(path), contact_sheet(args.video, args.columns, args.rows)):
        raise InputError(f"contact sheet {path} cannot be written: choose another folder")
    print(f"contact sheet: {path}")


def contact_sheet(video: Path, columns: int, rows: int) -> np.ndarray:
    """`rows` x `columns` frames, evenly spaced in time: (rows x height, columns x width, 3) uint8 BGR."""
    from lipsync.video import FrameReader

    reader = FrameReader(video)
    total = sum(1 for _ in reader)
    wanted = np.linspace(0, total - 1, columns * rows).round().astype(int).tolist()
    width = round(reader.width * TILE_HEIGHT / reader.height)
    kept = {}
    for i, frame in enumerate(reader):
        if i in wanted:
            kept[i] = cv2.resize(frame, (width, TILE_HEIGHT), interpolation=cv2.INTER_AREA)
    tiles = [kept[i] for i in wanted]
    return np.vstack([np.hstack(tiles[r * columns : (r + 1) * columns]) for r in range(rows)])


if __name__ == "__main__":
    run_script(main)
