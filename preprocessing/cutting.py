"""The second pass over a source: crops of each clip, and what its sound and lips say about sync."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np

from errors import InputError
from evaluation.sync import MAX_OFFSET, distances
from lipsync.video import FrameReader
from models.conv import size_of
from models.syncnet import SyncNet_color
from preprocessing.crops import crop, write_crop
from preprocessing.lrs2 import reason_of
from preprocessing.options import RawOptions
from preprocessing.sound import Sound, mel_of, write_sound
from preprocessing.sync import ANOTHER_SPEAKS, NOT_THE_SPEAKER, Evidence, Verdict, speaking, verdicts
from preprocessing.tracks import Stretch

SILENCE = 33  # root mean square of 16-bit samples under which there is no sound: -60 dB
SILENT = "no sound"


class ClipWriter:
    """One clip on its way to disk: crops as they come, then its evidence, then its sound.

    `reason` says why it was dropped; `evidence` is None where sync was not measured, `verdict` where it was not judged.
    """

    def __init__(self, stretch: Stretch, folder: Path, options: RawOptions, expert: SyncNet_color | None):
        self.stretch, self.folder, self.reason = stretch, folder, ""
        self.evidence: Evidence | None = None
        self.verdict: Verdict | None = None
        self._pads, self._expert = options.pads, expert
        self._img_size = size_of(options.img_size) if options.img_size else None
        self._faces: list[np.ndarray] = []
        self._numbers: list[int] = []
        folder.mkdir()

    def add(self, frame: np.ndarray, number: int) -> None:
        """The source's frame (H, W, 3) of a number that the stretch holds."""
        at = number - self.stretch.first
        box = self.stretch.boxes[at]
        write_crop(frame, box, self._pads, self.folder / f"{at}.jpg", self._img_size)
        face = crop(frame, box, self._pads)
        if self._expert is not None and face.size:
            self._faces.append(cv2.resize(face, self._expert.img_size[::-1]))
            self._numbers.append(at)

    def measure(self, sound: Sound, fps: float) -> None:
        """Compare the lips with the sound around them, and let the crops go. Drops a clip without sound."""
        faces, self._faces = self._faces, []
        first, end = self.stretch.first, self.stretch.end
        if loudness(sound.of_frames(first, end, fps)) < SILENCE:
            self.drop(SILENT)
        elif self._expert is not None:
            before = min(MAX_OFFSET, first)
            mel = mel_of(sound.of_frames(first - before, end + MAX_OFFSET, fps, pad=False))
            self.evidence = Evidence.of(distances(self._expert, faces, mel, fps, np.array(self._numbers) + before))

    def write_sound(self, sound: Sound, fps: float, offset: int) -> None:
        """The clip's own sound, taken `offset` frames later."""
        write_sound(sound.of_frames(self.stretch.first + offset, self.stretch.end + offset, fps), self.folder, fps)

    def drop(self, reason: str) -> None:
        self.reason, self._faces = reason, []
        shutil.rmtree(self.folder, ignore_errors=True)

    def trying(self, step: Callable, *arguments: object) -> None:
        """Take a step; a clip that fails is dropped and the others go on. A full disk ends the run."""
        try:
            if not self.reason:
                step(*arguments)
        except Exception as error:  # one clip's surprise must not end the source
            self.drop(f"failed: {reason_of(error, self.folder)}")


def loudness(samples: np.ndarray) -> float:
    """Root mean square of 16-bit samples, without their mean; 0 for none."""
    return float(np.std(samples, dtype=np.float64)) if len(samples) else 0.0


def cut(
    reader: FrameReader,
    stretches: list[Stretch],
    sound: Sound,
    folder: Path,
    options: RawOptions,
    expert: SyncNet_color | None,
    seen: Callable[[int], None],
) -> list[ClipWriter]:
    """Read a video again and write the crops of its clips to `folder/<running number>/`; each is then measured.

    Raises InputError when the video ends before they do.
    """
    fps = float(reader.fps)
    coming = sorted(stretches, key=lambda stretch: stretch.first)
    clips: list[ClipWriter] = []
    active: list[ClipWriter] = []
    with closing(reader):
        for number, frame in enumerate(reader):
            seen(1)
            while len(clips) < len(coming) and coming[len(clips)].first == number:
                clips.append(ClipWriter(coming[len(clips)], folder / f"{len(clips):05d}", options, expert))
                active.append(clips[-1])
            for clip in active:
                clip.trying(clip.add, frame, number)
                if number + 1 == clip.stretch.end:
                    clip.trying(clip.measure, sound, fps)
            active = [clip for clip in active if number + 1 < clip.stretch.end]
            if not active and len(clips) == len(coming):
                break
    if active or len(clips) < len(coming):
        raise InputError("the video ended sooner than when it was read first: is it being written?")
    return clips


def settle(clips: list[ClipWriter], sound: Sound, fps: float, options: RawOptions) -> None:
    """Judge the clips of a source together, move the sound of those that are kept and drop the others."""
    measured = [clip for clip in clips if clip.evidence is not None]
    middles = [(clip.stretch.first + clip.stretch.end) / 2 / fps for clip in measured]
    found = verdicts([clip.evidence for clip in measured], middles, options.min_confidence)
    for clip, verdict in zip(measured, found, strict=True):
        clip.verdict = verdict
        if options.sync == "correct" and not verdict.kept:
            clip.drop(NOT_THE_SPEAKER)
    if options.sync == "correct":
        kept = [clip for clip in measured if clip.verdict.kept]
        spans = [(clip.stretch.first, clip.stretch.end) for clip in kept]
        for clip, speaks in zip(kept, speaking(spans, [clip.verdict.confidence for clip in kept]), strict=True):
            if not speaks:
                clip.drop(ANOTHER_SPEAKS)
    for clip in clips:
        offset = clip.verdict.offset if clip.verdict and options.sync == "correct" else 0
        clip.trying(clip.write_sound, sound, fps, offset)
