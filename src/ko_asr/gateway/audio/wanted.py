"""How a request wants its audio read: all channels mixed or each for itself; samples without a header."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ko_asr.gateway.errors import ApiError

if TYPE_CHECKING:
    from ko_asr.gateway.audio.upload import Form

MIX, SEPARATE = "mix", "separate"
MOST_CHANNELS = 8  # that are told apart
ENCODINGS = {"LINEAR16": "PCM_16", "MULAW": "ULAW", "ALAW": "ALAW"}  # to libsndfile's names


@dataclass(frozen=True)
class Headerless:
    """Samples without a header: ``subtype`` by libsndfile, ``rate`` in Hz, channels interleaved."""

    subtype: str
    rate: int
    channels: int = 1


@dataclass(frozen=True)
class Wanted:
    """The fields ``channels``, and ``encoding``, ``sample_rate``, ``channel_count`` of a request."""

    separate: bool = False
    headerless: Headerless | None = None


def read_wanted(form: "Form") -> Wanted:
    """Check the fields of ``form``. ApiError names the one that is wrong."""
    channels = form.one("channels") or MIX
    if channels not in (MIX, SEPARATE):
        raise _wrong("channels", channels, f"it must be {MIX} or {SEPARATE}")
    return Wanted(channels == SEPARATE, _headerless(form))


def _headerless(form: "Form") -> Headerless | None:
    encoding = form.one("encoding")
    if not encoding:
        return None
    if encoding not in ENCODINGS:
        how = f"of samples without a header {', '.join(ENCODINGS)} are read; other files need no encoding"
        raise _wrong("encoding", encoding, how)
    rate = _number(form, "sample_rate", 4_000, 384_000, "")
    return Headerless(ENCODINGS[encoding], rate, _number(form, "channel_count", 1, MOST_CHANNELS, "1"))


def _number(form: "Form", param: str, least: int, most: int, default: str) -> int:
    given = form.one(param) or default
    if not given:
        raise ApiError(400, f"{param} is missing: with encoding it must be given", param=param)
    if not (given.isascii() and given.isdigit() and least <= int(given[:9]) <= most):
        raise _wrong(param, given, f"with encoding it must be a number from {least} to {most}")
    return int(given)


def _wrong(param: str, given: str, rule: str) -> ApiError:
    return ApiError(400, f"{param} is {given[:60]!r}: {rule}", param=param)
