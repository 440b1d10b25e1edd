"""The speech as the sound of a result, muxed once: its own packets where the container takes them, else encoded."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

COPIED_CODECS = {  # whose packets go in unchanged; every common player reads them in these containers
    "mp4": ("aac", "mp3", "ac3", "eac3", "alac"),
    "mov": ("aac", "mp3", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s24le"),
    "matroska": ("aac", "mp3", "ac3", "eac3", "alac", "opus", "vorbis", "flac", "pcm_s16le", "pcm_s24le"),
}
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)  # Hz
AAC_BITS_PER_CHANNEL = 160_000  # a second; transparent
AAC_MAX_BITS_PER_SAMPLE = 6  # the format's limit, per channel
MAX_CHANNELS = 8
PCM_OF_SAMPLES = {"u8": "pcm_s16le", "s16": "pcm_s16le", "s32": "pcm_s32le"}  # else 32-bit float
JITTER = Fraction(1, 50)  # seconds by which packets' times may miss one another: container rounding, not a gap


class Soundtrack:
    """The first audio stream of `speech` on its way into `container`, starting with its first audible sample.

    Packets are copied when the container takes the codec and they follow one another without gaps; else the sound
    is decoded and encoded: AAC at the speech's own rate and channels, or PCM when `lossless`.
    """

    def __init__(self, speech: str | Path, container: av.container.OutputContainer, lossless: bool = False):
        self._path, self._container = str(Path(speech).absolute()), container
        formats = container.format.name.split(",")
        copied = next((codecs for name, codecs in COPIED_CODECS.items() if name in formats), ())
        self._source = av.open(self._path)
        source = self._source.streams.audio[0]
        start = _contiguous_start(self._path) if source.codec.canonical_name in copied else None
        if lossless:
            self._packets = self._encoded(self._add_pcm(source))
        elif start is not None:
            self._packets = self._copied(container.add_stream_from_template(source), start)
        else:
            self._packets = self._encoded(self._add_aac(source))
        self._next: av.Packet | None = None

    def mux_until(self, seconds: Fraction) -> None:
        """Mux the sound up to a time, so that it lies beside the pictures of that time in the file."""
        while (packet := self._next or next(self._packets, None)) is not None:
            self._next = None
            if packet.pts is not None and packet.pts * packet.time_base > seconds:
                self._next = packet
                return
            self._container.mux(packet)

    def finish(self) -> None:
        """Mux what is left."""
        if self._next is not None:
            self._container.mux(self._next)
            self._next = None
        for packet in self._packets:
            self._container.mux(packet)
        self.close()

    def close(self) -> None:
        self._source.close()

    def _copied(self, stream: av.AudioStream, start: Fraction) -> Iterator[av.Packet]:
        source = self._source.streams.audio[0]
        offset = round(start / source.time_base)
        for packet in _demuxed(self._source):
            packet.pts -= offset
            packet.dts = packet.pts
            packet.stream = stream
            yield packet

    def _encoded(self, stream: av.AudioStream) -> Iterator[av.Packet]:
        codec = stream.codec_context
        resampler = av.AudioResampler(format=codec.format, layout=codec.layout, rate=codec.sample_rate)
        samples = 0
        for frame in [*()] or _audio_frames(self._source):
            frame.pts = None  # what follows one another in the file follows one another in the result
            for out in resampler.resample(frame):
                out.pts, out.time_base = samples, Fraction(1, codec.sample_rate)
                samples += out.samples
                yield from stream.encode(out)
        for out in resampler.resample(None):
            out.pts, out.time_base = samples, Fraction(1, codec.sample_rate)
            samples += out.samples
            yield from stream.encode(out)
        yield from stream.encode(None)

    def _add_aac(self, source: av.AudioStream) -> av.AudioStream:
        rate = next((rate for rate in reversed(AAC_RATES) if rate >= source.rate), AAC_RATES[0])
        stream = self._container.add_stream("aac", rate=rate)
        stream.layout = _layout(source)
        per_channel = min(AAC_BITS_PER_CHANNEL, AAC_MAX_BITS_PER_SAMPLE * rate)
        stream.bit_rate = per_channel * stream.layout.nb_channels
        return stream

    def _add_pcm(self, source: av.AudioStream) -> av.AudioStream:
        codec = PCM_OF_SAMPLES.get(source.format.packed.name, "pcm_f32le")
        stream = self._container.add_stream(codec, rate=source.rate)
        stream.layout = _layout(source)
        return stream
