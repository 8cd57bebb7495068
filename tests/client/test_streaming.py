"""The client's side of streams: the rule of chunks, and both clients by their commands on a real server."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from ko_asr.client.protocol import ChunkSizes, StreamProtocol
from ko_asr.client.streaming import StreamingClient
from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError
from ko_asr.serving.server import TritonServer

ROOT = Path(__file__).resolve().parents[2]
SIZES = ChunkSizes(
    sample_rate=16_000, first_samples=4040, shift_samples=4480, end_samples=4159, max_streams=8
)


def answer(*results: tuple[str, bool, int, int]) -> dict[str, np.ndarray]:
    """A server's answer from (text, is_final, utterance, end of its only word in ms) of each result."""
    spoken = [
        json.dumps([{"text": text, "start_ms": end - 100, "end_ms": end, "confidence": 1.0}] if text else [])
        for text, _, _, end in results
    ]
    return {
        "text": np.array([[text.encode() for text, *_ in results]], np.object_),
        "is_final": np.array([[final for _, final, *_ in results]]),
        "words": np.array([[line.encode() for line in spoken]], np.object_),
        "utterance": np.array([[number for _, _, number, _ in results]]),
        "stable": np.array([[0 for _ in results]]),
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 20_000), max_size=12))
def test_packets_of_any_size_become_requests_that_a_server_takes(packets: list[int]) -> None:
    protocol, requests = StreamProtocol(SIZES), []

    def pump() -> None:
        while (request := protocol.request()) is not None:
            requests.append(request)
            protocol.answered(request, answer(("", False, 0, 0)))

    audio = np.arange(sum(packets), dtype=np.float32)
    for packet in np.split(audio, np.cumsum(packets)):
        protocol.feed(packet)
        pump()
    protocol.end()
    pump()
    assert protocol.done and not protocol.open_on_server
    total = 0
    for index, request in enumerate(requests):
        total += request.audio.shape[1]
        fresh = total - SIZES.shift_samples * index
        assert request.start == (index == 0) and request.end == (index == len(requests) - 1)
        assert request.position == total
        assert fresh <= SIZES.end_samples if request.end else fresh == SIZES.first_samples
    heard = np.concatenate([request.audio[0] for request in requests]) if requests else audio
    assert np.array_equal(heard, audio)
    assert len({request.sequence_id for request in requests}) <= 1


def test_a_resumed_stream_repeats_what_is_not_final_with_times_of_the_whole_stream() -> None:
    protocol = StreamProtocol(SIZES)
    audio = np.arange(10 * SIZES.shift_samples, dtype=np.float32)
    protocol.feed(audio)
    for index in range(5):
        request = protocol.request()
        results = (
            [("하나", True, 0, 600), ("둘", False, 1, 1100)] if index == 4 else [("하나", False, 0, 600)]
        )
        shown = protocol.answered(request, answer(*results))
        assert bool(shown) == (index in (0, 4))  # a repeated partial is shown once
    lost = protocol.request()
    protocol.resume()
    again = protocol.request()
    cut = round(16 * (600 + 1000) / 2)  # halfway between the final word and the next one
    assert again.start and again.sequence_id != lost.sequence_id and again.audio[0, 0] == cut
    (partial,) = protocol.answered(again, answer(("둘째", False, 0, 300)))
    assert (partial.utterance, partial.end_ms) == (1, 300 + cut / 16)


def test_a_stream_goes_on_in_the_chunks_of_another_server() -> None:
    others = replace(SIZES, first_samples=1480, shift_samples=1280, end_samples=1439)
    protocol = StreamProtocol(SIZES)
    audio = np.arange(4 * SIZES.shift_samples, dtype=np.float32)
    protocol.feed(audio)
    protocol.request()
    protocol.resume(others)
    protocol.end()
    heard = []
    while (request := protocol.request()) is not None:
        heard.append(request.audio[0])
        protocol.answered(request, answer(("말", False, 0, 600)))
    assert [len(part) for part in heard[:3]] == [1480, 1280, 1280] and len(heard[-1]) <= 1439
    assert np.array_equal(np.concatenate(heard), audio)


def test_an_utterance_too_long_to_keep_is_not_resumed_in_part() -> None:
    protocol = StreamProtocol(SIZES, keep_seconds=1.0)
    protocol.feed(np.zeros(20 * SIZES.shift_samples, np.float32))
    while (request := protocol.request()) is not None:
        protocol.answered(request, answer(("말", False, 0, 600)))
    with pytest.raises(UserError, match="longer than the 1 s"):
        protocol.resume()


@pytest.mark.parametrize("bad", [np.zeros(9, np.int16), np.zeros((2, 9), np.float32), np.full(9, np.nan)])
def test_samples_that_are_none_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(UserError, match="a packet"):
        StreamProtocol(SIZES).feed(bad)


@pytest.fixture(scope="module")
def url(demo, streaming_repository):
    with TritonServer(streaming_repository, demo.server) as server:
        yield server.url


@pytest.fixture(scope="module")
def spoken(demo) -> list[Path]:
    return [Path(e["audio_filepath"]) for e in list(read_manifest(demo.manifests["eval_clean"]))[:3]]


def run(script: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "recipes" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


def blocking_text(url: str, path: Path, model: str = "asr_streaming") -> str:
    with StreamingClient(url, model=model) as client, client.open() as stream:
        audio = soundfile.read(path, dtype="float32")[0]
        results = [*stream.send(audio[:777]), *stream.send(audio[777:]), *stream.finish()]
    return " ".join(result.text for result in results if result.is_final and result.text)


def test_files_at_once_as_json(url: str, spoken: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF and nothing else")
    done = run("stream_client.py", *spoken, bad, "--url", url, "--concurrency", 3, "--json")
    assert done.returncode == 1 and f"error: {bad} is no audio" in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for path in spoken:
        results = [line for line in lines if line["file"] == str(path)]
        finals = [line["text"] for line in results if line["is_final"] and line["text"]]
        assert " ".join(finals) == blocking_text(url, path)
        assert any(not line["is_final"] for line in results)


def test_partials_come_in_real_time_from_another_look_ahead(url: str, spoken: list[Path]) -> None:
    done = run("stream_client.py", spoken[0], "--url", url, "--realtime", "--model", "asr_streaming_1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.lstrip().startswith("...") for line in lines) > 2
    finals = [line for line in lines if not line.lstrip().startswith("...")]
    text = " ".join(line.split("  ")[-2].strip() for line in finals)
    assert text == blocking_text(url, spoken[0], "asr_streaming_1")
    assert "first partial" in done.stderr


def test_a_client_written_from_the_page_hears_the_same(url: str, spoken: list[Path], tmp_path: Path) -> None:
    script = ROOT / "recipes" / "minimal_stream_client.py"
    source = script.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 60 and "ko_asr" not in source
    wav = tmp_path / "speech.wav"
    soundfile.write(wav, soundfile.read(spoken[0], dtype="int16")[0], 16_000)
    done = run("minimal_stream_client.py", wav, url)
    finals = [line for line in done.stdout.splitlines() if line.startswith("final")]
    assert " ".join(finals).startswith(f"final   {blocking_text(url, wav)} {{"), done.stderr


def test_a_client_in_node_hears_the_same(url: str, spoken: list[Path], tmp_path: Path) -> None:
    source = ROOT / "recipes" / "node"
    assert len((source / "stream.mjs").read_text(encoding="utf-8").splitlines()) <= 60
    if not shutil.which("npm"):
        pytest.skip("no npm: the client in Node needs it")
    client, wav = tmp_path / "node", tmp_path / "speech.wav"
    shutil.copytree(source, client, ignore=shutil.ignore_patterns("node_modules", "package-lock.json"))
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(client)]
    installed = subprocess.run(install, capture_output=True, encoding="utf-8", check=False, timeout=300)
    if installed.returncode:
        pytest.skip(f"npm has no packages: {installed.stderr[-300:]}")
    for path in spoken:
        soundfile.write(wav, soundfile.read(path, dtype="int16")[0], 16_000)
        command = ["node", str(client / "stream.mjs"), str(wav), url]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=120)
        said = [
            line.removeprefix("final").strip() for line in done.stdout.splitlines() if "final" in line[:5]
        ]
        assert " ".join(filter(None, said)) == blocking_text(url, wav), done.stderr


def test_the_messages_of_the_node_client_are_those_of_triton() -> None:
    """Names, numbers and kinds, message by message."""
    from tritonclient.grpc import model_config_pb2, service_pb2

    kinds = {8: "bool", 3: "int64", 9: "string", 12: "bytes"}  # FieldDescriptor's types
    files = (service_pb2, model_config_pb2)
    known = {k: v for file in files for k, v in file.DESCRIPTOR.message_types_by_name.items()}
    source = (ROOT / "recipes" / "node" / "asr_streaming.proto").read_text(encoding="utf-8")
    opened: list = [None]
    fields = 0
    for line in map(str.strip, source.splitlines()):
        if begun := re.match(r"(message|oneof|service) (\w+) {", line):
            nested = opened[-1].nested_types_by_name if opened[-1] else known
            opened.append(nested[begun[2]] if begun[1] == "message" else opened[-1])
        elif line == "}":
            opened.pop()
        elif field := re.match(r"(?:repeated )?([\w<>, ]+) (\w+) = (\d+);", line):
            fields += 1
            real = opened[-1].fields_by_name[field[2]]
            assert real.number == int(field[3]), line
            if field[1] in kinds.values():
                assert kinds[real.type] == field[1], line
    assert fields > 15 and opened == [None]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "nix"), "NOT_FOUND"),
        (("--model", "asr_streaming_decoder"), "no streaming model of this project"),
        (("--url", "127.0.0.1:1"), "no server answers"),
        (("--keyword", "철수:9000"), "is not between"),
        (("--tls-root", "nothing.pem"), "no file nothing.pem"),
    ],
)
def test_what_cannot_work_is_one_sentence(url: str, spoken: list[Path], arguments: tuple, words: str) -> None:
    done = run("stream_client.py", spoken[0], *(() if "--url" in arguments else ("--url", url)), *arguments)
    assert done.returncode in (1, 2) and words in done.stderr and len(done.stderr.splitlines()) == 1
