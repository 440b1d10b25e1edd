"""What a training run writes besides checkpoints: curves and samples."""

import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from errors import warn

BOARD_HEIGHT = 192  # pixels of a face in TensorBoard, about


class Logs:
    """TensorBoard event files and a JSON-lines log in the checkpoint folder; silent where `active` is not set."""

    def __init__(self, folder: Path, active: bool):
        self.folder, self.active = folder, active

    def __enter__(self) -> "Logs":
        if self.active:
            self.board = _tensorboard(self.folder / "tensorboard")
            self.lines = (self.folder / "log.jsonl").open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: Any) -> None:
        if self.active:
            self.lines.close()
            if self.board:
                self.board.close()

    def write(self, split: str, step: int, metrics: dict[str, float]) -> None:
        if not self.active:
            return
        for name, value in metrics.items() if self.board else ():
            self.board.add_scalar(f"{split}/{name}", value, step)
        record = {"step": step, "split": split, "time": round(time.time(), 1)}
        rounded = {name: float(f"{value:.6g}") for name, value in metrics.items()}
        print(json.dumps({**record, **rounded}), file=self.lines, flush=True)

    def picture(self, name: str, step: int, sheets: np.ndarray) -> None:
        """Sheets (B, T, H, W, 3) uint8 BGR as one grid, a clip a row."""
        if self.active and self.board:
            smaller = max(1, sheets.shape[2] // BOARD_HEIGHT)  # every n-th pixel: event files keep each picture
            rows = [np.concatenate(list(sheet[:, ::smaller, ::smaller]), axis=1) for sheet in sheets]
            grid = np.concatenate(rows, axis=0)[..., ::-1].copy()
            self.board.add_image(name, grid, step, dataformats="HWC")


def _tensorboard(folder: Path) -> Any:
    """A writer of event files, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        warn("TensorBoard is not installed: the curves go to log.jsonl only")
        return None
    return SummaryWriter(str(folder))


def write_sheets(sheets: np.ndarray, folder: Path) -> None:
    """Sheets (B, T, H, W, 3) uint8 BGR as `<sample>_<frame>.jpg`."""
    folder.mkdir(parents=True, exist_ok=True)
    for b, sheet in enumerate(sheets):
        for t, picture in enumerate(sheet):
            cv2.imwrite(str(folder / f"{b}_{t}.jpg"), picture)
