"""The served model, through gRPC on a real tritonserver, against NeMo."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from commands import run, sentence

from ko_asr.audio.read import read_audio
from ko_asr.client.connection import ServerError
from ko_asr.client.offline import AsrClient, Transcription
from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError
from ko_asr.evaluation.metrics import score
from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.contract import Contract
from ko_asr.serving.server import TritonServer, free_ports, is_alive

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(sys.executable).parent / "tritonserver"


def utterances(demo) -> dict[str, np.ndarray]:
    """Every eval utterance: file -> samples."""
    audio = {}
    for split in ("eval_clean", "eval_other"):
        for entry in read_manifest(demo.manifests[split]):
            audio[entry["audio_filepath"]] = read_audio(entry["audio_filepath"])
    return audio


def served(url: str, audio: list[np.ndarray], concurrency: int) -> list[str]:
    def one(samples: np.ndarray) -> str:
        with AsrClient(url) as client:
            return client.transcribe(samples).text

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(one, audio))


def counters(demo, model: str) -> tuple[int, int]:
    """Inferences and executions of ``model`` so far."""
    page = urllib.request.urlopen(demo.metrics_url).read().decode()
    values = []
    for metric in ("nv_inference_count", "nv_inference_exec_count"):
        line = next(line for line in page.splitlines() if line.startswith(f'{metric}{{model="{model}"'))
        values.append(int(float(line.rpartition(" ")[2])))
    return values[0], values[1]


def settled(demo, model: str) -> tuple[int, int]:
    """`counters` once they stand still: Triton counts a request shortly after answering it."""
    previous, current = None, counters(demo, model)
    while previous != current:
        time.sleep(0.3)
        previous, current = current, counters(demo, model)
    return current


@pytest.fixture(scope="module")
def nemo(demo):
    from ko_asr.models.nemo_file import load_exportable_model

    return load_exportable_model(demo.model)


def test_served_text_is_nemos_on_every_eval_utterance(demo, nemo) -> None:
    import torch

    audio = utterances(demo)
    texts = served(demo.url, list(audio.values()), concurrency=8)
    for (path, samples), text in zip(audio.items(), texts, strict=True):
        with torch.inference_mode():
            log_probs, lengths, _ = nemo(
                input_signal=torch.from_numpy(samples)[None], input_signal_length=torch.tensor([len(samples)])
            )
        wanted = nemo.decoding.ctc_decoder_predictions_tensor(log_probs, decoder_lengths=lengths)[0].text
        assert text == wanted, path


def test_served_logits_are_nemos(demo, nemo) -> None:
    import torch

    worst = 0.0
    with triton.InferenceServerClient(demo.url) as client:
        for samples in list(utterances(demo).values())[:20]:
            tensor = triton.InferInput(tensors.AUDIO, [1, len(samples)], "FP32")
            tensor.set_data_from_numpy(samples[None])
            features = client.infer(tensors.PREPROCESSOR, [tensor])
            inputs = []
            for name, kind in ((tensors.FEATURES, "FP32"), (tensors.LENGTH, "INT64")):
                array = features.as_numpy(name)
                inputs.append(triton.InferInput(name, list(array.shape), kind))
                inputs[-1].set_data_from_numpy(array)
            wanted_outputs = [triton.InferRequestedOutput(tensors.LOG_PROBS)]
            got = client.infer(tensors.ENCODER, inputs, outputs=wanted_outputs).as_numpy(tensors.LOG_PROBS)[0]
            with torch.inference_mode():
                wanted, lengths, _ = nemo(
                    input_signal=torch.from_numpy(samples)[None],
                    input_signal_length=torch.tensor([len(samples)]),
                )
            count = int(lengths[0])
            worst = max(worst, float(np.abs(got[:count] - wanted[0, :count].numpy()).max()))
    print(f"largest difference of served log-probabilities: {worst:.1e}")
    assert worst < 1e-3


def test_batches_form_across_lengths_and_change_no_text(demo) -> None:
    generator = np.random.default_rng(0)
    audio = [
        (0.1 * generator.standard_normal(samples)).astype(np.float32)
        for samples in generator.integers(8_000, 40_000, 64)
    ]
    before = {
        model: settled(demo, model) for model in (tensors.PREPROCESSOR, tensors.ENCODER, tensors.DECODER)
    }
    together = served(demo.url, audio, concurrency=16)
    for model, (count, executions) in before.items():
        now, ran = settled(demo, model)
        assert now - count == 64
        if model != tensors.DECODER:  # too quick for a queue to build up every time
            assert ran - executions < 64, f"{model} never formed a batch"
    assert served(demo.url, audio, concurrency=1) == together


def test_rows_of_one_request_are_answered_row_by_row(demo) -> None:
    rows = np.stack([samples[:16_000] for samples in utterances(demo).values() if len(samples) >= 16_000][:3])
    tensor = triton.InferInput(tensors.AUDIO, list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    with triton.InferenceServerClient(demo.url) as client:
        texts = client.infer(tensors.ENSEMBLE, [tensor]).as_numpy(tensors.TEXT)
    assert [text.decode() for text in texts[:, 0]] == served(demo.url, list(rows), concurrency=1)


def test_words_have_the_text_and_times_in_order_and_only_when_asked_for(demo) -> None:
    with triton.InferenceServerClient(demo.url) as client:
        for samples in list(utterances(demo).values())[:12]:
            tensor = triton.InferInput(tensors.AUDIO, [1, len(samples)], "FP32")
            tensor.set_data_from_numpy(samples[None])
            answer = client.infer(tensors.ENSEMBLE, [tensor])
            words = json.loads(answer.as_numpy(tensors.WORDS)[0, 0])
            assert [word["text"] for word in words] == answer.as_numpy(tensors.TEXT)[0, 0].decode().split()
            times = [time for word in words for time in (word["start_ms"], word["end_ms"])]
            assert times == sorted(times) and times[0] >= 0 and times[-1] <= len(samples) / 16 + 80
            assert all(0 < word["confidence"] <= 1 for word in words)
        only = client.infer(tensors.ENSEMBLE, [tensor], outputs=[triton.InferRequestedOutput(tensors.TEXT)])
    assert [output.name for output in only.get_response().outputs] == [tensors.TEXT]


def asked(client: triton.InferenceServerClient, rows: np.ndarray, options: list[str]) -> list[str]:
    """The texts of ``rows`` with options of their own."""
    inputs = [triton.InferInput(tensors.AUDIO, list(rows.shape), "FP32")]
    inputs[0].set_data_from_numpy(rows)
    inputs.append(triton.InferInput(tensors.OPTIONS, [len(rows), 1], "BYTES"))
    inputs[1].set_data_from_numpy(np.array([[one.encode()] for one in options], np.object_))
    found = client.infer(tensors.ENSEMBLE, inputs).as_numpy(tensors.TEXT)
    return [text.decode() for text in found[:, 0]]


def test_keywords_are_heard_by_the_requests_that_bring_them(demo) -> None:
    """Beside requests without, in batches; the reference's own words are the keywords."""
    entries = list(read_manifest(demo.manifests["eval_other"]))[:48]
    audio = [read_audio(entry["audio_filepath"]) for entry in entries]
    wanted = [tuple(f"{word}:3" for word in dict.fromkeys(entry["text"].split())) for entry in entries]
    plain = served(demo.url, audio, 1)

    def one(number: int) -> Transcription:
        with AsrClient(demo.url) as client:
            keywords = wanted[number // 2] if number % 2 else ()
            return client.transcribe(audio[number // 2], words=True, keywords=keywords)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, range(2 * len(audio))))
    assert [answer.text for answer in answers[::2]] == plain
    references, boosted = [entry["text"] for entry in entries], [answer.text for answer in answers[1::2]]
    errors = [score(text, answer).cer for text, answer in zip(references, boosted, strict=True)]
    errors_without = [score(text, answer).cer for text, answer in zip(references, plain, strict=True)]
    assert sum(errors) < 0.6 * sum(errors_without)
    for answer in answers:
        assert answer.text == " ".join(word["text"] for word in answer.words)
        assert 0 <= answer.confidence <= 1
    print(f"mean CER without {np.mean(errors_without):.3f}, with {np.mean(errors):.3f}")


def test_rows_of_one_request_have_keywords_of_their_own(demo) -> None:
    samples = next(samples for samples in utterances(demo).values() if len(samples) >= 16_000)
    with triton.InferenceServerClient(demo.url) as client, AsrClient(demo.url) as single:
        keywords = ["가나다라:5"]
        found = asked(client, np.stack([samples] * 2), ["{}", json.dumps({"keywords": keywords})])
        assert found == [single.transcribe(samples, keywords=words).text for words in ((), keywords)]


def test_a_bad_keyword_is_that_requests_own(demo) -> None:
    samples = next(iter(utterances(demo).values()))
    alone = served(demo.url, [samples], 1)[0]

    def one(keywords: tuple[str, ...]) -> str:
        with AsrClient(demo.url) as client:
            try:
                return client.transcribe(samples, keywords=keywords).text
            except ServerError as error:
                return str(error)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, [(), ("abc",), ("철수:9",)] * 8))
    assert set(answers[::3]) == {alone}
    assert set(answers[1::3]) == {
        "INVALID_ARGUMENT: this model has no tokens for a b c of keyword 'abc' and cannot hear it: write it "
        "in letters of its vocabulary, Hangul as it is spoken"
    }
    assert set(answers[2::3]) == {"INVALID_ARGUMENT: the score of keyword '철수:9' is not between -5 and 5"}


BAD = {
    "float64": (np.zeros(16_000), 16_000, "FP32"),
    "int16": (np.zeros(16_000, np.int16), 16_000, "FP32"),
    "rate": (np.zeros(16_000, np.float32), 8_000, "8000 Hz"),
    "empty": (np.zeros(0, np.float32), 16_000, "0 samples"),
    "shorter than a window": (np.zeros(399, np.float32), 16_000, "least is 400"),
    "NaN": (np.full(16_000, np.nan, np.float32), 16_000, "NaN"),
    "infinite": (np.full(16_000, -np.inf, np.float32), 16_000, "infinite"),
    "absurd values": (np.tile(np.array([3e38, -3e38], np.float32), 8_000), 16_000, "-1..1"),
    "too long": (np.zeros(16_000 * 61, np.float32), 16_000, "at most 60 s"),
    "an hour": (np.zeros(16_000 * 3600, np.float32), 16_000, "at most 60 s"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_audio_is_invalid_argument(demo, name: str) -> None:
    audio, rate, words = BAD[name]
    with AsrClient(demo.url) as client, pytest.raises(ServerError, match=words) as caught:
        client.transcribe(audio, rate)
    assert caught.value.code == "INVALID_ARGUMENT"


def test_wrong_shape_is_invalid_argument(demo) -> None:
    tensor = triton.InferInput(tensors.AUDIO, [1, 2, 8_000], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 2, 8_000), np.float32))
    with (
        triton.InferenceServerClient(demo.url) as client,
        pytest.raises(triton.InferenceServerException) as caught,
    ):
        client.infer(tensors.ENSEMBLE, [tensor])
    assert str(caught.value.status()) == "StatusCode.INVALID_ARGUMENT"


def test_bad_requests_never_fail_their_batch_mates(demo) -> None:
    good = next(iter(utterances(demo).values()))
    alone = served(demo.url, [good], 1)[0]
    nan = np.full(16_000, np.nan, np.float32)

    def one(samples: np.ndarray) -> str:
        with AsrClient(demo.url) as client:
            try:
                return client.transcribe(samples).text
            except ServerError as error:
                return error.code

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, [good, nan] * 24))
    assert answers == [alone, "INVALID_ARGUMENT"] * 24


def test_silence_has_a_confidence(demo) -> None:
    with AsrClient(demo.url) as client:
        answer = client.transcribe(np.zeros(16_000, np.float32))
    assert 0.0 <= answer.confidence <= 1.0


def test_a_copied_read_only_repository_serves_and_a_killed_model_is_noticed(demo, tmp_path: Path) -> None:
    """The repository needs no checkout; liveness is an inference, because readiness stays true."""
    copy = tmp_path / "elsewhere"
    shutil.copytree(demo.repository, copy, ignore=shutil.ignore_patterns("someone_elses", "__pycache__"))
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with TritonServer(copy, demo.server) as server:
        assert is_alive(server.url, copy)
        process = server.process
        assert process is not None
        children = (
            Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
        )
        stubs = [
            int(child) for child in children if b"asr_decoder" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]
        assert stubs, "no decoder process found"
        for stub in stubs:
            os.kill(stub, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while is_alive(server.url, copy):
            assert time.monotonic() < deadline, "a dead model went unnoticed for 10 s"
            time.sleep(0.2)
        url = server.url
    with AsrClient(url) as client, pytest.raises(ServerError) as caught:
        client.transcribe(np.zeros(16_000, np.float32))
    assert caught.value.code == "UNAVAILABLE"
    port = url.rpartition(":")[2]
    assert not list(Path("/dev/shm").glob(f"ko_asr_triton_{os.getpid()}_{port}_*")), "shared memory was left"


def test_a_mixture_of_two_exports_is_refused(demo, tmp_path: Path) -> None:
    mixed = tmp_path / "triton"
    shutil.copytree(demo.repository, mixed)
    path = mixed / tensors.ENCODER / "1" / file_names.CONTRACT
    other = json.loads(path.read_text(encoding="utf-8")) | {"export_id": "another"}
    path.write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(UserError, match="fill the repository again"), TritonServer(mixed, demo.server):
        pass


def start(*arguments: object, cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [str(COMMAND), *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_tritonserver_command_from_any_folder_stops_on_sigterm(demo, tmp_path: Path) -> None:
    (tmp_path / "triton").symlink_to(demo.repository)
    grpc, http, metrics = free_ports(3)
    ports = [f"--grpc-port={grpc}", "--http-port", http, f"--metrics-port={metrics}"]
    process = start("--model-repository", "triton/", *ports, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 60
        while not is_alive(f"127.0.0.1:{grpc}", demo.repository):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert len(list(Path("/dev/shm").glob(f"ko_asr_triton_{process.pid}_*"))) > 0
    finally:
        process.terminate()
        output = process.communicate(timeout=30)
    assert process.returncode == 0, output


@pytest.mark.parametrize("service", ["grpc", "http", "metrics"])
def test_a_port_in_use_is_one_sentence(demo, service: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = dict(zip(("grpc", "http", "metrics"), free_ports(3), strict=True))
        ports[service] = taken.getsockname()[1]
        flags = [f"--{name}-port={port}" for name, port in ports.items()]
        process = start("--model-repository", demo.repository, *flags, cwd=tmp_path)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert errors.startswith(f"error: {service} port {ports[service]} on 127.0.0.1 cannot be opened (")
    assert len(errors.strip().splitlines()) == 1


def test_an_unfilled_repository_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "triton").mkdir()
    for folder, words in (("triton", "holds no filled model"), ("missing", "no model repository at")):
        process = start("--model-repository", folder, cwd=tmp_path)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 2 and words in errors and len(errors.strip().splitlines()) == 1


def test_a_folder_that_is_no_model_is_one_sentence_and_the_checkout_has_none(demo, tmp_path: Path) -> None:
    """Triton ends when one folder of its repository is no model: the checkout's must be whole as it comes."""
    folders = [path for path in (ROOT / "triton").iterdir() if path.is_dir()]
    assert all((folder / "config.pbtxt").is_file() for folder in folders)
    (tmp_path / "triton").symlink_to(tmp_path / "other")
    shutil.copytree(demo.repository, tmp_path / "other")
    (tmp_path / "other" / "notes").mkdir()
    process = start("--model-repository", "triton", cwd=tmp_path)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2 and len(errors.strip().splitlines()) == 1
    assert "triton/notes holds no config.pbtxt" in errors


def test_setting_up_the_server_again_does_nothing(demo) -> None:
    before = (demo.server / "server.json").stat().st_mtime_ns
    command = [sys.executable, str(ROOT / "export" / "setup_server.py"), "--out", str(demo.server)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (demo.server / "server.json").stat().st_mtime_ns == before
    assert "next: tritonserver --model-repository triton/" in done.stdout


def test_the_server_is_not_set_up_where_triton_could_not_start_it(tmp_path: Path) -> None:
    folder = tmp_path / "음성 인식"
    done = run("export/setup_server.py", "--out", folder)
    assert f"Triton's Python models do not load from {folder}: a path of ASCII letters" in sentence(done)
    assert not folder.exists()


def test_serving_code_imports_neither_torch_nor_nemo(tmp_path: Path) -> None:
    modules = (
        "ko_asr.client.streaming, ko_asr.serving.server, ko_asr.serving.streaming, ko_asr.runtime.options"
    )
    code = f"import sys, {modules}; print([m for m in ('torch', 'nemo', 'lightning') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_contract_is_in_every_model_folder(demo) -> None:
    ids = {
        Contract.load(demo.repository / model / "1").export_id
        for model in (tensors.ENSEMBLE, tensors.PREPROCESSOR, tensors.ENCODER, tensors.DECODER)
    }
    assert len(ids) == 1


def test_the_benchmark_runs_and_says_where(demo, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    command = [
        sys.executable,
        str(ROOT / "bench" / "offline_ensemble.py"),
        "--repository",
        str(demo.repository),
    ]
    options = ["--rounds", "1", "--round-seconds", "1", "--out", str(out), "--server", str(demo.server)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["ratio"] > 0 and result["cpu_ratio"] > 0 and result["machine"]["cpu"]
    assert {"onnxruntime", "tritonclient", "torch", "nemo_toolkit"} <= set(result["versions"])
    assert "ensemble / best bare encoder" in done.stdout
