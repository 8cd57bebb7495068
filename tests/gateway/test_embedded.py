"""The engine without Triton: its texts are those of the ensembles, files and streams."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from gateway_process import PYTHON, GatewayProcess
from onnx import TensorProto, helper

from ko_asr.client.connection import RequestRefused, ServerError, StreamsFull
from ko_asr.client.offline import AsrClient, Transcription
from ko_asr.client.streaming import AsyncStreamingClient
from ko_asr.errors import UserError
from ko_asr.gateway.engine.embedded.engine import EmbeddedEngine, load
from ko_asr.gateway.settings.engine import EMBEDDED, EngineSettings
from ko_asr.provenance import sha256
from ko_asr.runtime.options import StreamOptions
from ko_asr.runtime.results import Result

AT_ONCE = 16


def places(answer: Transcription) -> list[tuple[str, int, int]]:
    return [(word["text"], word["start_ms"], word["end_ms"]) for word in answer.words]


@asynccontextmanager
async def engine_of(repository: Path, **options: int) -> AsyncIterator[EmbeddedEngine]:
    engine = load(EngineSettings(EMBEDDED, repository=repository, **options), 60.0)()
    try:
        yield engine
    finally:
        await engine.close()


def test_files_have_the_answers_of_the_ensemble(
    both_models: Path, asr_server: str, clips: list[np.ndarray]
) -> None:
    def ensemble(part: list[np.ndarray]) -> list[Transcription]:
        with AsrClient(asr_server) as client:
            return [client.transcribe(clip, words=True) for clip in part]

    async def embedded() -> list[Transcription]:
        async with engine_of(both_models) as engine:
            return await asyncio.gather(*map(engine.transcribe, clips))

    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(ensemble, [clips[start : start + 50] for start in range(0, 200, 50)])
        wanted = list(chain.from_iterable(parts))
    found = asyncio.run(embedded())
    assert [answer.text for answer in found] == [answer.text for answer in wanted]
    assert list(map(places, found)) == list(map(places, wanted))
    assert [answer.confidence for answer in found] == pytest.approx([a.confidence for a in wanted], abs=1e-3)


async def heard(stream, audio: np.ndarray, packet: int) -> list[Result]:
    for start in range(0, len(audio), packet):
        await stream.send(audio[start : start + packet])
    await stream.finish()
    results = [result async for result in stream]
    await stream.close()
    return results


def test_streams_have_the_results_of_the_ensemble(
    both_models: Path, asr_server: str, clips: list[np.ndarray]
) -> None:
    pause = np.zeros(16_000, np.float32)
    audio = [np.concatenate([clips[n], pause, clips[n + 1]]) for n in range(0, 60, 2)]
    keywords = StreamOptions(keywords=("국수:3",))

    async def all_of(open_stream) -> list[list[Result]]:
        seats = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> list[Result]:
            async with seats:
                options = keywords if number % 5 == 4 else StreamOptions()
                return await heard(await open_stream(options), audio[number], 1000 + 500 * (number % 7))

        return await asyncio.gather(*map(one, range(len(audio))))

    async def run() -> None:
        async with AsyncStreamingClient(asr_server) as client:
            wanted = await all_of(client.open)
        async with engine_of(both_models) as engine:
            found = await all_of(engine.open_stream)
            assert engine.open_streams == 0
        for mine, theirs in zip(found, wanted, strict=True):
            assert [(r.text, r.is_final, r.utterance, r.stable) for r in mine] == [
                (r.text, r.is_final, r.utterance, r.stable) for r in theirs
            ]

    asyncio.run(run())


def test_places_options_and_samples_are_checked(both_models: Path, clips: list[np.ndarray]) -> None:
    async def run() -> None:
        async with engine_of(both_models, max_streams=2) as engine:
            streams = [await engine.open_stream(StreamOptions()) for _ in range(2)]
            with pytest.raises(StreamsFull):
                await engine.open_stream(StreamOptions())
            await streams[0].close()
            await streams[0].close()
            with pytest.raises(RequestRefused, match="no token"):
                await engine.open_stream(StreamOptions(keywords=("🎉",)))
            await engine.open_stream(StreamOptions())
            with pytest.raises(UserError, match="NaN"):
                await streams[1].send(np.full(100, np.nan, np.float32))
            with pytest.raises(RequestRefused, match="the least is"):
                await engine.transcribe(np.zeros(10, np.float32))
            assert await heard(streams[1], clips[0], 4000)

    asyncio.run(run())


def test_a_sender_waits_while_the_model_is_behind(both_models: Path) -> None:
    async def run() -> None:
        async with engine_of(both_models) as engine:
            stream = await engine.open_stream(StreamOptions())
            minute = np.zeros(60 * 16_000, np.float32)
            await stream.send(minute)  # returns when all but five seconds of it are computed
            assert stream._sent - stream._computed <= 5 * 16_000
            await stream.close()

    asyncio.run(run())


def test_a_model_that_fails_ends_its_streams_and_goes_on(both_models: Path, clips: list[np.ndarray]) -> None:
    async def run() -> None:
        async with engine_of(both_models, threads=1) as engine:
            recognizer = engine._streams._steppers[0]._recognizer
            step, recognizer.step = recognizer.step, lambda: 1 / 0
            stream = await engine.open_stream(StreamOptions())
            with pytest.raises(ServerError, match="INTERNAL"):
                await heard(stream, clips[0], 1600)
            assert engine.open_streams == 0
            recognizer.step = step
            assert await heard(await engine.open_stream(StreamOptions()), clips[0], 1600)

    asyncio.run(run())


@pytest.fixture(scope="module")
def embedded(both_models: Path, tmp_path_factory) -> GatewayProcess:
    folder = tmp_path_factory.mktemp("embedded") / "g"
    arguments = ("--engine", "embedded", "--repository", str(both_models))
    with GatewayProcess(None, folder, *arguments) as gateway:
        yield gateway


def test_the_front_door_is_the_same(
    embedded: GatewayProcess, gateway: GatewayProcess, files: list[Path]
) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(embedded.text, files)) == list(pool.map(gateway.text, files))
    assert httpx.get(f"{embedded.url}/health/ready").status_code == 200


def test_the_written_form_is_the_same(
    embedded: GatewayProcess, gateway: GatewayProcess, files: list[Path]
) -> None:
    form = {"model": "asr", "response_format": "verbose_json", "written": '{"punctuation": true}'}
    form["timestamp_granularities[]"] = "word"
    for file in files[:3]:
        one, other = (
            running.post(data=form, files={"file": file.read_bytes()}).json()
            for running in (embedded, gateway)
        )
        assert one["written"] == other["written"] and one["written_words"] == other["written_words"]
        assert one["written"] != one["text"]


def test_neither_torch_nor_triton_is_loaded(embedded: GatewayProcess) -> None:
    maps = Path(f"/proc/{embedded.process.pid}/maps").read_text(encoding="utf-8")
    assert "onnxruntime" in maps and "torch" not in maps


@pytest.mark.parametrize(
    ("spoiled", "content", "sentence"),
    [
        ("asr_encoder/1/contract.json", None, "fill the repository"),
        ("asr_encoder/1/model.onnx", "nothing", "not the graph that its contract describes"),
        ("asr_streaming_preprocessor/1/streaming_contract.json", "nothing", "is not JSON"),
        ("asr_preprocessor/1/contract.json", '"export_id": "another"', "of export another"),
        ("asr_encoder/1/contract.json", '"front_end": "graph"', "front_end=graph"),
    ],
)
def test_an_unfit_repository_is_one_sentence(
    both_models: Path, tmp_path: Path, spoiled: str, content: str | None, sentence: str
) -> None:
    shutil.copytree(both_models, tmp_path / "triton", copy_function=os.link)
    file = tmp_path / "triton" / spoiled
    text = file.read_text(encoding="utf-8", errors="replace")
    file.unlink()
    if content is not None:
        field = content.partition(":")[0]
        changed = re.sub(f'{field}: "[^"]*"', content, text, count=1) if ":" in content else content
        file.write_text(changed, encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        load(EngineSettings(EMBEDDED, repository=tmp_path / "triton"), 60.0)


def test_an_export_that_gives_one_token_a_frame(both_models: Path, tmp_path: Path) -> None:
    """As exports did before there were keywords for files."""
    folder = tmp_path / "triton/asr_encoder/1"
    model, contract = folder / "model.onnx", folder / "contract.json"
    shutil.copytree(both_models, tmp_path / "triton", copy_function=os.link)
    ends = [helper.make_tensor_value_info(name, TensorProto.INT32, ["B", "T"]) for name in ("in", "best")]
    graph = helper.make_graph([helper.make_node("Identity", ["in"], ["best"])], "old", ends[:1], ends[1:])
    described = json.loads(contract.read_text(encoding="utf-8"))
    model.unlink()
    contract.unlink()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    contract.write_text(json.dumps({**described, "onnx_sha256": sha256(model)}), encoding="utf-8")
    with pytest.raises(UserError, match="one token a frame, as older exports do: export the model again"):
        load(EngineSettings(EMBEDDED, repository=tmp_path / "triton"), 60.0)


def test_without_onnx_runtime_it_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import runpy, sys; sys.modules['onnxruntime'] = None; "
        f"sys.argv[1:] = ['--engine', 'embedded', '--data', '{tmp_path}']; "
        "runpy.run_module('ko_asr.gateway', run_name='__main__')"
    )
    done = subprocess.run(
        [PYTHON, "-c", code], capture_output=True, encoding="utf-8", timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == 2 and done.stderr.splitlines() == [
        "error: --engine embedded needs ONNX Runtime: install it with make setup-embedded"
    ]
