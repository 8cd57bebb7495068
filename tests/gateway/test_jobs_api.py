"""Jobs over HTTP: made, watched, read, taken back."""

import io
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from backing_services import wait_until
from gateway_process import QUICK_JOBS, GatewayProcess

from ko_asr.audio.read import read_audio


@pytest.fixture(scope="module")
def long(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two minutes of speech with pauses."""
    path = tmp_path_factory.mktemp("long") / "long.flac"
    pause = np.zeros(16_000, np.float32)
    clips = [part for file in files for part in (read_audio(file), pause)]
    soundfile.write(path, np.concatenate(clips)[: 120 * 16_000], 16_000)
    return path


def refused(jobs: GatewayProcess, status: int, **request) -> dict:
    answer = jobs.post("/v1/jobs", **request)
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def test_a_job_has_the_answers_of_a_request(jobs, long: Path) -> None:
    job = jobs.job(long, metadata='{"call": "7"}')
    state = jobs.ended(job)
    assert (state["status"], state["progress"], state["metadata"]) == ("completed", 100, {"call": "7"})
    assert state["audio_seconds"] == pytest.approx(120)
    assert state["expires_at"] - state["ended_at"] == 72 * 3600
    for kind in ("json", "text", "srt", "vtt", "verbose_json"):
        with long.open("rb") as file:
            sent = jobs.post(data={"model": "asr", "response_format": kind}, files={"file": file})
        found = jobs.result(job, format=kind)
        assert found.status_code == 200 and found.headers["content-type"] == sent.headers["content-type"]
        assert found.text == sent.text
    words = jobs.result(job, format="verbose_json", timestamp_granularities="word").json()["words"]
    assert " ".join(word["word"] for word in words) == jobs.result(job).json()["text"]
    assert not jobs.uploads()


def test_progress_is_told_while_it_runs(asr_server, long: Path, tmp_path: Path) -> None:
    with GatewayProcess(asr_server, tmp_path / "g", "--in-flight", "1", "--job-lease", "0.3") as jobs:
        job, seen = jobs.job(long), set()
        error = jobs.result(job)
        assert error.status_code == 409 and error.headers["retry-after"]
        while (state := jobs.job_state(job))["status"] != "completed":
            seen.add(state["progress"])
            time.sleep(0.05)
        assert len(seen) > 2 and max(seen) < 100


def test_jobs_are_listed_in_pages(jobs, files: list[Path]) -> None:
    made = [jobs.job(file) for file in files[:5]]
    found: list[str] = []
    page = {"has_more": True, "last_id": None}
    while page["has_more"] and len(found) < 5:
        query = {"limit": 2, **({"after": page["last_id"]} if page["last_id"] else {})}
        page = httpx.get(f"{jobs.url}/v1/jobs", params=query).json()
        assert page["object"] == "list" and len(page["data"]) <= 2
        found += [job["id"] for job in page["data"]]
    assert found[:5] == made[::-1]
    for job in made:
        jobs.ended(job)
    assert not httpx.get(f"{jobs.url}/v1/jobs", params={"status": "queued"}).json()["data"]
    for query in ({"limit": 0}, {"limit": "x"}, {"status": "done"}):
        assert httpx.get(f"{jobs.url}/v1/jobs", params=query).status_code == 400
    assert httpx.get(f"{jobs.url}/v1/jobs", params={"after": "job_1"}).status_code == 404


def test_one_key_makes_one_job(jobs, files: list[Path]) -> None:
    def make(file: Path, **fields: str) -> httpx.Response:
        content = {"file": file.read_bytes()}
        return jobs.post("/v1/jobs", data=fields, files=content, headers={"Idempotency-Key": "once"})

    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(make(files[0]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    for other in (make(files[1]), make(files[0], metadata='{"a": "b"}')):
        assert other.status_code == 422 and other.json()["error"]["code"] == "idempotency_key_reused"
    jobs.ended(answers[0].json()["id"])
    wait_until(lambda: not jobs.uploads())
    refused(jobs, 400, files={"file": b"x"}, headers={"Idempotency-Key": "k" * 256})


def test_delete_removes_all_of_a_job(jobs, files, long: Path, tmp_path: Path) -> None:
    ended, running = jobs.job(files[0]), None
    jobs.ended(ended)
    longer = tmp_path / "longer.flac"  # it must not end before it is deleted
    soundfile.write(longer, np.tile(read_audio(long), 10), 16_000)
    running = jobs.job(longer)
    wait_until(lambda: jobs.job_state(running)["status"] == "running")
    assert jobs.uploads()
    for job, status in ((ended, "completed"), (running, "cancelled")):
        answer = httpx.delete(f"{jobs.url}/v1/jobs/{job}")
        assert answer.json() == {"id": job, "object": "job", "status": status, "deleted": True}
        for path in (f"/v1/jobs/{job}", f"/v1/jobs/{job}/result"):
            assert httpx.get(f"{jobs.url}{path}").status_code == 404
        assert httpx.delete(f"{jobs.url}/v1/jobs/{job}").status_code == 404
    assert not jobs.uploads()
    wait_until(lambda: not jobs.left(), 5)  # the worker has let go of it
    assert jobs.ended(jobs.job(files[0]))["status"] == "completed"


def test_what_cannot_be_a_job(jobs, files: list[Path], receiver) -> None:
    file = {"file": files[0].read_bytes()}
    assert refused(jobs, 400, files={"model": (None, "asr")})["param"] == "file"
    assert refused(jobs, 400, files={**file, "url": (None, f"{receiver.url}/a")})["param"] == "file"
    assert refused(jobs, 404, files=file, data={"model": "gpt"})["code"] == "model_not_found"
    assert refused(jobs, 400, files=file, data={"language": "en"})["param"] == "language"
    assert "result" in refused(jobs, 400, files=file, data={"response_format": "srt"})["message"]
    for metadata in ("[]", "{", '{"a": 1}', '{"a": "%s"}' % ("x" * 600)):
        assert refused(jobs, 400, files=file, data={"metadata": metadata})["param"] == "metadata"
    elsewhere = {"url": (None, "https://elsewhere.example/a.wav")}
    assert refused(jobs, 400, files=elsewhere)["code"] == "host_not_allowed"
    assert refused(jobs, 415, content=b"{}")["param"] == "file"
    assert jobs.result(jobs.job(files[0]), format="docx").status_code in (400, 409)


def test_audio_that_cannot_be_used_fails_with_a_reason(jobs, files, tmp_path: Path) -> None:
    nothing, silence = tmp_path / "a.pdf", tmp_path / "silence.flac"
    nothing.write_bytes(b"%PDF-1.7 " + bytes(1000))
    soundfile.write(silence, np.zeros(1300 * 16_000), 16_000)
    for path, code in ((nothing, "unknown_format"), (silence, "audio_too_long")):
        job = jobs.job(path)
        state = jobs.ended(job)
        assert (state["status"], state["error"]["code"]) == ("failed", code) and state["error"]["message"]
        assert jobs.result(job).json()["error"]["code"] == "job_failed"
    wait_until(lambda: not jobs.uploads())


def test_audio_of_an_address(jobs, files: list[Path], receiver) -> None:
    receiver.files["/speech.flac"] = files[0].read_bytes()
    job = jobs.job(url=f"{receiver.url}/speech.flac")
    assert jobs.ended(job)["status"] == "completed"
    assert jobs.result(job).json()["text"] == jobs.text(files[0])
    receiver.answers["/moved"] = lambda: (302, {"location": f"{receiver.url}/speech.flac"})
    receiver.answers["/none"] = lambda: (404, {})
    for path, said in (("/moved", "redirects"), ("/none", "404")):
        state = jobs.ended(jobs.job(url=f"{receiver.url}{path}"))
        assert state["error"]["code"] == "url_failed" and said in state["error"]["message"]
    tries: list[int] = []

    def at_the_second_try() -> tuple[int, dict[str, str]]:
        tries.append(1)
        return (503 if len(tries) < 2 else 200), {}

    receiver.files["/later"], receiver.answers["/later"] = files[0].read_bytes(), at_the_second_try
    assert jobs.ended(jobs.job(url=f"{receiver.url}/later"))["status"] == "completed"


def test_a_file_of_any_size_is_counted(asr_server, files, tmp_path: Path, receiver) -> None:
    limit = ("--job-max-upload", str(100_000 / (1 << 30)), *QUICK_JOBS)
    with GatewayProcess(asr_server, tmp_path / "g", *limit) as jobs:
        error = refused(jobs, 413, files={"file": io.BytesIO(bytes(200_000))})
        assert error["code"] == "file_too_large"
        receiver.files["/big"] = bytes(200_000)
        state = jobs.ended(jobs.job(url=f"{receiver.url}/big"))
        assert state["error"]["code"] == "file_too_large"


def test_a_full_disk_is_no_bad_request(asr_server, long: Path, files, tmp_path: Path) -> None:
    with GatewayProcess(asr_server, tmp_path / "g", "--job-poll", "0.1", file_kib=600) as jobs:
        assert refused(jobs, 507, files={"file": bytes(700_000)})["code"] == "disk_full"
        waiting = jobs.job(long) if long.stat().st_size < 600_000 else None
        assert jobs.ended(jobs.job(files[0]))["status"] == "completed"
        if waiting:  # decoded it has no room, and comes again later
            assert jobs.job_state(waiting)["status"] == "queued"


def test_results_are_kept_for_their_time(asr_server, files: list[Path], tmp_path: Path) -> None:
    keep = ("--keep-hours", str(1 / 3600), "--job-poll", "0.1", "--job-sweep-every", "0.2")
    with GatewayProcess(asr_server, tmp_path / "g", *keep) as jobs:
        orphan = jobs.data / "files/uploads/file_of_no_job"
        orphan.parent.mkdir(exist_ok=True)
        orphan.write_bytes(b"x")
        job = jobs.job(files[0])
        jobs.ended(job)
        wait_until(lambda: httpx.get(f"{jobs.url}/v1/jobs/{job}").status_code == 404, 10)
        wait_until(lambda: not jobs.uploads(), 10)


def test_a_stopped_gateway_gives_its_job_back(asr_server, long: Path, tmp_path: Path) -> None:
    shared = ("--database", f"sqlite:///{tmp_path}/jobs.db", "--files", str(tmp_path / "files"), *QUICK_JOBS)
    with GatewayProcess(asr_server, tmp_path / "g", "--in-flight", "1", *shared) as jobs:
        job = jobs.job(long)
        wait_until(lambda: jobs.job_state(job)["progress"] >= 20)
        wanted = jobs.text(long)
    with GatewayProcess(asr_server, tmp_path / "h", *shared) as jobs:
        assert jobs.ended(job)["status"] == "completed"
        assert jobs.result(job).json()["text"] == wanted


def test_channels_are_told_apart(jobs, files: list[Path], tmp_path: Path) -> None:
    agent, customer = (read_audio(file) for file in files[:2])
    both = np.zeros((len(agent) + len(customer), 2), np.float32)
    both[: len(agent), 0], both[len(agent) :, 1] = agent, customer
    path = tmp_path / "call.flac"
    soundfile.write(path, both, 16_000)
    job = jobs.job(path, channels="separate")
    jobs.ended(job)
    with path.open("rb") as file:
        sent = jobs.post(data={"model": "asr", "channels": "separate"}, files={"file": file})
    assert jobs.result(job).json() == sent.json() and len(sent.json()["channels"]) == 2
