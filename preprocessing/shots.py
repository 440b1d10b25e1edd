"""Where the picture cuts: PySceneDetect, fed with the frames that are read anyway."""

import cv2
import numpy as np
from scenedetect import AdaptiveDetector, FrameTimecode

SEEN_WIDTH = 256  # pixels; as large as PySceneDetect's own scene manager makes frames
SHORTEST_SHOT = 3  # frames: a cut that is missed joins two people, one too many only splits a clip


class Shots:
    """Finds the cuts of a video frame by frame. `cuts` holds the first frame of each shot but the first."""

    def __init__(self, fps: float):
        self.cuts: list[int] = []
        self._fps, self._count = fps, 0
        self._detector = AdaptiveDetector(min_scene_len=SHORTEST_SHOT)

    def see(self, frame: np.ndarray) -> None:
        """The next frame (H, W, 3) uint8 BGR. A cut is known some frames later."""
        height, width = frame.shape[:2]
        if width > SEEN_WIDTH:
            size = (SEEN_WIDTH, max(1, round(height * SEEN_WIDTH / width)))
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        found = self._detector.process_frame(FrameTimecode(self._count, float(self._fps)), frame)
        self.cuts += [cut.frame_num for cut in found]
        self._count += 1
