"""What the face detector found in a video, kept in a folder for the next speech."""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from errors import InputError, warn
from face_detection.api import resolve_detector
from lipsync.options import InferenceOptions

LAYOUT = 1  # of the files, and of the way in which faces are found; another number leaves old files unused
BEARING = ("static", "resize_factor", "crop", "rotate", "det_every", "face_detector_size")  # options that bear on faces


class DetectionCache:
    """The faces of one video's frames, in one file.

    The file's name is a hash of the video's content, of the options that bear on what is found, and of the detector;
    what is made of the detections (which face is followed, pads, smoothing) is not part of it and may differ from run
    to run. A longer speech needs more frames of the video: those are added.

    Args:
        options: `options.cache` is the folder; it is made.
        device: where the detector runs.

    Raises InputError when the folder cannot be used.
    """

    def __init__(self, options: InferenceOptions, device: str):
        folder = options.cache
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._path = folder / f"{_key(options, device)}.npz"
            self._aside = folder / f".{self._path.stem}.{os.getpid()}.part"
            self._aside.touch()
            self._aside.unlink()
        except OSError as error:
            raise InputError(f"--cache {folder} cannot be used ({error.strerror}): choose another folder") from error

    def through(
        self, frames: Iterable[np.ndarray], find: Callable[[Iterator[np.ndarray]], Iterator[np.ndarray]]
    ) -> Iterator[np.ndarray]:
        """The faces of each frame: those kept, then what `find` yields for the frames after them, which is kept too."""
        frames, faces = iter(frames), []
        for kept, _ in zip(self._load(), frames, strict=False):
            faces.append(kept)
            yield kept
        known = len(faces)
        for found in find(frames):
            faces.append(found)
            yield found
        if len(faces) > known:
            self._save(faces)

    def _load(self) -> list[np.ndarray]:
        """Faces (n, 5) per frame; none when there is no file, or none that can be used."""
        try:
            with np.load(self._path, allow_pickle=False) as content:
                counts, faces = content["counts"], content["faces"]
            if counts.ndim != 1 or counts.min(initial=0) < 0 or faces.shape != (counts.sum(), 5):
                raise ValueError("shapes do not fit together")
            return np.split(faces.astype(np.float32, copy=False), np.cumsum(counts)[:-1]) if len(counts) else []
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            warn(f"{self._path} in the cache is damaged ({error}): detecting again")
            return []

    def _save(self, faces: list[np.ndarray]) -> None:
        """Write aside, then rename. A cache that cannot be written must not cost the result."""
        try:
            with self._aside.open("wb") as file:
                np.savez(file, counts=np.array([len(found) for found in faces]), faces=np.concatenate(faces))
            self._aside.replace(self._path)
        except OSError as error:
            warn(f"{self._path} could not be written to the cache ({error.strerror}): going on without it")
        finally:
            self._aside.unlink(missing_ok=True)


def _key(options: InferenceOptions, device: str) -> str:
    detector = resolve_detector(options.face_detector)
    settings = {name: getattr(options, name) for name in BEARING}
    settings |= {
        "layout": LAYOUT,
        "face": _digest(options.face),
        "suffix": options.face.suffix.lower(),  # decides whether it is read as a picture
        "every_face": options.face_index is not None,
        "detector": detector,
        "weights": None,
    }
    if detector == "sfd":
        from face_detection.detection.sfd import weights_path

        found = weights_path()
        settings |= {"weights": found and _digest(found), "device": device}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
