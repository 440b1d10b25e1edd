"""How far mouths open and how wide they are drawn while something is said: small networks on a speech encoder, that
learnt it from a landmark model.

Openings are gaps between the inner lips in distances of the outer eye corners, widths are in those of the face's crop;
both are above or below their speaker's means.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import audio
from models.conv import scaled
from models.speech_encoder import CHANNELS, TOKENS_PER_SECOND, SpeechEncoder

# A window is of mel frames: some before those that a generator hears (16), and some after them, for what mouths get
# ready for. Live streams come later by the latter.
CONTEXT, AHEAD = 104, 8
WINDOW = CONTEXT + audio.MEL_STEP_SIZE + AHEAD
LAST = CONTEXT  # the last place in a window at which what a generator hears may begin
FIRST = 40  # the first one that is listened to: half a second is heard before it
STRETCH = 32  # mel frames; of so many one window serves, where what comes later can be heard, too
SPOKEN = slice(CONTEXT, CONTEXT + audio.MEL_STEP_SIZE)  # what a generator hears that begins at `LAST`
HEARING_LEAD_MS = 40.0  # how much before a frame what a generator hears starts
BEFORE, AFTER = 12, 11  # tokens about a frame's own that are listened to
SILENCE = (-3.2, -2.2)  # mean of the loudest band (-4 to 4): up to the first it is silence, from the second on speech
LISTENERS = 5  # that hear alike but for what each has learnt by heart: their mean is better than any
LISTENING = 192  # channels of each
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
        self.head = nn.Sequential(nn.Dropout(0.4), nn.Linear(channels, 2 * (2 * NEIGHBOURS + 1)))

    def forward(self, tokens: Tensor, around: Tensor) -> Tensor:
        """Tokens (N, n, 384) and which of them are about each place (N, places, 24) -> (N, places, 2, 7)."""
        narrowed = self.narrow(self.norm(tokens.flatten(0, 1)).view_as(tokens))
        chosen = narrowed[torch.arange(len(tokens), device=tokens.device)[:, None, None], around]
        heard = self.head(self.features(chosen.flatten(0, 1).flatten(1)))
        return heard.view(*around.shape[:2], 2, -1)


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
        self.register_buffer("std", torch.ones(2))  # of what it learnt from, around the means of clips
        self.register_buffer("spread", torch.ones(2))  # standard deviation of `standardised` over speech

    def forward(self, mel: Tensor, places: Tensor) -> Tensor:
        """Mel windows (N, 80, `WINDOW`) in [-4, 4] -> (N, n, 2): openings in eye distances, and widths of mouths in
        those of the face's crop.

        What a generator hears begins at mel frames `places` (N, n) of the windows, from `FIRST` to `LAST`, one frame
        (40 ms) before the faces in question.
        """
        return self.std * self.standardised(mel, places)

    def standardised(self, mel: Tensor, places: Tensor) -> Tensor:
        """The same (N, n, 2) in standard deviations around the means of clips."""
        return self.of_each(mel, places).mean(0)[..., NEIGHBOURS]

    def of_each(self, mel: Tensor, places: Tensor) -> Tensor:
        """The same by each listener, and of the frames about each, too: (`LISTENERS`, N, n, 2, 2 x `NEIGHBOURS` + 1).

        Who has to know how mouths move on hears better how they are.
        """
        tokens = self.encoder(mel.float())
        rate = TOKENS_PER_SECOND / audio.MEL_FRAMES_PER_SECOND
        own = (rate * places + TOKENS_PER_SECOND * HEARING_LEAD_MS / 1000).ceil().long()
        offsets = torch.arange(-BEFORE, AFTER + 1, device=own.device)
        around = (own[..., None] + offsets).clamp(0, tokens.shape[1] - 1)
        return torch.stack([listener(tokens, around) for listener in self.listeners])

    def rank(self, mel: Tensor, places: Tensor) -> Tensor:
        """The shares of all speech that sounds more closed, and narrower, in [0, 1]: (N, n, 2). Silence closes the
        mouth, and leaves it as wide as ever."""
        loudest = F.avg_pool1d(mel.amax(1, keepdim=True), audio.MEL_STEP_SIZE, 1)[:, 0].gather(1, places)
        spoken = ((loudest - SILENCE[0]) / (SILENCE[1] - SILENCE[0])).clamp(0, 1)[..., None]
        at_rest = torch.tensor(AT_REST, device=mel.device)
        return at_rest + spoken * (torch.special.ndtr(self.standardised(mel, places) / self.spread) - at_rest)


def windows_along(mel: np.ndarray, starts: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """What `SpeechShape` takes to hear, one after the other, what generators do that begin at ascending mel frames (n,)
    of a spectrogram (80, T): windows (1, 80, `WINDOW`) and the places (1, some) in each.

    As much is heard after them as the windows have, up to the end.
    """
    latest = mel.shape[1] - audio.MEL_STEP_SIZE - AHEAD
    while len(starts):
        count = int(np.searchsorted(starts, starts[0] + STRETCH, side="right"))
        here, starts = starts[:count], starts[count:]
        end = max(here[-1], min(here[0] + LAST - FIRST, latest))
        window = audio.mel_windows_at(mel, np.array([end]), CONTEXT, AHEAD)
        yield torch.from_numpy(window), torch.from_numpy(LAST + here - end)[None]


def windows_so_far(mel: np.ndarray, starts: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """The same without what comes later than `AHEAD`: each has its own window."""
    for window in audio.mel_windows_at(mel, starts, CONTEXT, AHEAD):
        yield torch.from_numpy(window)[None], torch.tensor([[LAST]])
