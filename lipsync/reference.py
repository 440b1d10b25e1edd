"""References whose mouth is closed, so that a generator which copies its reference's mouth has none to copy.

The published procedure makes every frame its own reference (SPEC of the published system). A generator that was not
trained for long follows that mouth more than the speech.
"""

import numpy as np
import torch

from models.checkpoint import load_seen_opening
from mouths import pose_distance, with_mouth_of

KEPT = 6  # faces, the most closed of all seen: the nearest in pose gives its mouth


class ClosedMouths:
    """Gives each face, in the order of the video, the most closed mouth of those seen so far, in the face's own pose.

    Only the `KEPT` most closed ones are held, so that memory does not grow.
    """

    def __init__(self) -> None:
        self._seen = load_seen_opening()
        self._kept: list[tuple[float, np.ndarray]] = []

    @torch.inference_mode()
    def __call__(self, face: np.ndarray) -> np.ndarray:
        """A face (H, W, 3) uint8 BGR at the generator's size -> the same with another mouth."""
        picture = torch.from_numpy(np.ascontiguousarray(face)).permute(2, 0, 1)[None].float() / 255
        self._kept.append((float(self._seen(picture)), face))
        self._kept.sort(key=lambda kept: kept[0])
        del self._kept[KEPT:]
        closed = (other for _, other in self._kept)
        return with_mouth_of(min(closed, key=lambda other: pose_distance(other, face)), face)


def reference_maker(name: str) -> ClosedMouths | None:
    """What makes the references of `--reference`; None where faces are their own."""
    return ClosedMouths() if name == "closed" else None
