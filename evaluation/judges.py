"""Who judges sync: an expert of this toolkit, or the published SyncNet v2 where the user has it.

Their figures have different scales; whoever shows figures shows the judge's `name` and `note` with them.
"""

import contextlib
import hashlib
import io
import tempfile
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.io import wavfile

import audio
from errors import InputError
from evaluation import sync
from evaluation.options import EvaluationOptions
from evaluation.tracks import Track
from hparams import hparams
from models.checkpoint import DEFAULT_EXPERT, load_expert
from models.syncnet import PUBLISHED_FPS

EXTRA = "syncnet-python==0.2.3"  # the release whose interface is used here
SYNCNET_FILES = ("syncnet_v2.model", "sfd_face.pth")


class Judge(Protocol):
    """Measures sync.

    Attributes:
        name: which network and which weights.
        note: what its figures may be compared with.
        face_size: (height, width) of the faces that it wants.
        fps: frames a second of the videos that it knows.
    """

    name: str
    note: str
    face_size: tuple[int, int]
    fps: float

    def score(self, track: Track, video: Path, wav: np.ndarray) -> sync.SyncScore:
        """The score of a face with a sound (samples,), 16 kHz, from the first frame on. Raises InputError."""


class Expert:
    """An expert of this toolkit. Raises InputError for weights that cannot be used."""

    note = (
        "Distances between normalised embeddings of this toolkit's expert (0 to 1.41). Published LSE-D and LSE-C are "
        "SyncNet v2's, on another scale: do not compare them with these."
    )

    def __init__(self, path: Path | None, device: str):
        path = path or DEFAULT_EXPERT
        self._expert = load_expert(path, device)
        self.face_size: tuple[int, int] = self._expert.img_size
        self.fps = self._expert.fps
        self.name = f"{path.name} (sha256 {digest(path)[:12]})"

    def score(self, track: Track, video: Path, wav: np.ndarray) -> sync.SyncScore:
        mel = audio.melspectrogram(wav)
        return sync.measure(self._expert, track.faces, mel, track.fps, np.array(track.numbers, int))


class PublishedSyncNet:
    """SyncNet v2 through the PyPI package syncnet-python, with its own face tracks (2 seconds or more).

    Args:
        folder: where `SYNCNET_FILES` lie.

    Raises InputError when the package or a file is missing. The package needs the program ffmpeg.
    """

    note = (
        "Published SyncNet v2 through the package syncnet-python, with its own face detection and tracks; of several "
        "tracks the one with the highest confidence. Comparable with published LSE-D and LSE-C as far as cutting out "
        "faces is."
    )
    face_size = (96, 96)
    fps = PUBLISHED_FPS

    def __init__(self, folder: Path, device: str):
        paths = [folder / name for name in SYNCNET_FILES]
        for path in paths:
            if not path.is_file():
                raise InputError(
                    f"--syncnet: {path} does not exist: download {' and '.join(SYNCNET_FILES)} into that folder "
                    "(www.robots.ox.ac.uk/~vgg/software/lipsync)"
                )
        try:
            from syncnet_python import SyncNetPipeline
        except ImportError as error:
            raise InputError(
                f"--syncnet needs the package syncnet-python ({error}): pip install {EXTRA}, best into an environment "
                "of its own, since it brings another build of OpenCV"
            ) from error
        syncnet, s3fd = map(str, paths)
        self._pipeline = SyncNetPipeline({"s3fd_weights": s3fd, "syncnet_weights": syncnet}, device=device)
        self.name = f"published SyncNet v2 (sha256 {digest(paths[0])[:12]}) through syncnet-python"

    def score(self, track: Track, video: Path, wav: np.ndarray) -> sync.SyncScore:
        with tempfile.TemporaryDirectory() as folder:
            sound = Path(folder) / "sound.wav"
            samples = np.round(np.clip(wav, -1, 32767 / 32768) * 32768).astype(np.int16)
            wavfile.write(sound, hparams.sample_rate, samples)
            with contextlib.redirect_stdout(io.StringIO()):
                offsets, confidences, distances, *_ = self._pipeline.inference(str(video), str(sound))
        if not offsets:
            raise InputError("SyncNet v2 found no face track of 2 seconds: give a longer clip, or use --expert")
        best = int(np.argmax(confidences))
        # The package prints how far to move the sound; here an offset is how late it is.
        return sync.SyncScore(-int(offsets[best]), float(confidences[best]), float(distances[best]), 0, ())


def make_judge(options: EvaluationOptions, device: str) -> Judge:
    """The judge that the options ask for. Raises InputError."""
    if options.syncnet is not None:
        return PublishedSyncNet(options.syncnet, device)
    return Expert(options.expert, device)


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
