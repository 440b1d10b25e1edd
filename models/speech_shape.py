"""How far mouths open and how wide they are drawn while something is said: small networks on a speech encoder, that
learnt it from a landmark model.

Openings are gaps between the inner lips in distances of the outer eye corners, widths are in those of the face's crop;
both are above or below their speaker's means.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import audio
from models.conv import scaled
from models.speech_encoder import CHANNELS, SpeechEncoder, token_at

# A window is of 1.6 s: frames of 10 ms before a video frame's own time, and from then on, for what mouths get ready
# for. Live streams come later by the latter.
CONTEXT, AHEAD = 136, 24
WINDOW = CONTEXT + AHEAD
LAST = CONTEXT  # the last place in a window that is listened to
FIRST = 56  # the first one: half a second is heard before it
STRETCH = 40  # frames; of so many one window serves, where what comes later can be heard, too
BEFORE, AFTER = 12, 11  # tokens about a place that are listened to
# Frames over whose mean it is told whether anything is said; and before a place and from it on, in which it is: mouths
# do not close between two sounds.
MOMENT, SPOKEN = 20, (32, 24)
SILENCE = (-1.8, -0.8)  # mean of the loudest band (-4 to 4): up to the first it is silence, from the second on speech
LISTENERS = 5  # that hear alike but for what each has learnt by heart: their mean is better than any
LISTENING = 192  # channels of each
KINDS = 3  # openings, widths, and openings by a second landmark model, which listeners have to know, too
NEIGHBOURS = 3  # frames of 40 ms before and after the one that is heard, of which listeners have to know, too
AT_REST = (0.0, 0.5)  # ranks of opening and width in silence


class Listener(nn.Module):
    """Openings and widths of a frame and its neighbours from what the encoder says.

    Args:
        channels: of its hidden layer.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = channels // 4
        self.norm = nn.BatchNorm1d(CHANNELS)
        self.narrow = nn.Sequential(nn.Dropout(0.1), nn.Linear(CHANNELS, narrow), nn.ReLU())
        self.features = nn.Sequential(
            nn.Dropout(0.4), nn.Linear((BEFORE + 1 + AFTER) * narrow, channels), nn.BatchNorm1d(channels), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Dropout(0.4), nn.Linear(channels, KINDS * (2 * NEIGHBOURS + 1)))

    def forward(self, tokens: Tensor, around: Tensor) -> Tensor:
        """Tokens (N, n, 384) and which of them are about each place (N, places, 24) -> (N, places, 3, 7)."""
        narrowed = self.narrow(self.norm(tokens.flatten(0, 1)).view_as(tokens))
        chosen = narrowed[torch.arange(len(tokens), device=tokens.device)[:, None, None], around]
        heard = self.head(self.features(chosen.flatten(0, 1).flatten(1)))
        return heard.view(*around.shape[:2], KINDS, -1)


class SpeechShape(nn.Module):
    """How far mouths open and how wide they are drawn, above their speaker's means, while something is said.

    Lips are rounded for some sounds and spread for others. Much of what a mouth does cannot be heard: what comes out is
    the mean of what mouths do at such a sound, which varies less than a mouth does. `rank` makes up for that.

    The encoder knows sounds from far more voices than there are talking faces to learn from; on it stand some small
    networks of different beginnings, whose mean is taken.

    Args:
        img_size: not used; a checkpoint has it.
        width: factor on the channels of listeners.
    """

    def __init__(self, img_size: tuple[int, int] = (96, 96), width: float = 1.0):
        super().__init__()
        self.img_size, self.width = tuple(img_size), width
        self.encoder = SpeechEncoder()
        self.listeners = nn.ModuleList(Listener(scaled(LISTENING, width)) for _ in range(LISTENERS))
        self.register_buffer("std", torch.ones(KINDS))  # of what it learnt from, around the means of clips
        self.register_buffer("spread", torch.ones(2))  # standard deviation of `standardised` over speech

    def forward(self, speech: Tensor, places: Tensor) -> Tensor:
        """Windows (N, 80, `WINDOW`) of `audio.speech_spectrogram` -> (N, n, 2): openings in eye distances, and widths
        of mouths in those of the face's crop, at frames `places` (N, n) of the windows, from `FIRST` to `LAST`."""
        return self.std[:2] * self.standardised(speech, places)

    def standardised(self, speech: Tensor, places: Tensor) -> Tensor:
        """The same (N, n, 2) in standard deviations around the means of clips. The opening is the mean of both."""
        opening, width, second = self.of_each(speech, places).mean(0)[..., NEIGHBOURS].unbind(-1)
        return torch.stack(((opening + second) / 2, width), dim=-1)

    def of_each(self, speech: Tensor, places: Tensor) -> Tensor:
        """All kinds by each listener, and of the frames about each, too: (`LISTENERS`, N, n, 3, 2 x `NEIGHBOURS` + 1).

        Who has to know how mouths move on hears better how they are.
        """
        tokens = self.encoder(speech)
        own = token_at(places)
        around = own[..., None] + torch.arange(-BEFORE, AFTER + 1, device=own.device)
        return torch.stack([listener(tokens, around) for listener in self.listeners])

    def rank(self, speech: Tensor, places: Tensor) -> Tensor:
        """The shares of all speech that sounds more closed, and narrower, in [0, 1]: (N, n, 2). Silence closes the
        mouth, and leaves it as wide as ever."""
        moments = F.avg_pool1d(speech.amax(1, keepdim=True), MOMENT, 1)
        loudest = F.max_pool1d(moments, sum(SPOKEN) - MOMENT + 1, 1)[:, 0].gather(1, places - SPOKEN[0])
        spoken = ((loudest - SILENCE[0]) / (SILENCE[1] - SILENCE[0])).clamp(0, 1)[..., None]
        at_rest = torch.tensor(AT_REST, device=speech.device)
        return at_rest + spoken * (torch.special.ndtr(self.standardised(speech, places) / self.spread) - at_rest)


def windows_along(speech: np.ndarray, places: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """What `SpeechShape` takes to hear ascending frames (n,) of a speech spectrogram (80, T), one after the other:
    windows (1, 80, `WINDOW`) and the places (1, some) in each.

    As much is heard after them as the windows have, up to the end.
    """
    latest = speech.shape[1] - AHEAD
    while len(places):
        count = int(np.searchsorted(places, places[0] + STRETCH, side="right"))
        here, places = places[:count], places[count:]
        last = max(here[-1], min(here[0] + LAST - FIRST, latest))
        window = audio.stretches_at(speech, np.array([last]), CONTEXT, AHEAD)
        yield torch.from_numpy(window).float(), torch.from_numpy(LAST + here - last)[None]


def heard_along(of: Callable[[Tensor, Tensor], Tensor], speech: np.ndarray, places: np.ndarray) -> Tensor:
    """What a method of `SpeechShape` says of all these frames (n, 2), by `windows_along`."""
    return torch.cat([of(*window)[0] for window in windows_along(speech, places)])


def windows_so_far(speech: np.ndarray, places: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """The same without what comes later than `AHEAD`: each has its own window."""
    for window in audio.stretches_at(speech, places, CONTEXT, AHEAD):
        yield torch.from_numpy(window).float()[None], torch.tensor([[LAST]])
