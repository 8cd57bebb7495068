"""RTZR's transcription of files, as its documentation describes a client."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gateway_process import GatewayProcess


@pytest.fixture(scope="module")
def rtzr(asr_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(asr_server, tmp_path_factory.mktemp("rtzr") / "g", "--job-poll", "0.1") as running:
        yield running


def token(rtzr: GatewayProcess) -> dict[str, str]:
    pair = {"client_id": "id", "client_secret": "secret"}
    answer = httpx.post(f"{rtzr.url}/rtzr/v1/authenticate", data=pair)
    return {"authorization": f"bearer {answer.json()['access_token']}"}


def sent(rtzr: GatewayProcess, file: bytes | None, **config) -> httpx.Response:
    files = {"config": (None, json.dumps(config)), **({"file": ("a.wav", file)} if file is not None else {})}
    return rtzr.post("/rtzr/v1/transcribe", files=files, headers=token(rtzr))


def polled(rtzr: GatewayProcess, job: str) -> dict:
    while True:
        answer = httpx.get(f"{rtzr.url}/rtzr/v1/transcribe/{job}", headers=token(rtzr)).json()
        if answer["status"] != "transcribing":
            return answer
        time.sleep(0.1)


def test_a_file_and_its_polling(rtzr, files: list[Path]) -> None:
    config = {
        **{"model_name": "sommers", "language": "ko", "use_diarization": True, "domain": "GENERAL"},
        **{"diarization": {"spk_count": 2}, "use_itn": True, "unknown": [1], "use_paragraph_splitter": True},
        **{"paragraph_splitter": {"max": 50}, "use_word_timestamp": True},
    }
    answer = sent(rtzr, files[0].read_bytes(), **config)
    assert answer.status_code == 200 and set(answer.json()) == {"id"}
    found = polled(rtzr, answer.json()["id"])
    assert (found["id"], found["status"]) == (answer.json()["id"], "completed")
    spoken = found["results"]["utterances"]
    assert " ".join(one["msg"] for one in spoken) == rtzr.text(files[0])
    for one in spoken:
        assert (one["spk"], one["spk_type"], one["lang"]) == (0, "NORMAL", "ko")
        assert one["duration"] > 0 and " ".join(word["text"] for word in one["words"]) == one["msg"]
        assert all(one["start_at"] <= word["start_at"] for word in one["words"])
    plain = polled(rtzr, sent(rtzr, files[0].read_bytes()).json()["id"])
    assert all("words" not in one for one in plain["results"]["utterances"])


@pytest.mark.parametrize(
    "config",
    [
        {"diarization": {"spk_count": 2}},
        {"language": "detect"},
        {"language": "en"},
        {"language_candidates": ["ko", "en"]},
        {"model_name": "whisper"},
        {"domain": "CALLS"},
        {"use_itn": "yes"},
        {"keywords": "단어"},
        {"keywords": ["가" * 21]},
        {"use_diarization": True, "diarization": 2},
    ],
)
def test_configs_that_are_refused(rtzr, files: list[Path], config: dict) -> None:
    answer = sent(rtzr, files[0].read_bytes(), **config)
    assert answer.status_code == 400 and answer.json()["code"] == "H0001", answer.text
    assert set(answer.json()) == {"code", "msg"} and answer.json()["msg"]


def test_what_else_is_refused(rtzr, files: list[Path]) -> None:
    assert sent(rtzr, None).json()["code"] == "H0001"
    broken = rtzr.post("/rtzr/v1/transcribe", files={"config": (None, "{"), "file": ("a", b"x")})
    assert (broken.status_code, broken.json()["code"]) == (400, "H0001")
    missing = httpx.get(f"{rtzr.url}/rtzr/v1/transcribe/job_1")
    assert (missing.status_code, missing.json()["code"]) == (404, "H0004")
    failed = polled(rtzr, sent(rtzr, b"%PDF-1.7" + bytes(100)).json()["id"])
    assert failed["status"] == "failed" and failed["error"]["code"] == "H0010" and failed["error"]["message"]


def test_more_jobs_than_a_caller_may_have(asr_server, files: list[Path], tmp_path: Path) -> None:
    limits = ("--job-workers", "0", "--job-max-waiting", "2")
    with GatewayProcess(asr_server, tmp_path / "g", *limits) as rtzr:
        jobs = [rtzr.job(files[0]) for _ in range(2)]
        for path, code in (("/rtzr/v1/transcribe", "A0002"), ("/v1/jobs", None)):
            answer = rtzr.post(path, files={"file": files[0].read_bytes()})
            assert answer.status_code == 429 and answer.headers["retry-after"]
            assert code is None or answer.json()["code"] == code
        httpx.delete(f"{rtzr.url}/v1/jobs/{jobs[0]}")
        assert sent(rtzr, files[0].read_bytes()).status_code == 200
