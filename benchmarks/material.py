"""Clips and speech of any size and length, made of given ones."""

from argparse import ArgumentParser
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

import audio
from lipsync.live import ping_pong
from lipsync.video import FrameReader, VideoWriter

FPS = 25
MOST_FRAMES = 250  # of the given video that are used


def add_arguments(parser: ArgumentParser) -> None:
    """What every measurement of inference needs."""
    parser.add_argument("--face", type=Path, required=True, help="video that clips are made of")
    parser.add_argument("--audio", type=Path, required=True, help="speech")
    parser.add_argument("--checkpoint_path", type=Path, help="generator weights (default: the shipped ones)")


def make_clip(video: Path, path: Path, height: int, seconds: float) -> Path:
    """`video` at a height, 16:9, 25 frames a second, forwards and backwards until `seconds` are full."""
    size = (round(height * 16 / 9 / 2) * 2, height)
    frames = [
        cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in islice(FrameReader(video), MOST_FRAMES)
    ]
    with VideoWriter(path, size[::-1], FPS) as writer:
        for i in range(round(seconds * FPS)):
            writer.write(frames[ping_pong(i, len(frames))])
    return path


def make_speech(speech: Path, path: Path, seconds: float) -> Path:
    """`speech` over and over until `seconds` are full."""
    wav = audio.load_wav(speech)
    audio.save_wav(np.resize(wav, round(seconds * 16000)), path)
    return path
