"""Who is who: detections of every frame joined into tracks, and the one track chain that a run follows."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from errors import InputError

MIN_OVERLAP = 0.2  # intersection over union from which two boxes of neighbouring frames are one face
MAX_DRIFT = 1.0  # face sizes between the places where a face was lost and found, size changes counted in
NO_TRACK = -1


@dataclass(frozen=True)
class FollowedFace:
    """The face that a run follows, one entry a frame.

    Attributes:
        boxes: (n, 4) float32 x1, y1, x2, y2 as detected; rows without a face are NaN.
        tracks: (n,) int, which track the box is of, `NO_TRACK` where there is none. Where it changes, the
            picture cut to another place or person.
    """

    boxes: np.ndarray
    tracks: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """(n,) bool."""
        return self.tracks != NO_TRACK


def follow(detections: Sequence[np.ndarray], lost_after: int, face_index: int | None = None) -> FollowedFace:
    """Choose a face and follow it.

    The face is the largest of the first frame that has any, or the `face_index`-th from the left there, counted from
    0. It is followed by overlap. Once it stays away for more than `lost_after` frames, or for good, the nearest
    face (place and size) takes its place that was not in the picture together with it; someone who was is never
    taken for it.

    Args:
        detections: per frame (n, 5) x1, y1, x2, y2, score.
        lost_after: frames.

    Raises InputError when there is no face in any frame, or none of that index.
    """
    start = next((i for i, faces in enumerate(detections) if len(faces)), None)
    if start is None:
        raise InputError("no face was found in any frame: use another video, or give the place with --box")
    labels = _label(detections)
    current = labels[start][_first_choice(detections[start], face_index)]
    followed = FollowedFace(np.full((len(detections), 4), np.nan, np.float32), np.full(len(detections), NO_TRACK))
    sightings = _sightings(labels)
    last_box, last_seen = None, start
    for i in range(start, len(detections)):
        if current not in labels[i]:
            away_until = next((seen for seen in sightings[current] if seen > i), None)
            if away_until is not None and away_until - last_seen - 1 <= lost_after:
                continue
            companions = set().union(*labels[max(0, last_seen - lost_after) : last_seen + 1])
            newcomers = [k for k, label in enumerate(labels[i]) if label not in companions]
            if not newcomers:
                continue
            current = labels[i][min(newcomers, key=lambda k: _drift(last_box, detections[i][k]))]
        last_box, last_seen = detections[i][labels[i].index(current)], i
        followed.boxes[i], followed.tracks[i] = last_box[:4], current
    return followed


def _first_choice(faces: np.ndarray, face_index: int | None) -> int:
    if face_index is None:
        return int(np.argmax((faces[:, 2] - faces[:, 0]) * (faces[:, 3] - faces[:, 1])))
    if not 0 <= face_index < len(faces):
        raise InputError(
            f"--face_index {face_index}: the first frame with faces has {len(faces)}, counted from 0: "
            f"use 0 to {len(faces) - 1}"
        )
    return int(np.argsort(faces[:, 0] + faces[:, 2], kind="stable")[face_index])


def _label(detections: Sequence[np.ndarray]) -> list[list[int]]:
    """Track number of every detection of every frame."""
    labels: list[list[int]] = []
    last_boxes: list[np.ndarray] = []  # of every track so far
    previous: set[int] = set()  # tracks of the frame before
    for faces in detections:
        found = [NO_TRACK] * len(faces)
        # Those just seen come first, by overlap; then whoever was lost, by place and size.
        _match(found, faces, sorted(previous), last_boxes, lambda a, b: 1 - _overlap(a, b), 1 - MIN_OVERLAP)
        _match(found, faces, range(len(last_boxes)), last_boxes, _drift, MAX_DRIFT)
        for k, box in enumerate(faces):
            if found[k] == NO_TRACK:
                found[k] = len(last_boxes)
                last_boxes.append(box)
            last_boxes[found[k]] = box
        labels.append(found)
        previous = set(found) or previous
    return labels


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


def _sightings(labels: list[list[int]]) -> dict[int, list[int]]:
    """Frames in which each track is seen, in order."""
    frames: dict[int, list[int]] = {}
    for i, found in enumerate(labels):
        for track in found:
            frames.setdefault(track, []).append(i)
    return frames


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
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
