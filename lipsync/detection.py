"""Which frames the face detector looks at, and how closely: each one at full size, or a few at a reduced one.

Between two frames that were looked at, boxes are interpolated where the picture is steady; where it is not (faces move,
come or go, the picture cuts), frames between them are looked at too, down to each one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from face_detection import FaceAlignment
from lipsync.tracking import overlap

STEADY_OVERLAP = 0.7  # intersection over union of a face in two frames, from which its way between them is straight
GRID = 8  # pixels between those that are compared to see whether the picture changes
CHANGE = 14.0  # mean difference of those in neighbouring frames, of 255, from which the picture has changed
SMALL_FACE = 24  # pixels of a face's width as the detector sees it, under which it is looked at more closely
NOTABLE_FACE = 0.5  # of the largest one's width, under which a face is none that anyone looks for
CLOSER = 2  # how many times larger the detector sees it then

Detect = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


class Glance:
    """A detector at reduced size, which looks more closely where that may not do.

    Frames that show no face, fewer faces than the frame before, or a small one are looked at again at `CLOSER` times
    the size; so is the first frame. Faces much smaller than the largest one count only if asked for.

    Args:
        size: longer side of the frames as the detector sees them, in pixels; 0 is the detector's own (S3FD: all of
            them; CenterFace: 640), and then every look is the only one.
        device, face_detector: as for `FaceAlignment`.
        every_face: whether faces much smaller than the largest one count.
    """

    def __init__(self, size: int, device: str, face_detector: str, every_face: bool = False):
        self._size, self._device, self._name = size, device, face_detector
        self._every_face = every_face
        self._glance: Detect | None = None  # both are made when they are first needed
        self._closer: Detect | None = None
        self._count: int | None = None  # faces that count in the frame before

    def __call__(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Faces (n, 5) of each frame (H, W, 3), as `FaceAlignment.detect_faces` gives them."""
        self._glance = self._glance or self._detector(self._size).detect_faces
        found = self._glance(frames)
        longer = max(frames[0].shape[:2])
        if not 0 < self._size < longer:
            return found
        return [self._checked(frame, faces, self._size / longer) for frame, faces in zip(frames, found, strict=True)]

    def _checked(self, frame: np.ndarray, faces: np.ndarray, scale: float) -> np.ndarray:
        widths = widths_of(notable(faces, self._every_face))
        first_or_fewer = self._count is None or len(widths) < max(1, self._count)
        if first_or_fewer or widths.min() * scale < SMALL_FACE:
            self._closer = self._closer or self._detector(CLOSER * self._size).detect_faces
            (faces,) = self._closer([frame])
            widths = widths_of(notable(faces, self._every_face))
        self._count = len(widths)
        return faces

    def _detector(self, size: int) -> FaceAlignment:
        settings = {"size": size} if size else {}
        return FaceAlignment(device=self._device, face_detector=self._name, **settings)


def widths_of(faces: np.ndarray) -> np.ndarray:
    """(n,) in pixels."""
    return faces[:, 2] - faces[:, 0]


def notable(faces: np.ndarray, every_face: bool) -> np.ndarray:
    """Those of `faces` (n, 5) that are not much smaller than the largest; all of them if asked for."""
    widths = widths_of(faces)
    return faces[widths >= (0 if every_face else NOTABLE_FACE) * widths.max(initial=0)]


def find_faces(
    frames: Iterable[np.ndarray], detect: Detect, every: int, batch_size: int, every_face: bool = False
) -> Iterator[np.ndarray]:
    """The faces of each frame, of which `detect` is shown every `every`-th and those where the picture is not steady.

    Faces that are not `notable` may come and go in a steady picture. At most `batch_size` frames, or `every` if that is
    more, are taken ahead and given to `detect` at once.
    Yields float32 (n, 5): x1, y1, x2, y2 in pixels, score.
    """
    frames = iter(frames)
    if every == 1:
        while batch := list(islice(frames, batch_size)):
            yield from detect(batch)
        return
    before = None  # the last frame that was looked at, with its faces
    while stretch := list(islice(frames, every * max(1, batch_size // every) if before else 1)):
        ends = [*range(every, len(stretch), every), len(stretch)]
        looked = detect([stretch[end - 1] for end in ends])
        for start, end, faces in zip([0, *ends], ends, looked, strict=False):
            if before is None:
                yield faces
            else:
                yield from _between(before, stretch[start:end], faces, detect, every_face)
            before = (stretch[end - 1], faces)


def _between(
    before: tuple[np.ndarray, np.ndarray],
    frames: list[np.ndarray],
    last: np.ndarray,
    detect: Detect,
    every_face: bool,
) -> list[np.ndarray]:
    """Faces of each of `frames`, which follow a frame with known faces; the `last` one's are known too."""
    first_frame, first = before
    frames = [first_frame, *frames]
    found = {0: first, len(frames) - 1: last}
    changes = _changes(frames, [*first, *last])
    # A loop: an inner function that calls itself would keep the frames until garbage is collected.
    unknown = [(0, len(frames) - 1)]
    while unknown:
        start, end = unknown.pop()
        if end - start < 2:
            continue
        pairs = _same_faces(found[start], found[end], every_face)
        if pairs is not None and max(changes[start:end]) < CHANGE:
            for k in range(start + 1, end):
                found[k] = _on_the_way(found[start], found[end], pairs, (k - start) / (end - start))
            continue
        middle = (start + end) // 2
        (found[middle],) = detect([frames[middle]])
        unknown += [(middle, end), (start, middle)]
    return [found[k] for k in range(1, len(frames))]


def _changes(frames: list[np.ndarray], faces: list[np.ndarray]) -> list[float]:
    """How much each frame differs from the one before, as a whole or where one of `faces` is: mean of [0, 255]."""
    grids = [frame[::GRID, ::GRID, 1].astype(np.int16) for frame in frames]
    height, width = grids[0].shape
    places = [np.s_[:, :]]
    for x1, y1, x2, y2 in (np.clip(face[:4], 0, None).astype(int) // GRID for face in faces):
        if x1 < min(x2, width) and y1 < min(y2, height):
            places.append(np.s_[y1:y2, x1:x2])
    differences = (np.abs(b - a) for a, b in zip(grids, grids[1:], strict=False))
    return [max(float(difference[place].mean()) for place in places) for difference in differences]


def _same_faces(a: np.ndarray, b: np.ndarray, every_face: bool) -> dict[int, int] | None:
    """Which face of `a` is which of `b`; None unless both show the same notable faces, about in place."""
    overlaps = sorted(((overlap(a[i], b[k]), i, k) for i in range(len(a)) for k in range(len(b))), reverse=True)
    pairs: dict[int, int] = {}
    for shared, i, k in overlaps:
        if shared >= STEADY_OVERLAP and i not in pairs and k not in pairs.values():
            pairs[i] = k
    left = [np.delete(a, list(pairs), axis=0), np.delete(b, list(pairs.values()), axis=0)]
    for faces, others in zip((a, b), left, strict=True):
        least = widths_of(notable(faces, every_face)).min(initial=np.inf)
        if (widths_of(others) >= least).any():
            return None
    return dict(sorted(pairs.items()))


def _on_the_way(a: np.ndarray, b: np.ndarray, pairs: dict[int, int], along: float) -> np.ndarray:
    """Faces between two frames: `pairs` interpolated; those of one frame only are there in its half of the way."""
    start, end = a[list(pairs)], b[list(pairs.values())]
    others = np.delete(a, list(pairs), axis=0) if along < 0.5 else np.delete(b, list(pairs.values()), axis=0)
    return np.concatenate([start + np.float32(along) * (end - start), others])
