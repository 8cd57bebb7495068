"""front_end=graph on a real tritonserver: log-mel as a graph changes nothing that a client sees."""

import json
import queue
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from ko_asr.client.connection import ServerError
from ko_asr.client.offline import AsrClient
from ko_asr.errors import UserError
from ko_asr.recognition.streaming import StreamingRecognizer
from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.serving.offline import retire_models
from ko_asr.serving.server import TritonServer, is_alive
from ko_asr.serving.staging import publish
from ko_asr.serving.streaming import retire_streams

Clips = list[np.ndarray]


@pytest.fixture(scope="module")
def server(demo, graph_repository: Path, tmp_path_factory) -> Iterator[TritonServer]:
    """The exported repository, with two sessions of the streaming log-mel that could overtake each other."""
    copy = tmp_path_factory.mktemp("served") / "triton"
    shutil.copytree(graph_repository, copy)
    config = copy / tensors.STREAM_LOG_MEL / "config.pbtxt"
    text = config.read_text(encoding="utf-8")
    assert "count: 1" in text
    config.write_text(text.replace("count: 1", "count: 2"), encoding="utf-8")
    with TritonServer(copy, demo.server) as running:
        yield running


def answers(url: str, audio: Clips, concurrency: int = 12) -> list[tuple[str, str]]:
    """Text of each, or the error's code and sentence."""

    def one(samples: np.ndarray) -> tuple[str, str]:
        with AsrClient(url) as client:
            try:
                return "text", client.transcribe(samples).text
            except ServerError as error:
                return error.code, str(error)

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(one, audio))


def test_texts_and_errors_are_those_of_the_numpy_front_end(demo, server: TritonServer, clips: Clips) -> None:
    bad = [
        np.zeros(0, np.float32),
        np.zeros(399, np.float32),
        np.full(16_000, np.nan, np.float32),
        np.tile(np.array([3e38, -3e38], np.float32), 8_000),
        np.zeros(16_000 * 61, np.float32),
    ]
    mixed = [audio for pair in zip(clips[:20], bad * 4, strict=True) for audio in pair]
    got = answers(server.url, mixed)
    assert got == answers(demo.url, mixed)
    assert [code for code, _ in got] == ["text", "INVALID_ARGUMENT"] * 20
    assert sum(len(text) for code, text in got if code == "text") > 100  # it did say something


def test_rows_of_one_request_and_the_log_mel_between(server: TritonServer, clips: Clips) -> None:
    rows = np.stack([clip[:16_000] for clip in clips if len(clip) >= 16_000][:3])
    tensor = triton.InferInput(tensors.AUDIO, list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    with triton.InferenceServerClient(server.url) as client:
        texts = client.infer(tensors.ENSEMBLE, [tensor]).as_numpy(tensors.TEXT)
        padded = client.infer(tensors.PREPROCESSOR, [tensor]).as_numpy(tensors.PADDED_AUDIO)
    assert [("text", text.decode()) for text in texts[:, 0]] == answers(server.url, list(rows))
    contract = Contract.load(server_folder(server) / tensors.LOG_MEL / "1")
    assert padded.shape == (3, contract.padded_samples(contract.bucket(100)))


def server_folder(server: TritonServer) -> Path:
    return Path(server.repository)


def pipelined(url: str, contract: StreamingContract, clips: Clips) -> list[str]:
    """The text of each clip, all streamed side by side without waiting for any answer."""
    replies: queue.Queue = queue.Queue()
    requests = [list(chunks(contract, clip)) for clip in clips]
    with triton.InferenceServerClient(url) as client:
        client.start_stream(lambda result, error: replies.put((result, error)))
        for index in range(max(map(len, requests))):
            for row, parts in enumerate(requests):
                if index < len(parts):
                    tensor = triton.InferInput(tensors.AUDIO, [1, len(parts[index])], "FP32")
                    tensor.set_data_from_numpy(parts[index][None])
                    place = {"sequence_start": index == 0, "sequence_end": index == len(parts) - 1}
                    client.async_stream_infer(
                        tensors.STREAM_ENSEMBLE, [tensor], request_id=str(row), sequence_id=row + 1, **place
                    )
        said = [""] * len(clips)
        for _ in range(sum(map(len, requests))):
            result, error = replies.get(timeout=60)
            assert error is None, error
            text = result.as_numpy(tensors.TEXT)[0, -1].decode()
            said[int(result.get_response().id)] = text
    return said


def chunks(contract: StreamingContract, clip: np.ndarray) -> Iterator[np.ndarray]:
    """The clip as requests bring it, the last as short as it can be."""
    start = index = 0
    while len(clip) - contract.shift_samples * index > contract.end_samples:
        end = min(len(clip), contract.chunk_samples(index))
        yield clip[start:end]
        start, index = end, index + 1
    yield clip[start:]


@pytest.fixture(scope="module")
def engine(streaming_repository: Path, tmp_path_factory) -> StreamingRecognizer:
    """The model of look-ahead 1 with the numpy front end, in this process."""
    folder = tmp_path_factory.mktemp("engine")
    for step in (tensors.STREAM_PREPROCESSOR, tensors.STREAM_ENCODER):
        shutil.copytree(streaming_repository / f"{step}_1" / "1", folder, dirs_exist_ok=True)
    return StreamingRecognizer.load(folder, time_to_live=None)


def test_streams_say_what_the_engine_says_and_stay_in_order(
    server: TritonServer, engine: StreamingRecognizer, clips: Clips
) -> None:
    some = [*clips[:14], clips[0][:100], np.zeros(0, np.float32)]
    wanted = []
    for clip in some:
        with engine.open() as session:
            results = [*session.push(clip), *session.flush()]
        wanted.append(results[-1].text if results else "")
    contract = StreamingContract.load(server_folder(server) / tensors.STREAM_ENCODER / "1")
    assert pipelined(server.url, contract, some) == wanted
    assert sum(map(len, wanted)) > 100


def test_bad_chunks_are_refused_alone(server: TritonServer) -> None:
    contract = StreamingContract.load(server_folder(server) / tensors.STREAM_ENCODER / "1")
    with triton.InferenceServerClient(server.url) as client:
        for sequence, (value, sentence) in enumerate(((np.nan, "NaN or infinity"), (2e9, "far outside"))):
            audio = np.full((1, contract.first_samples), value, np.float32)
            tensor = triton.InferInput(tensors.AUDIO, list(audio.shape), "FP32")
            tensor.set_data_from_numpy(audio)
            with pytest.raises(triton.InferenceServerException, match=sentence) as caught:
                client.infer(
                    tensors.STREAM_ENSEMBLE,
                    [tensor],
                    sequence_id=900 + sequence,
                    sequence_start=True,
                    sequence_end=True,
                )
            assert str(caught.value.status()) == "StatusCode.INVALID_ARGUMENT"
    assert is_alive(server.url, server_folder(server))


def test_the_contracts_say_which_and_what_was_measured(graph_repository: Path) -> None:
    contract = Contract.load(graph_repository / tensors.LOG_MEL / "1")
    stream = StreamingContract.load(graph_repository / tensors.STREAM_LOG_MEL / "1")
    for either in (contract, stream):
        measured = [value for name, value in either.parity.items() if name.startswith("log-mel graph")]
        assert either.front_end == "graph" and len(measured) >= 3 and max(measured) <= 1e-3
    assert {Contract.load(graph_repository / model / "1").export_id for model in contract.models} == {
        contract.export_id
    }
    for folder in (tensors.PREPROCESSOR, tensors.STREAM_PREPROCESSOR):
        assert not (graph_repository / folder / "1" / file_names.LOG_MEL).exists()


def test_a_log_mel_graph_of_another_export_is_refused(demo, graph_repository: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "triton"
    shutil.copytree(graph_repository, mixed)
    for model, file in (
        (tensors.LOG_MEL, file_names.CONTRACT),
        (tensors.STREAM_LOG_MEL, file_names.STREAM_CONTRACT),
    ):
        path = mixed / model / "1" / file
        other = json.loads(path.read_text(encoding="utf-8")) | {"export_id": "another"}
        path.write_text(json.dumps(other), encoding="utf-8")
    server = TritonServer(mixed, demo.server)
    with pytest.raises(UserError, match="fill the repository again"), server:
        pass
    log = server.log.read_text(encoding="utf-8")
    assert all(f"{model} is of export another" in log for model in (tensors.LOG_MEL, tensors.STREAM_LOG_MEL))


def test_a_numpy_export_takes_the_graphs_away(
    demo, graph_repository: Path, streaming_repository: Path, tmp_path: Path
) -> None:
    repository, stage = tmp_path / "triton", tmp_path / "stage"
    shutil.copytree(graph_repository, repository)
    shutil.copytree(demo.repository, stage, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(streaming_repository, stage, dirs_exist_ok=True)
    contract = Contract.load(stage / tensors.ENCODER / "1")
    written = [folder.name for folder in streaming_repository.iterdir()]
    publish(stage, repository, [*contract.models, *written])
    retire_models(stage, repository, contract)
    retire_streams(stage, repository, written)
    assert sorted(p.name for p in repository.iterdir()) == sorted([*contract.models, *written])


@pytest.mark.parametrize("kind", ["offline", "streaming"])
def test_the_gate_refuses_a_graph_that_differs(
    demo, graph_repository: Path, kind: str, tmp_path: Path
) -> None:
    """Another pre-emphasis: too little to be heard, more than the limit."""
    from dataclasses import replace

    from ko_asr.export.log_mel import export_offline_log_mel, export_streaming_log_mel
    from ko_asr.export.offline.parity import check_log_mel_graph
    from ko_asr.export.streaming.parity import check_streaming_log_mel
    from ko_asr.models.nemo_file import load_exportable_model
    from ko_asr.runtime.log_mel import LogMel

    log_mel = LogMel.load(demo.repository / tensors.PREPROCESSOR / "1" / file_names.LOG_MEL)
    path = tmp_path / file_names.LOG_MEL_GRAPH
    if kind == "offline":
        export_offline_log_mel(replace(log_mel, preemphasis=0.96), path)
        figures = check_log_mel_graph(load_exportable_model(demo.model), log_mel.hop, path)
    else:
        log_mel = replace(log_mel, normalize="NA")
        contract = StreamingContract.load(graph_repository / tensors.STREAM_ENCODER / "1")
        export_streaming_log_mel(replace(log_mel, preemphasis=0.96), contract, path)
        figures = check_streaming_log_mel(log_mel, contract, path)
    assert not all(figure.passed for figure in figures)
