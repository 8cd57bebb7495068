"""What one client does is felt by no other: bad requests, held places, ids used twice, on a real server."""

import functools
import itertools
import json
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2

from ko_asr.client.offline import AsrClient
from ko_asr.client.streaming import StreamingClient
from ko_asr.runtime import tensors
from ko_asr.runtime.options import StreamOptions
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.serving.server import TritonServer

KINDS = {"float32": "FP32", "int32": "INT32", "int64": "INT64", "object": "BYTES"}
WHOLE = StreamOptions(endpointing=None)
OPTIONS = {
    "deep": b"[" * 60_000,
    "deep in an object": b'{"keywords": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "no UTF-8": b"\xff\xfe{}",
    "half a pair": b'{"keywords": ["\\ud800"]}',
    "NaN": b'{"endpointing": {"max_utterance_ms": NaN}}',
    "1e999": b'{"endpointing": {"max_utterance_ms": 1e999}}',
    "an integer of 5,000 digits": b'{"endpointing": {"max_utterance_ms": ' + b"9" * 5000 + b"}}",
    "a score that is no number": b'{"keywords": ["\xea\xb0\x80:nan"]}',
    "too many letters": json.dumps(
        {"keywords": [letter * 100 for letter in "가나다라마바사아자차카"]}
    ).encode(),
    "marks that never end": json.dumps({"keywords": ["\u0301\u0323" * 8000]}, ensure_ascii=False).encode(),
    "too long": b" " * 300_000,
    "nothing": b"",
}


@pytest.fixture(scope="module")
def repository(demo, streaming_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both ensembles."""
    copy = tmp_path_factory.mktemp("neighbours") / "triton"
    ignored = shutil.ignore_patterns("*_1", "__pycache__")
    for source in (demo.repository, streaming_repository):
        shutil.copytree(source, copy, ignore=ignored, dirs_exist_ok=True)
    return copy


@pytest.fixture(scope="module")
def server(demo, repository: Path) -> Iterator[TritonServer]:
    with TritonServer(repository, demo.server) as running:
        yield running


@pytest.fixture(scope="module")
def contract(repository: Path) -> StreamingContract:
    return StreamingContract.load(repository / "asr_streaming" / "1")


def infer(client: triton.InferenceServerClient, model: str, arrays: dict, **sequence: object) -> str:
    """The status of a request with ``arrays``, and its sentence."""
    inputs = []
    for name, array in arrays.items():
        inputs.append(triton.InferInput(name, list(array.shape), KINDS[str(array.dtype)]))
        inputs[-1].set_data_from_numpy(array)
    try:
        client.infer(model, inputs, client_timeout=30, **sequence)
    except triton.InferenceServerException as error:
        return f"{str(error.status()).rpartition('.')[2]}: {error.message()}"
    return "OK"


def new_id() -> int:
    return 1 + secrets.randbelow(2**63 - 1)


def text(value: bytes) -> np.ndarray:
    return np.array([[value]], np.object_)


def bad_options(first_samples: int) -> Iterator[tuple[str, str, dict]]:
    audio = {tensors.AUDIO: np.zeros((1, first_samples), np.float32)}
    for name, value in OPTIONS.items():
        options = {tensors.OPTIONS: text(value)}
        yield f"options: {name}", tensors.STREAM_ENSEMBLE, audio | options
        yield f"options of a file: {name}", tensors.ENSEMBLE, audio | options


def eightfold(best: np.ndarray) -> np.ndarray:
    """Frames [1, n] whose eight best tokens are one and the same."""
    return np.repeat(best[:, :, None], 8, axis=2)


def bad_frames() -> Iterator[tuple[str, str, dict]]:
    """Requests to the offline ensemble's inner models."""

    def frames(ids: list, scores: list, length: int) -> dict:
        return {
            tensors.TOKEN_IDS: eightfold(np.array([ids], np.int32)),
            tensors.TOKEN_LOG_PROBS: eightfold(np.array([scores], np.float32)),
            tensors.ENCODED_LENGTH: np.array([[length]], np.int64),
        }

    for name, arrays in {
        "ids beyond the vocabulary": frames([2**31 - 1] * 2, [-1.0] * 2, 2),
        "ids below it": frames([-7] * 2, [-1.0] * 2, 2),
        "NaN": frames([1] * 2, [np.nan] * 2, 2),
        "infinite": frames([1] * 2, [np.inf] * 2, 2),
        "rows that do not match": frames([1] * 2, [-1.0] * 5, 2),
        "longer than it is": frames([1] * 2, [-1.0] * 2, 2**62),
    }.items():
        yield f"frames: {name}", tensors.DECODER, arrays
    for name, value in {"NaN": np.nan, "infinite": np.inf}.items():
        features = np.full((1, 80, 40), value, np.float32)
        arrays = {tensors.FEATURES: features, tensors.LENGTH: np.array([[40]], np.int64)}
        yield f"features: {name}", tensors.ENCODER, arrays
    arrays = {tensors.FEATURES: features[:, :, :0], tensors.LENGTH: np.zeros((1, 1), np.int64)}
    yield "features of no frame", tensors.ENCODER, arrays
    yield "no audio", tensors.PREPROCESSOR, {tensors.AUDIO: np.zeros((1, 0), np.float32)}


def bad_chunks(contract: StreamingContract) -> Iterator[tuple[str, str, dict]]:
    """Requests to the streaming ensemble's inner models."""
    shape = (1, contract.chunk, contract.top_k)
    good = {
        tensors.TOKEN_IDS: np.ones(shape, np.int32),
        tensors.TOKEN_LOG_PROBS: np.full(shape, -1, np.float32),
        tensors.STREAM: np.array([[1, 1, contract.chunk]], np.int64),
        tensors.FAILURE: text(b""),
    }
    for name, changed in {
        "ids beyond the vocabulary": {tensors.TOKEN_IDS: np.full(shape, 2**31 - 1, np.int32)},
        "ids below it": {tensors.TOKEN_IDS: np.full(shape, -1, np.int32)},
        "NaN": {tensors.TOKEN_LOG_PROBS: np.full(shape, np.nan, np.float32)},
        "frames below 0": {tensors.STREAM: np.array([[1, 1, -(2**62)]], np.int64)},
        "frames beyond the chunk": {tensors.STREAM: np.array([[1, 1, 2**62]], np.int64)},
        "another chunk": {tensors.STREAM: np.array([[1, -(2**63), 0]], np.int64)},
        "an unknown failure": {tensors.FAILURE: text(b"BOGUS \xff")},
    }.items():
        yield f"chunk: {name}", tensors.STREAM_DECODER, good | changed
    window = np.zeros((1, contract.mels, contract.window_frames), np.float32)
    length = np.array([[contract.window_frames]], np.int64)
    yield "window: NaN", tensors.STREAM_ENCODER, {tensors.FEATURES: window + np.nan, tensors.LENGTH: length}
    audio = np.zeros((2, contract.first_samples), np.float32)
    yield "audio of two rows", tensors.STREAM_PREPROCESSOR, {tensors.AUDIO: audio}


def attack(url: str, contract: StreamingContract, over: Callable[[], bool]) -> dict[str, set[str]]:
    """What each kind of bad request was answered, sent again and again until ``over``; once at least."""
    heard: dict[str, set[str]] = {}
    kinds = [*bad_options(contract.first_samples), *bad_frames(), *bad_chunks(contract)]
    with triton.InferenceServerClient(url) as client:
        while not heard or not over():
            for name, model, arrays in kinds:
                sequence = {}
                if "streaming" in model:
                    sequence = {"sequence_id": new_id(), "sequence_start": True, "sequence_end": True}
                heard.setdefault(name, set()).add(infer(client, model, arrays, **sequence))
    return heard


def said(results: list) -> str:
    return " ".join(result.text for result in results if result.is_final)


def stream_text(client: StreamingClient, samples: np.ndarray) -> str:
    with client.open(WHOLE) as stream:
        return said([*stream.send(samples), *stream.finish()])


def test_a_bad_request_fails_alone(
    server: TritonServer, contract: StreamingContract, clips: list[np.ndarray]
) -> None:
    chosen = clips[:8]
    with StreamingClient(server.url, timeout=30) as streams, AsrClient(server.url) as files:
        streamed = [stream_text(streams, clip) for clip in chosen]
        transcribed = [files.transcribe(clip).text for clip in chosen]
        assert all(streamed) and all(transcribed)
        finished = threading.Event()
        with ThreadPoolExecutor(18) as pool:
            attackers = [pool.submit(attack, server.url, contract, finished.is_set) for _ in range(2)]
            for _ in range(3):
                again = pool.map(lambda clip: stream_text(streams, clip), chosen)
                files_again = pool.map(lambda clip: files.transcribe(clip).text, chosen)
                assert [*again] == streamed and [*files_again] == transcribed
            finished.set()
            heard = [attacker.result() for attacker in attackers]
    assert all("features is empty" in str(one["features of no frame"]) for one in heard)
    for name, answers in itertools.chain.from_iterable(one.items() for one in heard):
        for answer in answers:
            assert answer.startswith(("INVALID_ARGUMENT: ", "INTERNAL: ")), (name, answer)
            assert "Traceback" not in answer and "/" not in answer and len(answer) < 600, (name, answer)


# Breaks on requests of two frames, as a fault of our own would.
FAULT = """

def decode(self, ids, log_probs, keywords=(), sound=FileDecoder.__call__):
    if len(ids) == 2:
        raise RuntimeError("/a/secret/path")
    return sound(self, ids, log_probs, keywords)


FileDecoder.__call__ = decode
"""


def test_a_fault_of_the_server_is_one_sentence_and_a_traceback_in_its_log(demo, tmp_path: Path) -> None:
    repository = tmp_path / "triton"
    shutil.copytree(demo.repository, repository)
    with (repository / tensors.DECODER / "1" / "model.py").open("a", encoding="utf-8") as source:
        source.write(FAULT)
    with TritonServer(repository, demo.server) as server, triton.InferenceServerClient(server.url) as client:

        def decode(frames: int) -> str:
            scores, length = np.full((1, frames, 8), -1, np.float32), np.array([[frames]])
            arrays = {tensors.TOKEN_IDS: np.ones((1, frames, 8), np.int32), tensors.TOKEN_LOG_PROBS: scores}
            return infer(client, tensors.DECODER, arrays | {tensors.ENCODED_LENGTH: length})

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(decode, [2, 3] * 20))
        assert set(answers[1::2]) == {"OK"}
        assert len(set(answers[::2])) == 1 and answers[0].startswith("INTERNAL: something went wrong")
        assert "/" not in answers[0]
        assert "/a/secret/path" in server.log.read_text(encoding="utf-8")


def test_text_without_its_length_is_refused(server: TritonServer, contract: StreamingContract) -> None:
    """BYTES that end before they should, which no client library would send: Triton itself looks."""
    audio = np.zeros((1, contract.first_samples), np.float32)
    for raw in (b"\xff\xff\xff\xff{}", b"{}", b"", b"\x02\x00\x00\x00{}\x01"):
        request = service_pb2.ModelInferRequest(model_name=tensors.STREAM_ENSEMBLE)
        for name, kind, shape in (("audio", "FP32", audio.shape), ("options", "BYTES", (1, 1))):
            request.inputs.add(name=name, datatype=kind, shape=shape)
        request.raw_input_contents.extend([audio.tobytes(), raw])
        request.parameters["sequence_id"].int64_param = new_id()
        for flag in ("sequence_start", "sequence_end"):
            request.parameters[flag].bool_param = True
        with triton.InferenceServerClient(server.url) as client:
            with pytest.raises(Exception, match=r"INVALID_ARGUMENT|INTERNAL") as refused:
                client._client_stub.ModelInfer(request, timeout=30)
            assert "Traceback" not in str(refused.value)
            whole = {tensors.AUDIO: audio, tensors.OPTIONS: text(b"{}")}
            flags = {"sequence_start": True, "sequence_end": True}
            assert infer(client, tensors.STREAM_ENSEMBLE, whole, sequence_id=new_id(), **flags) == "OK"


def test_a_second_start_of_a_live_stream_is_refused_and_the_first_goes_on(
    server: TritonServer, clips: list[np.ndarray]
) -> None:
    with StreamingClient(server.url) as client:
        wanted = stream_text(client, clips[0])
        with client.open(WHOLE) as stream, triton.InferenceServerClient(server.url) as other:
            results = stream.send(clips[0][: len(clips[0]) // 2])
            audio = {tensors.AUDIO: np.zeros((1, client.sizes().first_samples), np.float32)}
            key = stream._exchange.protocol.sequence_id
            second = infer(other, tensors.STREAM_ENSEMBLE, audio, sequence_id=key, sequence_start=True)
            assert second.startswith("INVALID_ARGUMENT") and "draw ids at random" in second
            results += [*stream.send(clips[0][len(clips[0]) // 2 :]), *stream.finish()]
        assert said(results) == wanted


def test_an_end_under_the_id_of_a_live_stream_frees_its_place(
    server: TritonServer, clips: list[np.ndarray]
) -> None:
    """Triton ends the sequence before any model sees the request, so that the id can be had again at once."""
    with StreamingClient(server.url) as client, triton.InferenceServerClient(server.url) as other:
        audio = {tensors.AUDIO: np.zeros((1, client.sizes().first_samples), np.float32)}
        ask = functools.partial(infer, other, tensors.STREAM_ENSEMBLE, audio, sequence_id=new_id())
        assert ask(sequence_start=True) == "OK"
        assert "draw ids at random" in ask(sequence_start=True, sequence_end=True)
        assert ask(sequence_start=True, sequence_end=True) == "OK"


def test_a_start_is_answered_at_once_however_many_others_have_vanished(
    demo, repository: Path, contract: StreamingContract
) -> None:
    """As many streams as there are places, and 300 that were refused, all without a last word."""
    audio = {tensors.AUDIO: np.zeros((1, contract.first_samples), np.float32)}
    with TritonServer(repository, demo.server) as server, triton.InferenceServerClient(server.url) as client:
        config = client.get_model_config(tensors.STREAM_ENSEMBLE).config
        places = int(config.parameters["max_streams"].string_value)

        def start(_: int = 0) -> str:
            return infer(client, tensors.STREAM_ENSEMBLE, audio, sequence_id=new_id(), sequence_start=True)

        with ThreadPoolExecutor(16) as pool:
            assert set(pool.map(start, range(places))) == {"OK"}
            refusals = set(pool.map(start, range(300)))
        assert len(refusals) == 1 and f"all {places} streams of this server are taken" in refusals.pop()
        begun = time.monotonic()
        assert start().startswith("UNAVAILABLE") and time.monotonic() - begun < 1.0
