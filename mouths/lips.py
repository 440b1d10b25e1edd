"""Where the lips of a picture are, and the teeth between them."""

from typing import Any, NamedTuple

import numpy as np

LOWER_LIP = [3, 9, 10]  # inner ones of `models.face_mesh.LIP_POINTS`
COLUMNS = 13  # of a mouth in which the edge of the teeth is looked for
LOOKED_THROUGH = 0.8  # of the lower lip's thickness, for the edge of the teeth
MIN_REDNESS = 0.06  # by which lips are redder than teeth, as a share of all light


class Lips(NamedTuple):
    """Where the lips of a picture are, in its pixels.

    The inner lips are curves between the inner corners, which a = -1 and a = 1 stand for: below the line through the
    mouth's corners by (1 - a^2) (s0 + s1 a + s2 a^2).
    """

    left: tuple[float, float]  # corner of the mouth
    slope: float  # of the line to the other one
    middle: float  # between the inner corners, across
    half: float  # of the distance between them
    upper: tuple[float, float, float]  # s0, s1, s2
    lower: tuple[float, float, float]
    gap: float  # between them, in the middle

    @classmethod
    def of(cls, points: np.ndarray, height: int, width: int) -> "Lips":
        """From `models.face_mesh.LIP_POINTS` (11, 2), x over the width and y over the height."""
        unit = height / 96
        # Python's numbers, so that pictures of float32 stay so
        found = [(float(across), float(down)) for across, down in points * (width, height)]
        left, right = sorted((found[0], found[1]))
        slope = (right[1] - left[1]) / max(unit, right[0] - left[0])
        inner = sorted((found[5][0], found[6][0]))
        middle, half = (inner[0] + inner[1]) / 2, max(unit, (inner[1] - inner[0]) / 2)

        def curve(*numbers: int) -> tuple[float, float, float]:
            across = np.array([(found[number][0] - middle) / half for number in numbers])
            below = [found[number][1] - left[1] - slope * (found[number][0] - left[0]) for number in numbers]
            return _fitted(across, np.array(below))

        gap = max(0.0, found[3][1] - found[2][1])
        return cls(left, slope, middle, half, curve(7, 2, 8), curve(9, 3, 10), gap)

    def line(self, x: Any) -> Any:
        """The row of the line through the mouth's corners, at some columns."""
        return self.left[1] + self.slope * (x - self.left[0])

    def row(self, sag: tuple[float, float, float], x: Any) -> Any:
        """The row of a curve, at some columns; of the line beyond the inner corners."""
        across = (x - self.middle) / self.half
        return self.line(x) + np.maximum(1 - across * across, 0) * (sag[0] + across * (sag[1] + across * sag[2]))


def _fitted(across: np.ndarray, below: np.ndarray) -> tuple[float, float, float]:
    """The curve of `Lips` through some places (n,), by least squares; of curves that fit alike the plainest."""
    across = np.clip(across, -0.9, 0.9)
    terms = (1 - across**2)[:, None] * across[:, None] ** (0, 1, 2)
    plain = np.diag((1e-6, 1e-3, 1e-3))
    return tuple(map(float, np.linalg.solve(terms.T @ terms + plain, terms.T @ below)))


def with_whole_teeth(face: np.ndarray, lips: np.ndarray) -> np.ndarray:
    """Lips (11, 2) of a face (H, W, 3) uint8 BGR whose inner lower edge lies below its teeth, see `LIP_POINTS`.

    Landmark models put it into the teeth of a smile, which would break where the mouth is opened. From where it was
    said to be it is moved down as long as the picture is less red than the lip below. Grey pictures show no such edge.
    """
    height, width = face.shape[:2]
    mouth = Lips.of(lips, height, width)
    thickness = float(lips[4, 1] - lips[3, 1]) * height  # of the lower lip
    across, edges = np.linspace(-0.85, 0.85, COLUMNS), []
    places = mouth.middle + across * mouth.half
    for place in places:
        upper, edge = (mouth.row(sag, float(place)) for sag in (mouth.upper, mouth.lower))
        edge = max(edge, upper)
        x, first, last = round(place), round(upper), round(edge + LOOKED_THROUGH * thickness)
        edges.append(edge)
        if not (0 < x < width and 0 <= first <= round(edge) < last <= height):
            continue
        column = face[first:last, max(0, x - 1) : x + 2].mean(1)
        redness = (column[:, 2] - column[:, 1]) / (column.sum(1) + 1)
        begin = round(edge) - first
        lip, inside = redness[begin:].max(), redness[: begin + 1].min()
        teeth = redness[begin:] < (lip + inside) / 2
        if lip - inside >= MIN_REDNESS and not teeth.all():
            edges[-1] = edge + float(np.argmin(teeth))
    sag = _fitted(across, np.array(edges) - mouth.line(places))
    found = lips.copy()
    for point in LOWER_LIP:
        x = np.clip(lips[point, 0] * width, mouth.middle - mouth.half, mouth.middle + mouth.half)
        found[point, 1] = max(lips[point, 1], mouth.row(sag, float(x)) / height)
    return found
