"""Lip sync while the sound is still being spoken: 16 kHz samples in, frames out."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import audio
from crops import cut, with_aspect
from errors import InputError
from hparams import HParams, hparams
from lipsync.compositing import compositor
from lipsync.locating import located_once
from lipsync.options import InferenceOptions
from lipsync.reference import HeardShapes, ShownMouths, wants_fitting
from lipsync.source import FrameSource
from lipsync.stages import StageClock, Threads
from lipsync.synthesis import Synthesizer, cpu_batch
from models.speech_shape import AHEAD, CONTEXT

SAMPLE_RATE = hparams.sample_rate  # Hz
CYCLE_BYTES = 512 * 2**20  # of frames held in memory; of a longer video the beginning is used
WHOLE_HOPS = math.lcm(hparams.hop_size, audio.SPEECH_HPARAMS.hop_size)  # samples
KEPT_FRAMES = 1  # of spectrograms before the first one needed: pre-emphasis and the window reach back into it


class Spectrogram:
    """What of a spectrogram is needed of a sound that goes on; each frame is made once.

    Args:
        make: `audio.mel_frames` or `audio.speech_frames`.
        hp: its hop size and window.

    Attributes:
        values: (bands, frames), the first of which is number `first`.
    """

    def __init__(self, make: Callable[[np.ndarray, int, int], np.ndarray], hp: HParams):
        self._make, self.hop = make, hp.hop_size
        self.reach = hp.n_fft // 2  # samples on either side of its centre that a frame depends on
        self.values, self.first = np.zeros((hp.num_mels, 0), np.float32), 0

    @property
    def end(self) -> int:
        """The number of the frame that comes next."""
        return self.first + self.values.shape[1]

    def samples_for(self, end: int) -> int:
        """How much sound, from the beginning, the frames up to `end` (exclusive) depend on."""
        return (end - 1) * self.hop + self.reach

    def extend(self, sound: np.ndarray, first_sample: int, end: int) -> None:
        """Make frames up to `end` of a sound that begins at a sample which is some whole hops from the beginning."""
        if end > self.end:
            offset = first_sample // self.hop
            new = self._make(sound, self.end - offset, end - offset)
            self.values = np.concatenate([self.values, new], axis=1)

    def forget(self, first: int) -> int:
        """Let go of frames before `first`; returns the first sample that frames to come depend on."""
        done = max(0, min(self.values.shape[1], first - self.first))
        self.values, self.first = self.values[:, done:], self.first + done
        return max(0, (self.end - KEPT_FRAMES) * self.hop - self.reach)


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
        self._speech_shift_ms = settings.audio_shift
        self._mel = Spectrogram(audio.mel_frames, hparams)
        self._speech = Spectrogram(audio.speech_frames, audio.SPEECH_HPARAMS) if fitting else None
        self.lookahead = self._mel.samples_for(audio.MEL_STEP_SIZE) / SAMPLE_RATE + self._shift_ms / 1000
        if self._speech:
            hearing = self._speech.samples_for(AHEAD) / SAMPLE_RATE + self._speech_shift_ms / 1000
            self.lookahead = max(self.lookahead, hearing)
        most = max(1, CYCLE_BYTES // (self.height * self.width * 3))
        with threads:
            located = list(located_once(settings, source, most, threads, StageClock()))
        self._frames = [frame for frame, _ in located]
        size = self._generate.face_size
        self._boxes = [box and with_aspect(box, size) for _, box in located]
        found = [box and cut(frame, box) for frame, box in zip(self._frames, self._boxes, strict=True)]
        self._faces = [None if crop is None else self._generate.fit(crop) for crop in found]
        if fitting:
            self._hear, self._mouths, self._crops = HeardShapes(), ShownMouths(size), found
            for crop in found:
                if crop is not None:
                    self._mouths.add(crop)
        self._most = cpu_batch(size)  # frames at once
        self.frame_index = 0
        self._sound, self._first_sample = np.zeros(0, np.float32), 0

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
        self._mel.extend(self._sound, self._first_sample, self._mel_end(indices[-1]))
        windows = [self._window_start(index) - self._mel.first for index in indices]
        with_face = [k for k, place in enumerate(places) if self._boxes[place]]
        mels = [self._mel.values[:, start : start + audio.MEL_STEP_SIZE] for start in windows]
        inputs = [(self._faces[places[k]], mels[k]) for k in with_face]
        references: list[tuple[np.ndarray, ...]] = [()] * len(with_face)
        if self._speech:
            self._speech.extend(self._sound, self._first_sample, self._speech_place(indices[-1]) + AHEAD)
        if self._speech and with_face:
            heard = [self._speech_place(indices[k]) - self._speech.first for k in with_face]
            shapes = self._hear(self._speech.values, np.array(heard), live=True)
            references = [
                (self._mouths.of(self._crops[places[k]], shape),) for k, shape in zip(with_face, shapes, strict=True)
            ]
            fit = self._generate.fit
            inputs = [(*given, *map(fit, reference)) for given, reference in zip(inputs, references, strict=True)]
        faces = self._generate(inputs) if inputs else []
        made = dict(zip(with_face, zip(faces, references, strict=True), strict=True))
        self.frame_index = indices.stop
        self._forget(indices.stop)
        for k, place in enumerate(places):
            frame = self._frames[place].copy()
            if k in made:
                face, reference = made[k]
                self._put(frame, face, self._boxes[place], *reference)
            yield frame

    def _window_start(self, index: int) -> int:
        """First mel frame of a frame's window, as in a whole file (`lipsync.pipeline.mel_windows`)."""
        return max(0, audio.mel_window_start(index, float(self.fps), self._shift_ms))

    def _mel_end(self, index: int) -> int:
        return self._window_start(index) + audio.MEL_STEP_SIZE

    def _speech_place(self, index: int) -> int:
        """What a frame's mouth is heard at, as in a whole file."""
        return max(0, int(audio.speech_places(np.array(index), float(self.fps), self._speech_shift_ms)))

    def _samples_for(self, index: int) -> int:
        """How much sound, from the beginning, a frame depends on."""
        needed = self._mel.samples_for(self._mel_end(index))
        if self._speech:
            needed = max(needed, self._speech.samples_for(self._speech_place(index) + AHEAD))
        return needed

    def _forget(self, index: int) -> None:
        """Let go of the sound and of what was made of it that no frame from `index` on needs."""
        first = self._mel.forget(self._window_start(index) - KEPT_FRAMES)
        if self._speech:
            first = min(first, self._speech.forget(self._speech_place(index) - CONTEXT))
        first -= first % WHOLE_HOPS
        if first > self._first_sample:
            self._sound, self._first_sample = self._sound[first - self._first_sample :], first


def ping_pong(index: int, count: int) -> int:
    """Place of the `index`-th frame of a video of `count` frames that runs forwards and backwards in turn."""
    if count == 1:
        return 0
    place = index % (2 * count - 2)
    return min(place, 2 * count - 2 - place)
