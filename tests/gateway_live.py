"""Live speech for tests of the gateway: audio as clients send it, and the texts that gRPC gives for it."""

import asyncio
import base64
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import soxr
import websockets
from openai.resources.realtime.realtime import RealtimeConnection
from openai.types.realtime import RealtimeServerEvent

from ko_asr.audio.read import read_audio
from ko_asr.client.streaming import StreamingClient
from ko_asr.runtime.endpoint import EndpointRules
from ko_asr.runtime.options import StreamOptions

TRANSCRIPTION = "conversation.item.input_audio_transcription"
PACKET = 9601  # bytes: half a sample is left of each
_PAUSE = np.zeros(16_000, np.float32)


def conversation(files: Sequence[Path]) -> np.ndarray:
    """Utterances with a second of silence after each, float32 at 16 kHz."""
    return np.concatenate([part for file in files for part in (read_audio(file), _PAUSE)])


def linear16(audio: np.ndarray, rate: int) -> bytes:
    """Float32 at 16 kHz as 16-bit samples at ``rate`` Hz."""
    there = audio if rate == 16_000 else soxr.resample(audio, 16_000, rate)
    return (np.clip(there, -1, 1) * 32767).astype("<i2").tobytes()


def heard(pcm: bytes, rate: int) -> np.ndarray:
    """Float32 at 16 kHz of 16-bit samples at ``rate`` Hz."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
    return samples if rate == 16_000 else soxr.resample(samples, rate, 16_000)


def grpc_finals(
    url: str, audio: np.ndarray, rules: EndpointRules | None, keywords: Sequence[str] = ()
) -> list[str]:
    """The utterances that the gRPC client hears."""
    with StreamingClient(url) as client, client.open(StreamOptions(rules, tuple(keywords))) as stream:
        results = stream.send(audio) + stream.finish()
    return [result.text for result in results if result.is_final and result.text]


def packets(data: bytes, size: int = PACKET) -> Iterator[bytes]:
    """``data`` in packets of ``size`` bytes."""
    return (data[at : at + size] for at in range(0, len(data), size))


def configure(connection: RealtimeConnection, **values) -> RealtimeServerEvent:
    """Set values of ``audio.input``; the answer."""
    connection.session.update(session={"type": "transcription", "audio": {"input": values}})
    while (event := connection.recv()).type not in ("session.updated", "error"):
        pass
    return event


def append(connection: RealtimeConnection, data: bytes, size: int = PACKET) -> None:
    """Send audio in packets."""
    for packet in packets(data, size):
        connection.input_audio_buffer.append(audio=base64.b64encode(packet).decode())


def events_until(connection: RealtimeConnection, kind: str, count: int = 1) -> list[RealtimeServerEvent]:
    """The next events, up to the ``count``-th of ``kind``."""
    events: list[RealtimeServerEvent] = []
    while sum(event.type == kind for event in events) < count:
        events.append(connection.recv())
        assert events[-1].type != "error" or kind == "error", events[-1]
    return events


def rtzr_address(url: str, **query: object) -> str:
    """The address of RTZR's streaming at a gateway."""
    given = "&".join(f"{name}={value}" for name, value in query.items())
    return f"{url.replace('http', 'ws', 1)}/rtzr/v1/transcribe:streaming?{given}"


async def rtzr(
    address: str, frames: Sequence[bytes | str], headers: dict[str, str] | None = None
) -> tuple[list[dict], int, str]:
    """Send ``frames`` to RTZR's streaming; the answers, and how the socket was closed."""
    # Without pings: their answers wait behind the audio that was sent ahead.
    async with websockets.connect(address, additional_headers=headers, ping_interval=None) as socket:

        async def speak() -> None:
            for frame in frames:
                await socket.send(frame)

        speaking = asyncio.create_task(speak())
        answers = [json.loads(message) async for message in _messages(socket)]
        await asyncio.gather(speaking, return_exceptions=True)
        assert socket.close_code is not None
        return answers, socket.close_code, socket.close_reason or ""


async def _messages(socket: websockets.ClientConnection):
    try:
        while True:
            yield await socket.recv()
    except websockets.ConnectionClosed:
        return


def finals(answers: Sequence[dict]) -> list[str]:
    """The texts of RTZR's final answers."""
    return [answer["alternatives"][0]["text"] for answer in answers if answer["final"]]


def wait_for_figure(url: str, name: str, value: float) -> None:
    """Until a gauge of the gateway at ``url`` has ``value``."""
    deadline = time.monotonic() + 30
    while f"ko_asr_gateway_{name} {value}\n" not in (page := httpx.get(f"{url}/metrics").text):
        assert time.monotonic() < deadline, [line for line in page.splitlines() if name in line]
        time.sleep(0.05)
