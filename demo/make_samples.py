"""Write the sample face of `make demo`: a picture, and a moving video made from it.

Run as `python -m demo.make_samples --folder results/demo`.
"""

import argparse
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from errors import run_script

FPS = 25
SECONDS = 6
SIZE = (384, 384)  # of the video: width, height


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the sample face picture and video of the demo")
    parser.add_argument("--folder", type=Path, required=True, help="where face.png and face.mp4 are written")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    portrait = load_portrait()
    cv2.imwrite(str(folder / "face.png"), portrait)
    write_pan_and_zoom(portrait, folder / "face.mp4")
    print(f"wrote {folder / 'face.png'} and {folder / 'face.mp4'}")


def load_portrait() -> np.ndarray:
    """The astronaut's portrait, (512, 512, 3) uint8 BGR."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[..., ::-1])


def write_pan_and_zoom(picture: np.ndarray, path: Path) -> None:
    """A slow pan and zoom over a picture, so that the face moves and changes size."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS), options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for i in range(FPS * SECONDS):
            frame = av.VideoFrame.from_ndarray(view(picture, i / (FPS * SECONDS)), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def view(picture: np.ndarray, progress: float) -> np.ndarray:
    """The part of the picture that is seen at `progress` in [0, 1]; the last equals the first, so that it loops."""
    phase = 2 * np.pi * progress
    side = 300 + 50 * np.cos(phase)  # pixels of the picture that fill the frame
    centre = (225 + 20 * np.sin(phase), 165 + 12 * np.sin(2 * phase))  # near the face
    scale = SIZE[0] / side
    matrix = np.array([[scale, 0, SIZE[0] / 2 - scale * centre[0]], [0, scale, SIZE[1] / 2 - scale * centre[1]]])
    return cv2.warpAffine(picture, matrix, SIZE, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)


if __name__ == "__main__":
    run_script(main)
