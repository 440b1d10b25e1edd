"""Frames with the box of the face that a run follows: decoding and detection as one stage."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from fractions import Fraction
from itertools import islice

import numpy as np

from errors import InputError
from face_detection.api import Box, resolve_detector
from lipsync.batching import Batches
from lipsync.cache import DetectionCache
from lipsync.detection import Glance, find_faces
from lipsync.faces import GAP_SECONDS, boxes_over_time
from lipsync.options import InferenceOptions
from lipsync.source import FrameSource, constant_box
from lipsync.stages import StageClock, Threads, ahead
from lipsync.tracking import Sighting, follow

HELD_BYTES = 512 * 2**20  # of frames on their way; large pictures make smaller batches
DECODED_AHEAD = 4  # frames

Located = tuple[np.ndarray, Box | None]
"""A frame (H, W, 3) uint8 BGR, which may be written to, and its face's box; None where it has none."""


def located_frames(
    options: InferenceOptions, source: FrameSource, count: int, threads: Threads, clock: StageClock
) -> Iterator[Located]:
    """`count` frames with their boxes; the video, and the boxes with it, start over when it ends.

    Raises InputError where the options do not fit the picture or the faces that there are.
    """
    boxes: list[Box | None] = []
    for frame, box in located_once(options, source, count, threads, clock):
        boxes.append(box)
        yield frame, box
    for place, frame in clock.each("decode", source.repeated(count - len(boxes))):
        yield frame, boxes[place % len(boxes)]


def located_once(
    options: InferenceOptions, source: FrameSource, most: int, threads: Threads, clock: StageClock
) -> Iterator[Located]:
    """The first `most` frames, or as many as there are, with their boxes. Raises InputError as `located_frames`."""
    given = constant_box(options.box, source.height, source.width)
    decoded = ahead(clock.each("decode", source.frames()), DECODED_AHEAD if threads.side_by_side else 0)
    with closing(decoded):
        frames = islice(decoded, most)
        if given:
            yield from ((frame, given) for frame in frames)
            return
        waiting: deque[np.ndarray] = deque()  # for their boxes
        kept = (waiting.append(frame) or frame for frame in frames)
        followed = _followed(options, source, kept, threads, clock)
        size, longest_gap, any_box = (source.height, source.width), _longest_gap(source), False
        for box in boxes_over_time(followed, size, options.pads, not options.nosmooth, longest_gap):
            any_box = any_box or box is not None
            yield waiting.popleft(), box
    if not any_box:
        raise InputError(f"--pads {' '.join(map(str, options.pads))} leave nothing of the face: use larger numbers")


def _followed(
    options: InferenceOptions, source: FrameSource, frames: Iterator[np.ndarray], threads: Threads, clock: StageClock
) -> Iterator[Sighting]:
    """Detection, once through the cache if there is one, and the face that is followed."""
    device, every_face = "cpu", options.face_index is not None
    if resolve_detector(options.face_detector) == "sfd":  # the others do not wait for torch to be imported
        threads.use_all()
        device = str(threads.device)
    glance = Glance(options.face_detector_size, device, options.face_detector, every_face)
    detect = Batches(clock.timed("detect", glance), options.face_det_batch_size, "--face_det_batch_size")
    batch_size = frame_limit(options.face_det_batch_size, source, shares=4)

    def find(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        return find_faces(frames, detect, options.det_every, batch_size, every_face)

    faces = DetectionCache(options, device).through(frames, find) if options.cache else find(frames)
    followed = follow(faces, _longest_gap(source), options.face_index)
    return _insisting(followed, source.fps) if options.no_face == "error" else followed


def _insisting(followed: Iterable[Sighting], fps: Fraction) -> Iterator[Sighting]:
    """The same sightings. Raises InputError at the first frame without the face."""
    for i, sighting in enumerate(followed):
        if sighting.box is None:
            raise InputError(
                f"no face in frame {i} ({float(i / fps):.2f} s): use --no_face keep to leave such frames as they are"
            )
        yield sighting


def _longest_gap(source: FrameSource) -> int:
    """Frames without the face that are bridged, and after which it may be someone else's turn."""
    return int(GAP_SECONDS * source.fps)


def frame_limit(batch_size: int, source: FrameSource, shares: int) -> int:
    """How many frames of a batch of `batch_size` may be held at once, when `shares` such batches may be."""
    return min(batch_size, max(1, HELD_BYTES // (source.height * source.width * 3 * shares)))
