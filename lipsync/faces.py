"""Boxes over time: sightings of one face into one box a frame, as the published system makes them.

Pads, limits, smoothing and truncation are the published ones; tracks and gaps are this toolkit's.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from face_detection.api import Box
from lipsync.tracking import NO_TRACK, UNSEEN, Sighting

SMOOTHING_FRAMES = 5  # published temporal window
GAP_SECONDS = 0.5  # longest absence of a face that is bridged by interpolation


def boxes_over_time(
    followed: Iterable[Sighting],
    frame_size: tuple[int, int],
    pads: tuple[int, int, int, int],
    smooth: bool = True,
    longest_gap: int = 0,
) -> Iterator[Box | None]:
    """One box a frame: gaps bridged, whole pixels, padded, inside the frame, smoothed.

    Args:
        followed: the face's sightings, at most `longest_gap` + `SMOOTHING_FRAMES` of which are held.
        frame_size: (height, width) in pixels.
        pads: pixels to grow the box by: top, bottom, left, right; negative shrinks.
        smooth: average over time. Never across a stretch without a face or a cut.
        longest_gap: frames.

    Yields (x1, y1, x2, y2) per frame, x2 and y2 exclusive, or None where the frame has no usable face.
    """
    placed = (_placed(sighting, frame_size, pads) for sighting in _bridge_gaps(followed, longest_gap))
    return _smoothed(placed) if smooth else (box for box, _ in placed)


def _bridge_gaps(followed: Iterable[Sighting], longest_gap: int) -> Iterator[Sighting]:
    """The sightings, absences of up to `longest_gap` frames between sightings of one track interpolated."""
    before, away = UNSEEN, 0
    for after in followed:
        if after.track == NO_TRACK:
            away += 1
            if away > longest_gap:  # too long to be bridged: those that waited are let go, then each as it comes
                yield from [UNSEEN] * (away if away == longest_gap + 1 else 1)
            continue
        if 0 < away <= longest_gap:
            for step in range(1, away + 1):
                if before.track == after.track:
                    start, end = before.box.astype(np.float64), after.box.astype(np.float64)
                    yield Sighting(start + step / (away + 1) * (end - start), after.track)
                else:
                    yield UNSEEN
        yield after
        before, away = after, 0
    if away <= longest_gap:
        yield from [UNSEEN] * away


def _placed(sighting: Sighting, frame_size: tuple[int, int], pads: tuple[int, int, int, int]) -> tuple[Box | None, int]:
    """A sighting's box in whole pixels, padded and inside the frame, with its track; None if no pixel is left."""
    if sighting.box is None:
        return None, NO_TRACK
    height, width = frame_size
    top, bottom, left, right = pads
    x1, y1, x2, y2 = (max(0, int(side)) for side in sighting.box)
    x1, x2 = min(max(0, x1 - left), width), min(max(0, x2 + right), width)
    y1, y2 = min(max(0, y1 - top), height), min(max(0, y2 + bottom), height)
    return ((x1, y1, x2, y2), sighting.track) if x2 > x1 and y2 > y1 else (None, NO_TRACK)


def _smoothed(placed: Iterable[tuple[Box | None, int]]) -> Iterator[Box | None]:
    """`smooth_boxes` over each stretch of one track, a window behind the boxes that come."""
    held, done, current = [], 0, NO_TRACK  # the end of a stretch, of which the first `done` are smoothed already
    for box, track in placed:
        if track != current:
            yield from _as_boxes(smooth_boxes(held, done=done)[done:])
            held, done, current = [], 0, track
        if box is None:
            yield None
            continue
        held.append(box)
        if len(held) - done == SMOOTHING_FRAMES:
            smoothed = np.mean(held[done:], axis=0).astype(np.int64)
            held, done = [smoothed, *held[done + 1 :]], 1
            yield from _as_boxes([smoothed])
    yield from _as_boxes(smooth_boxes(held, done=done)[done:])


def smooth_boxes(boxes: Sequence, window: int = SMOOTHING_FRAMES, done: int = 0) -> np.ndarray:
    """Average each box with those after it, as published: in place over integers.

    box[i] = mean(box[i : i + window]), fractions cut off; the last ones take the final `window` boxes, of which the
    earlier ones are smoothed already. (n, 4) integers in and out; the first `done` stay as they are.
    """
    boxes = np.array(boxes, np.int64).reshape(-1, 4)
    for i in range(done, len(boxes)):
        first = min(i, len(boxes) - window)  # negative for short videos: counted from the end, as published
        boxes[i] = boxes[first:][:window].mean(axis=0)
    return boxes


def spans(labels: Sequence[int]) -> list[tuple[int, int]]:
    """Stretches [first, end) of equal labels; those of negative labels are left out."""
    edges = [0, *(np.flatnonzero(np.diff(labels)) + 1), len(labels)]
    return [(int(a), int(b)) for a, b in zip(edges, edges[1:], strict=False) if b > a and labels[a] >= 0]


def _as_boxes(rows: Iterable[np.ndarray]) -> Iterator[Box]:
    return (tuple(int(side) for side in row) for row in rows)
