"""Who is who: detections of every frame joined into tracks, and the one track chain that a run follows."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from errors import InputError

MIN_OVERLAP = 0.2  # intersection over union from which two boxes of neighbouring frames are one face
MAX_DRIFT = 1.0  # face sizes between the places where a face was lost and found, size changes counted in
NO_TRACK = -1


class NoFaceError(InputError):
    """There is no face in any frame."""


class Sighting(NamedTuple):
    """The face that a run follows, in one frame.

    Attributes:
        box: (4,) float32 x1, y1, x2, y2 as detected; None where it is not seen.
        track: which track the box is of, `NO_TRACK` where there is none. Where it changes, the picture cut to
            another place or person.
    """

    box: np.ndarray | None
    track: int


UNSEEN = Sighting(None, NO_TRACK)


def follow(detections: Iterable[np.ndarray], lost_after: int, face_index: int | None = None) -> Iterator[Sighting]:
    """Choose a face and follow it: one `Sighting` a frame, at most `lost_after` + 1 frames behind the detections.

    The face is the largest of the first frame that has any, or the `face_index`-th from the left there, counted from
    0. It is followed by overlap. Once it stays away for more than `lost_after` frames, or for good, the nearest
    face (place and size) takes its place that was not in the picture together with it; someone who was is never
    taken for it.

    Args:
        detections: per frame (n, 5) x1, y1, x2, y2, score.
        lost_after: frames.

    Raises NoFaceError when there is no face in any frame, InputError when there is none of that index in the first
    frame with faces.
    """
    coming = label(detections)
    ahead: deque[tuple[np.ndarray, list[int]]] = deque()
    recent: deque[list[int]] = deque(maxlen=lost_after + 1)  # tracks of the frames before
    current, last_box, away, companions = NO_TRACK, None, 0, set()
    while _fill(ahead, coming, 1):
        faces, found = ahead.popleft()
        if current == NO_TRACK and len(faces):
            current = found[_first_choice(faces, face_index)]
        seen = current in found
        if not seen and current != NO_TRACK:
            if not away:
                companions = set().union(*recent)
            away += 1
            newcomers = [k for k, track in enumerate(found) if track not in companions]
            if newcomers and not _returns(current, ahead, coming, within=lost_after + 1 - away):
                current = found[min(newcomers, key=lambda k: _drift(last_box, faces[k]))]
                seen = True
        recent.append(found)
        if seen:
            away, last_box = 0, faces[found.index(current)]
        yield Sighting(last_box[:4], current) if seen else UNSEEN
    if current == NO_TRACK:
        raise NoFaceError("no face was found in any frame: use another video, or give the place with --box")


def _fill(ahead: deque, coming: Iterator, count: int) -> bool:
    """Take from `coming` until `ahead` holds `count`; whether it holds any."""
    ahead.extend(islice(coming, max(0, count - len(ahead))))
    return bool(ahead)


def _returns(track: int, ahead: deque, coming: Iterator, within: int) -> bool:
    """Whether a track is seen in the next `within` frames."""
    _fill(ahead, coming, within)
    return any(track in found for _, found in islice(ahead, max(0, within)))


def _first_choice(faces: np.ndarray, face_index: int | None) -> int:
    if face_index is None:
        return int(np.argmax((faces[:, 2] - faces[:, 0]) * (faces[:, 3] - faces[:, 1])))
    if not 0 <= face_index < len(faces):
        raise InputError(
            f"--face_index {face_index}: the first frame with faces has {len(faces)}, counted from 0: "
            f"use 0 to {len(faces) - 1}"
        )
    return int(np.argsort(faces[:, 0] + faces[:, 2], kind="stable")[face_index])


def label(detections: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Each frame's detections (n, 5 or more) with the track number of each, counted from 0."""
    last_boxes: list[np.ndarray] = []  # of every track so far
    previous: set[int] = set()  # tracks of the frame before
    for faces in detections:
        found = [NO_TRACK] * len(faces)
        # Those just seen come first, by overlap; then whoever was lost, by place and size.
        _match(found, faces, sorted(previous), last_boxes, lambda a, b: 1 - overlap(a, b), 1 - MIN_OVERLAP)
        _match(found, faces, range(len(last_boxes)), last_boxes, _drift, MAX_DRIFT)
        for k, box in enumerate(faces):
            if found[k] == NO_TRACK:
                found[k] = len(last_boxes)
                last_boxes.append(box)
            last_boxes[found[k]] = box
        yield faces, found
        previous = set(found) or previous


def _match(
    found: list[int],
    faces: np.ndarray,
    tracks: Iterable[int],
    last_boxes: list[np.ndarray],
    distance: Callable[[np.ndarray, np.ndarray], float],
    limit: float,
) -> None:
    """Give unlabelled faces the free tracks nearest to them, nearest pair first; fills `found`."""
    unlabelled = [k for k, track in enumerate(found) if track == NO_TRACK]
    if not unlabelled:
        return
    free = [track for track in tracks if track not in found]
    pairs = ((distance(last_boxes[track], faces[k]), k, track) for k in unlabelled for track in free)
    for away, k, track in sorted(pairs):
        if away <= limit and found[k] == NO_TRACK and track not in found:
            found[k] = track


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return float(shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared))


def _drift(a: np.ndarray, b: np.ndarray) -> float:
    """How far apart two boxes are: between centres, in face sizes, plus the logarithm of the ratio of sizes."""
    size_a, size_b = (max(1.0, float(box[2] - box[0] + box[3] - box[1]) / 2) for box in (a, b))
    centre = np.hypot(a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]) / 2
    return float(centre / np.sqrt(size_a * size_b) + abs(np.log(size_a / size_b)))
