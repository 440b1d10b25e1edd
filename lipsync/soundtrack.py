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
MIN_MP3_RATE = 16000  # Hz; MP4 has no place for slower MP3
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
        samples = 0
        for frame in _decoded(self._source):
            # Sound that follows on in the file follows on in the result, as in the waveform that drives the lips.
            frame.pts, frame.time_base = samples, Fraction(1, frame.sample_rate)
            samples += frame.samples
            yield from stream.encode(frame)
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


def _layout(source: av.AudioStream) -> str:
    """The source's channel layout, or stereo for what AAC and players do not know."""
    names = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
    return names.get(source.channels, "stereo")


def _contiguous_start(path: str) -> Fraction | None:
    """Time of the first audible sample in seconds; None if the packets have gaps, no times, or do not decode."""
    with av.open(path) as container:
        stream = container.streams.audio[0]
        if stream.codec.canonical_name == "mp3" and stream.rate < MIN_MP3_RATE:
            return None
        expected = None
        try:
            for packet in _demuxed(container):
                if packet.pts is None or not packet.duration:
                    return None
                if expected is not None and abs(packet.pts - expected) * packet.time_base > JITTER:
                    return None
                expected = packet.pts + packet.duration
        except av.error.FFmpegError:
            return None
    with av.open(path) as container:
        first = next(_decoded(container), None)
        return None if first is None or first.pts is None else first.pts * first.time_base


def _demuxed(container: av.container.InputContainer) -> Iterator[av.Packet]:
    """Packets of the first audio stream, without the empty one that ends it."""
    return (packet for packet in container.demux(container.streams.audio[0]) if packet.size)


def _decoded(container: av.container.InputContainer) -> Iterator[av.AudioFrame]:
    """Frames of the first audio stream, up to the end or to where the file is damaged."""
    try:
        yield from container.decode(container.streams.audio[0])
    except av.error.InvalidDataError:
        return
