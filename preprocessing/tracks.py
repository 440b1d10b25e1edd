"""Faces of frames -> tracks, each of one person in one shot -> stretches that are worth a clip -> clips."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lipsync.faces import GAP_SECONDS, spans
from lipsync.tracking import MIN_OVERLAP, label, overlap
from preprocessing.crops import smooth_track
from preprocessing.options import RawOptions
from preprocessing.watching import BOX, SHARPNESS, TURN, Watched

JUDGED_SECONDS = 0.6  # window of the median by which a face is judged: a blink of blur does not end a stretch
TOO_SMALL, TURNED, BLURRED, TOO_SHORT = "too small", "turned away", "blurred", "too short"


@dataclass(frozen=True)
class Stretch:
    """Consecutive frames of one track.

    Attributes:
        track: number of the track in the source; stretches of one track show one person.
        first: number of the first frame in the source, at the training frame rate.
        boxes: (n, 4) x1, y1, x2, y2 in pixels: smoothed, not padded.
        sharpness, turn: (n,) as in `Watched`, medians over time.
        reason: why it is dropped; empty for what becomes a clip.
    """

    track: int
    first: int
    boxes: np.ndarray
    sharpness: np.ndarray
    turn: np.ndarray
    reason: str = ""

    @property
    def end(self) -> int:
        return self.first + len(self.boxes)

    @property
    def face(self) -> float:
        """Pixels: the median of the smaller side of the box."""
        return float(np.median((self.boxes[:, 2:] - self.boxes[:, :2]).min(axis=1)))

    def part(self, start: int, end: int, reason: str = "") -> "Stretch":
        """Frames [start, end), counted from its first one."""
        inside = slice(start, end)
        return Stretch(
            self.track, self.first + start, self.boxes[inside], self.sharpness[inside], self.turn[inside], reason
        )


def plan(watched: Watched, fps: float, options: RawOptions) -> list[Stretch]:
    """Clips, in order of time, and with their reasons the stretches that are none."""
    pieces = []
    for stretch in tracks(watched, fps):
        for piece in judge(stretch, fps, options):
            pieces += [piece] if piece.reason else divide(piece, fps, options.clip_seconds)
    return sorted(pieces, key=lambda piece: (piece.first, piece.track))


def tracks(watched: Watched, fps: float) -> Iterator[Stretch]:
    """Every unbroken stretch of every track. A track never reaches across a cut; gaps of half a second are bridged."""
    edges = [0, *watched.cuts, watched.count]
    number = 0
    for first, end in zip(edges, edges[1:], strict=False):
        seen: dict[int, list[tuple[int, np.ndarray]]] = {}
        for frame, (faces, found) in enumerate(label(watched.faces[first:end]), first):
            for face, track in zip(faces, found, strict=True):
                seen.setdefault(track, []).append((frame, face))
        for sightings in seen.values():
            for run in _unbroken(sightings, int(GAP_SECONDS * fps)):
                yield _filled(number, run, fps)
            number += 1


def _unbroken(sightings: list[tuple[int, np.ndarray]], longest_gap: int) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Sightings parted where the face is away for longer, or comes back in another place."""
    run = sightings[:1]
    for before, after in zip(sightings, sightings[1:], strict=False):
        away = after[0] - before[0] - 1
        if away > longest_gap or (away and overlap(before[1], after[1]) < MIN_OVERLAP):
            yield run
            run = []
        run.append(after)
    yield run


def _filled(track: int, run: list[tuple[int, np.ndarray]], fps: float) -> Stretch:
    """A stretch without gaps: what is missing is interpolated."""
    from scipy.ndimage import median_filter

    at = np.array([frame for frame, _ in run])
    faces = np.array([face for _, face in run], np.float64)
    frames = np.arange(at[0], at[-1] + 1)
    whole = np.stack([np.interp(frames, at, column) for column in faces.T], axis=1)
    window = min(len(frames), round(JUDGED_SECONDS * fps))
    measured = median_filter(whole[:, [SHARPNESS, TURN]], (window, 1), mode="nearest")
    return Stretch(track, int(at[0]), smooth_track(whole[:, BOX], fps), measured[:, 0], measured[:, 1])


def judge(stretch: Stretch, fps: float, options: RawOptions) -> Iterator[Stretch]:
    """The stretch parted into good frames and those that are dropped, with the first reason that applies to them."""
    smallest = (stretch.boxes[:, 2:] - stretch.boxes[:, :2]).min(axis=1)
    faults = [TOO_SMALL, TURNED, BLURRED]
    fails = [smallest < options.min_face, stretch.turn > options.max_turn, stretch.sharpness < options.min_sharpness]
    verdict = np.select(fails, range(len(fails)), default=len(fails))
    for start, end in spans(verdict.tolist()):
        fault = int(verdict[start])
        if fault < len(faults):
            yield stretch.part(start, end, faults[fault])
        elif end - start < round(options.clip_seconds[0] * fps):
            yield stretch.part(start, end, TOO_SHORT)
        else:
            yield stretch.part(start, end)


def divide(stretch: Stretch, fps: float, clip_seconds: tuple[float, float]) -> list[Stretch]:
    """A stretch as clips of about the same length, none longer than the longest."""
    count = -(-len(stretch.boxes) // round(clip_seconds[1] * fps))
    edges = np.linspace(0, len(stretch.boxes), count + 1).round().astype(int)
    return [stretch.part(a, b) for a, b in zip(edges, edges[1:], strict=False)]
