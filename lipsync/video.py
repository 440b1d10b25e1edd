"""Video files: frames in (`FrameReader`) and out (`VideoWriter`)."""

from lipsync.video_reader import IMAGE_SUFFIXES, Colour, FrameReader
from lipsync.video_writer import DEFAULT_CRF, VideoWriter, result_path

__all__ = ["DEFAULT_CRF", "IMAGE_SUFFIXES", "Colour", "FrameReader", "VideoWriter", "result_path"]
