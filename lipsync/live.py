"""Lip sync while the sound is still being spoken: 16 kHz samples in, frames out."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import audio
from crops import cut, with_aspect
from errors import InputError
from hparams import hparams
from lipsync.compositing import compositor
from lipsync.locating import located_once
from lipsync.options import InferenceOptions
from lipsync.reference import ClosedMouths, HeardShapes, wants_fitting
from lipsync.source import FrameSource
from lipsync.stages import StageClock, Threads
from lipsync.synthesis import Synthesizer, cpu_batch
from models.speech_shape import AHEAD, CONTEXT, HEARING_LEAD_MS

SAMPLE_RATE = hparams.sample_rate  # Hz
CYCLE_BYTES = 512 * 2**20  # of frames held in memory; of a longer video the beginning is used
REACH = hparams.n_fft // 2  # samples on either side of its centre that a mel frame depends on
HEARD_BEFORE = CONTEXT + math.ceil(HEARING_LEAD_MS * audio.MEL_FRAMES_PER_SECOND / 1000)  # mel frames
KEPT_MEL_FRAMES = 1  # before the first one needed: pre-emphasis and the window reach back into it


class LipSyncStream:
    """A face that says the sound as it comes.

    Sound goes in by `push`, frames come out of `frames`. Frame i belongs to the sound at i / fps seconds and comes once
    the sound up to `lookahead` later is there: generators hear 200 ms at a time, fitting references more. What frame
    comes when depends on the number of samples alone, so that pictures and sound cannot drift apart; whoever has no
    sound pushes silence. The face video runs forwards and backwards in turn, without a jump. Used from one thread.

    Args:
        face: video or picture. Of a video of more than `CYCLE_BYTES` only the beginning is used.
        options: any of `InferenceOptions` that bear on faces and frames (checkpoint_path, pads, box, blend, ...).

    Attributes:
        fps: frames a second, a Fraction; of the video.
        height, width: of the frames, in pixels.
        colour, pixel_aspect: of the video.
        lookahead: seconds of sound after a frame's own time that it needs.
        frame_index: of the frame that comes next, counted from 0.

    Raises InputError for what cannot be used, as `lipsync.pipeline.run` does.
    """

    def __init__(self, face: str | Path, **options: Any):
        settings = InferenceOptions(face=Path(face), audio=Path("-"), **options)
        threads = Threads(0, settings.device)
        source = FrameSource(settings)
        self.fps, self.height, self.width = source.fps, source.height, source.width
        self.colour, self.pixel_aspect = source.colour, source.pixel_aspect
        self._generate = Synthesizer(settings.checkpoint_path, threads.device, settings.precision)
        fitting = wants_fitting(settings.reference, self._generate.reference)
        self._put = compositor(settings.blend, settings.enhance, fitting)
        self._shift_ms = settings.audio_shift - self._generate.mel_lead_ms
        self._hearing_shift_ms = settings.audio_shift - HEARING_LEAD_MS
        self._windows = [(self._shift_ms, audio.MEL_STEP_SIZE)]  # begin after a frame's time (ms), mel frames
        if fitting:
            self._windows.append((self._hearing_shift_ms, audio.MEL_STEP_SIZE + AHEAD))
        self.lookahead = max(
            ((frames - 1) * hparams.hop_size + REACH) / SAMPLE_RATE + shift / 1000 for shift, frames in self._windows
        )
        most = max(1, CYCLE_BYTES // (self.height * self.width * 3))
        with threads:
            located = list(located_once(settings, source, most, threads, StageClock()))
        self._frames = [frame for frame, _ in located]
        size = self._generate.face_size
        self._boxes = [box and with_aspect(box, size) for _, box in located]
        found = [box and cut(frame, box) for frame, box in zip(self._frames, self._boxes, strict=True)]
        self._faces = [None if crop is None else self._generate.fit(crop) for crop in found]
        self._hear: HeardShapes | None = None
        if fitting:
            self._hear, mouths = HeardShapes(), ClosedMouths(size)
            for crop in found:
                if crop is not None:
                    mouths.add(crop)
            self._mouths = [None if crop is None else mouths.of(crop) for crop in found]
        self._most = cpu_batch(size)  # frames at once
        self.frame_index = 0
        self._sound, self._first_sample = np.zeros(0, np.float32), 0
        self._mel, self._first_mel = np.zeros((hparams.num_mels, 0), np.float32), 0

    def push(self, pcm: np.ndarray) -> None:
        """Add sound: (samples,) at 16 kHz mono, int16, or float in [-1, 1].

        Raises InputError for other shapes or types, and for samples that are not numbers.
        """
        pcm = np.asarray(pcm)
        if pcm.ndim != 1 or not (pcm.dtype == np.int16 or np.issubdtype(pcm.dtype, np.floating)):
            raise InputError(f"sound of shape {pcm.shape} and type {pcm.dtype}: use (samples,) of int16 or float")
        samples = pcm.astype(np.float32)
        if not np.isfinite(samples).all():
            raise InputError("the sound has samples that are not numbers (NaN or infinite)")
        if pcm.dtype == np.int16:
            samples /= 32768
        self._sound = np.concatenate([self._sound, samples])

    def missing(self) -> int:
        """How many more samples the next frame needs; 0 if it can be made."""
        return max(0, self._samples_for(self.frame_index) - self._first_sample - len(self._sound))

    def frames(self) -> Iterator[np.ndarray]:
        """The frames that can be made of the sound so far: (height, width, 3) uint8 BGR, each its own array."""
        while not self.missing():
            count = 1
            while count < self._most and self._samples_for(self.frame_index + count) <= self._first_sample + len(
                self._sound
            ):
                count += 1
            yield from self._make(range(self.frame_index, self.frame_index + count))

    def skip(self) -> None:
        """Leave the next frame out: its time passes without one."""
        self.frame_index += 1

    def finish(self) -> Iterator[np.ndarray]:
        """The frames up to the end of the sound, with silence after it."""
        end = self._first_sample + len(self._sound)
        while self.frame_index * SAMPLE_RATE < end * self.fps:
            self.push(np.zeros(self.missing(), np.float32))
            yield from self._make(range(self.frame_index, self.frame_index + 1))

    def _make(self, indices: range) -> Iterator[np.ndarray]:
        places = [ping_pong(index, len(self._frames)) for index in indices]
        self._extend_mel(self._mel_frames_for(indices[-1]))
        windows = [self._window_start(index) - self._first_mel for index in indices]
        with_face = [k for k, place in enumerate(places) if self._boxes[place]]
        inputs = [(self._faces[places[k]], self._mel[:, windows[k] :][:, : audio.MEL_STEP_SIZE]) for k in with_face]
        references: list[tuple[np.ndarray, ...]] = [()] * len(with_face)
        if self._hear and with_face:
            heard = [self._window_start(indices[k], self._hearing_shift_ms) - self._first_mel for k in with_face]
            shapes = self._hear(self._mel, np.array(heard), live=True)
            references = [(self._mouths[places[k]].shaped(*shape),) for k, shape in zip(with_face, shapes, strict=True)]
            fit = self._generate.fit
            inputs = [(*given, *map(fit, reference)) for given, reference in zip(inputs, references, strict=True)]
        faces = self._generate(inputs) if inputs else []
        made = dict(zip(with_face, zip(faces, references, strict=True), strict=True))
        self.frame_index = indices.stop
        self._forget(self._window_start(indices.stop))
        for k, place in enumerate(places):
            frame = self._frames[place].copy()
            if k in made:
                face, reference = made[k]
                self._put(frame, face, self._boxes[place], *reference)
            yield frame

    def _window_start(self, index: int, shift_ms: float | None = None) -> int:
        """First mel frame of a frame's window, as in a whole file (`lipsync.pipeline.window_starts`)."""
        return max(0, audio.mel_window_start(index, float(self.fps), self._shift_ms if shift_ms is None else shift_ms))

    def _samples_for(self, index: int) -> int:
        """How much sound, from the beginning, a frame's window depends on."""
        return (self._mel_frames_for(index) - 1) * hparams.hop_size + REACH

    def _mel_frames_for(self, index: int) -> int:
        """How many mel frames, from the beginning, a frame depends on."""
        return max(self._window_start(index, shift) + frames for shift, frames in self._windows)

    def _extend_mel(self, end: int) -> None:
        """Make mel frames up to `end`; each is made once."""
        begun = self._first_mel + self._mel.shape[1]
        if end > begun:
            offset = self._first_sample // hparams.hop_size
            new = audio.mel_frames(self._sound, begun - offset, end - offset)
            self._mel = np.concatenate([self._mel, new], axis=1)

    def _forget(self, first_window: int) -> None:
        """Let go of the sound and mel frames that no window from `first_window` on needs."""
        done = max(0, min(self._mel.shape[1], first_window - HEARD_BEFORE - self._first_mel))
        self._mel, self._first_mel = self._mel[:, done:], self._first_mel + done
        next_mel = self._first_mel + self._mel.shape[1]
        first = max(0, (next_mel - KEPT_MEL_FRAMES) * hparams.hop_size - REACH)
        first -= first % hparams.hop_size
        if first > self._first_sample:
            self._sound, self._first_sample = self._sound[first - self._first_sample :], first


def ping_pong(index: int, count: int) -> int:
    """Place of the `index`-th frame of a video of `count` frames that runs forwards and backwards in turn."""
    if count == 1:
        return 0
    place = index % (2 * count - 2)
    return min(place, 2 * count - 2 - place)
