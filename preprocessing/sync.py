"""Sound into step: what the clips of a source say together about its offset, and each clip's verdict.

One short clip holds little evidence for a weak expert. The offset of a video has one cause as a rule (a delay of the
encoder, of a stream, of an edit), so that clips near one another share it: their curves of mean distance against offset
(`evaluation/sync.py`) are averaged, weighted by length. Evidence is compared with what wrong sound gives by chance,
which shrinks with the square root of the number of windows; see `CHANCE_ANYWHERE`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.sync import MAX_OFFSET, TOLERANCE, Evidence

NEAR_SECONDS = 60  # of sound on either side whose clips are taken to share an offset; if they do not tell, all do
# Evidence that sound is right, in standard errors (see `Evidence.z`). By `evaluation.chance` with the shipped expert,
# wrong sound of 2 to 10 seconds: at the best of all offsets 95 % of it stays under 7.1 and 99 % under 8.3; within a
# frame of one known beforehand 95 % stays under 4.5 and 99 % under 7.3. Of right sound 95 % is over 7.9.
CHANCE_ANYWHERE = 7.5
CHANCE_THERE = 5.0
SAME_TIME = 0.5  # share of the shorter of two clips that both show, from which only one can be of the speaker
NOT_THE_SPEAKER = "not in sync: low confidence at every offset"
ANOTHER_SPEAKS = "another face speaks"


@dataclass(frozen=True)
class Verdict:
    """What becomes of a clip.

    Attributes:
        offset: frames by which its sound is late; the sound is moved by them when the clip is kept.
        confidence: at that offset, within a frame.
        own_offset, own_confidence: by the clip alone.
        kept: whether the confidence is enough.
    """

    offset: int
    confidence: float
    own_offset: int
    own_confidence: float
    kept: bool


def verdicts(evidence: Sequence[Evidence], seconds: Sequence[float], min_confidence: float) -> list[Verdict]:
    """The verdict on each clip of a source, from all of them. `seconds`: the middle of each clip."""
    times = np.asarray(seconds, float)
    return [
        _verdict(part, _shared_offset(evidence, np.abs(times - time) <= NEAR_SECONDS), min_confidence)
        for part, time in zip(evidence, times, strict=True)
    ]


def _shared_offset(evidence: Sequence[Evidence], near: np.ndarray) -> int | None:
    """The offset that the clips `near` tell together, else all clips; None where that is no better than chance."""
    for chosen in (near, np.ones(len(near), bool)):
        pooled = Evidence.together([part for part, taken in zip(evidence, chosen, strict=True) if taken])
        if pooled.z(pooled.confidence(pooled.offset)) >= CHANCE_ANYWHERE:
            return pooled.offset
    return None


def _verdict(own: Evidence, shared: int | None, min_confidence: float) -> Verdict:
    """A clip's own evidence beside what its neighbours say: it differs from them only if it is surer of that.

    Where neighbours tell nothing, a clip that is best in step as it is needs less evidence than one that is not: most
    videos are in step.
    """
    own_offset = own.offset
    own_confidence = own.confidence(own_offset)
    offset, confidence = own_offset, own_confidence
    needed = CHANCE_THERE if abs(own_offset) <= TOLERANCE else CHANCE_ANYWHERE
    if shared is not None:
        there = own.confidence(shared, TOLERANCE)
        differs = abs(own_offset - shared) > TOLERANCE and own.z(own_confidence) >= CHANCE_ANYWHERE
        if not differs or own.z(own_confidence - there) < CHANCE_THERE:
            offset, confidence, needed = shared, there, CHANCE_THERE
    kept = own.z(confidence) >= needed and confidence >= min_confidence and abs(offset) <= MAX_OFFSET
    return Verdict(offset, confidence, own_offset, own_confidence, kept)


def speaking(spans: Sequence[tuple[int, int]], confidences: Sequence[float]) -> list[bool]:
    """Whether each clip, of frames [first, end), is the surest of those that are seen at the same time.

    One voice has one mouth: of clips that share more than half of the shorter one, only the surest is the speaker's.
    """
    chosen: list[int] = []
    for k in sorted(range(len(spans)), key=lambda k: -confidences[k]):
        if not any(_shared_part(spans[k], spans[other]) > SAME_TIME for other in chosen):
            chosen.append(k)
    return [k in chosen for k in range(len(spans))]


def _shared_part(a: tuple[int, int], b: tuple[int, int]) -> float:
    return (min(a[1], b[1]) - max(a[0], b[0])) / min(a[1] - a[0], b[1] - b[0])
