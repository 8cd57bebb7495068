"""The encodings in which live speech may come, by RTZR's names."""

from typing import Protocol

from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.live.compressed import DEMUXERS, FfmpegDecoder
from ko_asr.gateway.live.samples import SampleDecoder, Sink, alaw, linear16, mulaw

LINEAR16, MULAW, ALAW = "LINEAR16", "MULAW", "ALAW"
_RAW = {LINEAR16: (linear16, 2), MULAW: (mulaw, 1), ALAW: (alaw, 1)}
ENCODINGS = (*_RAW, *DEMUXERS)


class StreamDecoder(Protocol):
    """Encoded bytes in; samples go to the sink that it was made with. ApiError where they cannot be used."""

    async def write(self, data: bytes) -> None:
        """Decode bytes of any number; waits while the sink is behind."""

    async def flush(self) -> None:
        """Give the sink what was written so far."""

    async def end(self) -> None:
        """End the audio: give the sink all of it."""

    async def close(self) -> None:
        """Free what is held. Closing twice is allowed."""


def make_decoder(encoding: str, rate: int, sink: Sink, ffmpeg: str | None) -> StreamDecoder:
    """A decoder of one of `ENCODINGS`; ``rate`` in Hz is that of raw samples, others tell their own.

    ApiError for one that needs ``ffmpeg``, the command, where there is none.
    """
    if encoding in _RAW:
        read, width = _RAW[encoding]
        return SampleDecoder(read, width, rate, sink)
    if ffmpeg is None:
        raw = ", ".join(_RAW)
        raise ApiError(
            400, f"{encoding} needs an ffmpeg, which this gateway lacks: send {raw}", param="encoding"
        )
    return FfmpegDecoder(ffmpeg, encoding, sink)
