"""One clip's figures, measured once and kept, so that an interrupted evaluation goes on where it was."""

import base64
import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from errors import InputError
from evaluation import metrics
from evaluation.inception import Inception
from evaluation.inputs import GENERATED_FOLDER, Item
from evaluation.judges import Judge, digest
from evaluation.options import EvaluationOptions
from evaluation.tracks import Track, inference_options, read_sound, read_track
from hparams import hparams
from lipsync.options import InferenceOptions
from models.checkpoint import DEFAULT_GENERATOR
from whole import write_text_whole, written_whole

LAYOUT = 1  # of what is kept, and of the way in which it is measured; another number leaves old files unused
GENERATED, REAL, WRONG = SYSTEMS = ("generated", "real", "wrong audio")
STRIP_FACES = 8
STRIP_QUALITY = 85  # of JPEG


@dataclass
class ClipResult:
    """What is known of a clip.

    Attributes:
        name: of the item.
        figures: system -> metric -> value; what could not be measured is missing.
        curves: system -> mean distance at each of `sync.OFFSETS` (NaN as None).
        failures: system -> why it, or a part of it, could not be measured.
        strips: system -> faces over time as base64 of a JPEG.
        features: system -> Inception features (n, 2048) float32.
        wrong_speech: whose speech the real video was given.
    """

    name: str
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, list[float | None]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    strips: dict[str, str] = field(default_factory=dict)
    features: dict[str, np.ndarray] = field(default_factory=dict)
    wrong_speech: str | None = None


class Clips:
    """Measures clips, or reads what an earlier run has measured.

    Args:
        options: of the evaluation.
        judge: of sync.
        inception: for FID, or None.
        device: of the face detector and the generator.
        given_wrong_speech: which videos are also given the speech of others: `REAL`, or `GENERATED` without real ones.
    """

    def __init__(
        self,
        options: EvaluationOptions,
        judge: Judge,
        inception: Inception | None,
        device: str,
        given_wrong_speech: str = REAL,
    ):
        self._given_wrong_speech = given_wrong_speech
        self._options, self._judge, self._inception, self._device = options, judge, inception, device
        self._kept = options.outdir / "clips"
        self._faces = {name: getattr(options, name) for name in ("pads", "box", "face_detector", "det_every")}
        self._faces |= {"layout": LAYOUT, "device": device}

    def result(self, item: Item, wrong: list[Path]) -> ClipResult:
        """The figures of one clip; what goes wrong with it is part of them. `wrong`: whose speech to try instead."""
        result = ClipResult(item.name)
        try:
            item = self._generated(item)
        except Exception as error:  # the real video is measured all the same
            result.failures[GENERATED] = reason_of(error)
        path = self._kept / f"{self._key(item, wrong)}.json"
        kept = None if result.failures else _load(path)
        if kept is not None:
            return replace(kept, name=item.name)
        self._measure(item, wrong, result)
        if not result.failures:  # what failed is tried again by the next run
            _save(path, result)
        return result

    def _generated(self, item: Item) -> Item:
        """The item with its video made, where it has to be."""
        if item.speech is None:
            return item
        weights = self._options.checkpoint_path or DEFAULT_GENERATOR
        if not weights.is_file():
            raise InputError(f"checkpoint {weights} does not exist or is not a file: see checkpoints/README.md")
        sources = [_stamp(path) for path in (item.real, item.speech)]
        made_of = {**self._faces, "weights": digest(weights), "sources": sources}
        outfile = self._options.outdir / GENERATED_FOLDER / f"{_hash(made_of)}.mkv"
        if not outfile.exists():
            from lipsync.pipeline import run

            faces = inference_options(item.real, self._options, self._device)
            # Without loss: no codec bears on the figures, and x264 does not give the same file in every run.
            run(replace(faces, audio=item.speech, checkpoint_path=weights, outfile=outfile, lossless=True))
        return replace(item, generated=outfile)

    def _key(self, item: Item, wrong: list[Path]) -> str:
        """A hash of everything that bears on the figures: another file, option or network has another one."""
        files = [path and _stamp(path) for path in (item.generated, item.real, *wrong[:1])]
        measured_by = self._judge.name, self._inception and self._inception.name
        use = item.same_words, item.counts_real, self._given_wrong_speech
        return _hash({**self._faces, "files": files, "measured_by": measured_by, "use": use})

    def _measure(self, item: Item, wrong: list[Path], result: ClipResult) -> None:
        for system, video in ((GENERATED, item.generated), (REAL, item.real)):
            compared = item.generated if system == REAL and item.same_words else None
            counts = system == GENERATED or item.counts_real
            if video is None or not (counts or compared):
                continue
            try:
                track = self._track(video, compared, result)
                if counts:
                    self._judge_faces(system, video, track, result)
                if counts and system == self._given_wrong_speech:
                    self._judge_wrong_speech(video, track, wrong, result)
            except Exception as error:  # one clip's surprise must not end the run
                result.failures[system] = reason_of(error)

    def _track(self, video: Path, against: Path | None, result: ClipResult) -> Track:
        """The face of a video; its likeness to another becomes a figure of the generated video."""
        faces: InferenceOptions = inference_options(video, self._options, self._device)
        wanted = self._judge.fps, self._judge.face_size, self._inception is not None
        try:
            track = read_track(faces, *wanted, against)
        except InputError as error:
            if against is None:
                raise
            track = read_track(faces, *wanted)
            result.failures.setdefault(GENERATED, str(error))
        for place, name in enumerate(("psnr_lower", "ssim_lower")):
            values = [pair[place] for pair in track.likeness if math.isfinite(pair[place])]
            if values:
                result.figures.setdefault(GENERATED, {})[name] = float(np.mean(values))
        return track

    def _judge_faces(self, system: str, video: Path, track: Track, result: ClipResult) -> None:
        """Everything that a video with its own sound is measured by."""
        figures = result.figures.setdefault(system, {})
        figures["frames"] = track.frames
        figures["faceless"] = track.faceless
        if not track.numbers:
            result.failures[system] = "no face was found in any frame"
            return
        result.strips[system] = _strip(track)
        if self._inception is not None:
            result.features[system] = self._inception(track.details)
        wav = read_sound(video)
        figures |= _motion(track, wav)
        self._judge_sync(system, track, video, wav, result)

    def _judge_wrong_speech(self, video: Path, track: Track, wrong: list[Path], result: ClipResult) -> None:
        """The same faces with the speech of the first of the others that has any."""
        if not track.numbers:
            return
        for other in wrong:
            try:
                wav = read_sound(other)
            except Exception:  # it is told at the clip whose speech it is
                continue
            result.wrong_speech = f"{other.parent.name}/{other.stem}"
            try:
                self._judge_sync(WRONG, track, video, wav, result)
            except InputError as error:
                result.failures[WRONG] = str(error)
            return

    def _judge_sync(self, system: str, track: Track, video: Path, wav: np.ndarray, result: ClipResult) -> None:
        score = self._judge.score(track, video, wav)
        figures = result.figures.setdefault(system, {})
        figures["lse_d"], figures["lse_c"], figures["offset"] = score.distance, score.confidence, score.offset
        figures["in_sync"] = float(score.in_sync)
        if score.curve:
            result.curves[system] = [value if math.isfinite(value) else None for value in score.curve]


def _motion(track: Track, wav: np.ndarray) -> dict[str, float]:
    """Mean movement of the mouth where speech is silent and where it is not; what does not occur is left out."""
    silent = metrics.silent_frames(wav, hparams.sample_rate, track.frames, track.fps)
    motion, numbers = np.array(track.motion), np.array(track.numbers)
    quiet = silent[numbers] & silent[np.maximum(0, numbers - 1)]
    parts = {"motion_silent": motion[quiet], "motion_speech": motion[~silent[numbers]]}
    finite = {name: values[np.isfinite(values)] for name, values in parts.items()}
    return {name: float(values.mean()) for name, values in finite.items() if len(values)}


def _strip(track: Track) -> str:
    """Faces evenly over time, side by side: base64 of a JPEG."""
    places = np.linspace(0, len(track.faces) - 1, min(STRIP_FACES, len(track.faces))).round().astype(int)
    row = np.concatenate([track.faces[place] for place in places], axis=1)
    encoded = cv2.imencode(".jpg", row, (cv2.IMWRITE_JPEG_QUALITY, STRIP_QUALITY))[1]
    return base64.b64encode(encoded.tobytes()).decode("ascii")


def reason_of(error: Exception) -> str:
    """Why a clip failed, in one line."""
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    return " ".join(f"{type(error).__name__}: {error}".split())


def _stamp(path: Path) -> list[Any]:
    """What tells one state of a file from another without reading it."""
    try:
        state = path.stat()
    except OSError:
        return [str(path)]
    return [str(path.resolve()), state.st_size, state.st_mtime_ns]


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _load(path: Path) -> ClipResult | None:
    """What was kept, or None when there is nothing that can be used."""
    try:
        content = json.loads(path.read_text())
        features = {}
        if content.pop("has_features"):
            with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
                features = {name: arrays[name] for name in arrays.files}
        return ClipResult(**{**content, "features": features})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _save(path: Path, result: ClipResult) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if result.features:
        with written_whole(path.with_suffix(".npz")) as aside, aside.open("wb") as file:
            np.savez(file, **result.features)
    content = {**asdict(replace(result, features={})), "has_features": bool(result.features)}
    write_text_whole(path, json.dumps(content))
