"""Workers are killed at any moment: every job ends once, its message arrives, nothing is left."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import obstore
import pytest
import soundfile
import sqlalchemy
from backing_services import postgres, s3, wait_until
from gateway_process import GatewayProcess, JobWorker
from obstore.store import S3Store
from webhook_receiver import Receiver

from ko_asr.audio.read import read_audio
from ko_asr.serving.server import free_ports

QUICK = (
    *("--job-lease", "2", "--job-poll", "0.2", "--job-sweep-every", "0.5", "--job-attempts", "100"),
    *("--webhook-timeout", "2", "--webhook-scale", "0.02", "--allow-callback", "127.0.0.1"),
)
JOBS, WORKERS, KILLS = 100, 3, 25


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty one of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'jobs.db'}"
        return
    with postgres() as url:
        yield url


def rows(database: str, query: str) -> list:
    engine = sqlalchemy.create_engine(database)
    with engine.connect() as connection:
        found = list(connection.execute(sqlalchemy.text(query)).mappings())
    engine.dispose()
    return found


def test_a_hundred_jobs_with_workers_killed_at_random(asr_server, files, database, tmp_path: Path) -> None:
    chance, clips = random.Random(7), [file for file in files if soundfile.info(file).duration < 4][:20]
    with Receiver() as receiver, ExitStack() as stack:
        gateway = GatewayProcess(
            asr_server, tmp_path / "g", "--database", database, "--job-workers", "0", *QUICK
        )
        stack.enter_context(gateway)
        shared = ("--data", str(gateway.data), "--database", database, *QUICK)
        workers = [
            stack.enter_context(JobWorker(asr_server, tmp_path / f"w{number}", *shared))
            for number in range(WORKERS)
        ]

        def make(number: int) -> str:
            return gateway.job(clips[number % len(clips)], callback_url=f"{receiver.url}/{number}")

        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(make, range(JOBS)))
        kills, deadline = 0, time.monotonic() + 120
        while rows(database, "SELECT 1 FROM jobs WHERE status IN ('queued', 'running') LIMIT 1"):
            assert time.monotonic() < deadline, rows(database, "SELECT * FROM jobs WHERE ended_at IS NULL")
            ready = [worker for worker in workers if worker.is_ready()]
            time.sleep(chance.uniform(0.05, 0.4))
            if ready and kills < KILLS:
                victim = chance.choice(ready)
                victim.kill()
                victim.start()
                kills += 1
        wait_until(lambda: all(receiver.at(f"/{number}") for number in range(JOBS)))
        wait_until(lambda: not gateway.uploads())
        wait_until(lambda: not rows(database, "SELECT 1 FROM job_deliveries WHERE state != 'delivered'"))
        texts = {clip: gateway.text(clip) for clip in clips}
        for number, job in enumerate(made):
            assert gateway.job_state(job)["status"] == "completed"
            assert gateway.result(job).json()["text"] == texts[clips[number % len(clips)]]
            messages = receiver.at(f"/{number}")
            assert {message.verified(gateway.webhook_secret)["data"]["id"] for message in messages} == {job}
            assert len({message.id for message in messages}) == 1
    assert kills >= 10
    states = rows(database, "SELECT status, file, lease, attempts FROM jobs")
    assert Counter((row["status"], row["file"], row["lease"]) for row in states) == {
        ("completed", None, None): JOBS
    }
    assert max(row["attempts"] for row in states) > 1  # some went from hand to hand
    parts = rows(database, "SELECT job_id, count(*) AS n FROM job_parts GROUP BY job_id")
    assert [row["n"] for row in parts] == [1] * JOBS


def test_a_long_job_goes_on_where_its_worker_died(asr_server, files, database, tmp_path: Path) -> None:
    path, pause = tmp_path / "long.flac", np.zeros(16_000, np.float32)
    clips = [part for file in files[:20] for part in (read_audio(file), pause)]
    soundfile.write(path, np.concatenate(clips), 16_000)
    slow = ("--in-flight", "1", "--job-save-every", "10", "--database", database, *QUICK)
    with GatewayProcess(asr_server, tmp_path / "g", "--job-workers", "0", *slow) as gateway:
        job = gateway.job(path)
        with JobWorker(asr_server, tmp_path / "w", "--data", str(gateway.data), *slow) as worker:
            saved = "SELECT number, body FROM job_parts ORDER BY number"
            wait_until(lambda: len(rows(database, saved)) >= 3)
            worker.kill()
            kept = rows(database, saved)
            assert gateway.job_state(job)["progress"] > 0
            worker.start()
            assert gateway.ended(job)["status"] == "completed"
        assert rows(database, saved)[: len(kept)] == kept
        assert gateway.result(job).json()["text"] == gateway.text(path)
        assert not gateway.uploads()


def test_a_job_waits_for_a_recogniser_that_is_away(asr_server, files: list[Path], tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'jobs.db'}"
    shared = ("--database", database, "--files", str(tmp_path / "files"), *QUICK, "--job-attempts", "1")
    nowhere = f"127.0.0.1:{free_ports(1)[0]}"
    with GatewayProcess(nowhere, tmp_path / "g", *shared, "--timeout", "1") as gateway:
        job = gateway.job(files[0])
        wait_until(lambda: rows(database, "SELECT deferrals FROM jobs")[0]["deferrals"] >= 1)
        assert gateway.job_state(job)["status"] == "queued"
    with GatewayProcess(asr_server, tmp_path / "h", *shared) as gateway:
        assert gateway.ended(job)["status"] == "completed"


def test_uploads_in_s3(asr_server, files, tmp_path: Path, monkeypatch) -> None:
    with s3(tmp_path / "s3") as variables:
        place = ("--files", "s3://asr/gateway", *QUICK)
        with GatewayProcess(asr_server, tmp_path / "g", *place, environment=variables) as gateway:
            assert gateway.ended(gateway.job(files[0]))["status"] == "completed"
            large = tmp_path / "large.wav"  # in several parts
            soundfile.write(large, np.zeros(10 << 20), 16_000, "PCM_16")
            job = gateway.job(large)
            assert gateway.ended(job)["audio_seconds"] == pytest.approx((10 << 20) / 16_000)
            wrong = {**variables, "AWS_SECRET_ACCESS_KEY": "wrong"}
        with GatewayProcess(asr_server, tmp_path / "h", *place, environment=wrong) as gateway:
            answer = gateway.post("/v1/jobs", files={"file": files[0].read_bytes()})
            assert answer.status_code == 503 and "secret" not in answer.text
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        store = S3Store.from_url("s3://asr/gateway")
        assert not [meta["path"] for page in obstore.list(store) for meta in page]
