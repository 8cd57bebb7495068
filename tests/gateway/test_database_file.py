"""The file of the database is deleted while processes have it open: nothing is lost."""

import shutil
from pathlib import Path

import httpx
import pytest
from backing_services import wait_until
from gateway_keys import Keys, transcribe
from gateway_process import GatewayProcess, JobWorker

QUICK = ("--job-poll", "0.1")


@pytest.mark.parametrize("kinds", [("",), ("", "-wal", "-shm")], ids=["file", "all"])
def test_a_deleted_file_is_written_again(
    asr_server: str, files: list[Path], tmp_path: Path, kinds: tuple[str, ...]
) -> None:
    """With a worker in another process, which has it open, too."""
    with GatewayProcess(asr_server, tmp_path / "g", "--job-workers", "0", *QUICK) as gateway:
        database, shared = gateway.data / "gateway.db", ("--data", str(gateway.data), *QUICK)
        with JobWorker(asr_server, tmp_path / "worker", *shared) as worker:
            made = [gateway.job(files[0])]
            texts = [gateway.ended(made[0]) and gateway.result(made[0]).json()["text"]]
            for kind in kinds:
                database.with_name(f"gateway.db{kind}").unlink()
            made += [gateway.job(file) for file in files[1:4]]
            assert [gateway.ended(job)["status"] for job in made] == ["completed"] * 4
            texts += [gateway.result(job).json()["text"] for job in made[1:]]
            assert database.stat().st_mode & 0o777 == 0o600
            said = gateway.log.read_text(encoding="utf-8") + worker.log.read_text(encoding="utf-8")
            assert said.count("the file of the database was gone") >= 1 and "Traceback" not in said
            assert httpx.get(f"{gateway.url}/health/ready").status_code == 200
    with GatewayProcess(asr_server, tmp_path / "next", *shared) as again:
        assert [again.result(job).json()["text"] for job in made] == texts
    assert {path.name for path in gateway.data.glob("gateway.db*")} <= {
        f"gateway.db{k}" for k in ("", "-wal", "-shm")
    }


def test_keys_stay(asr_server: str, files: list[Path], tmp_path: Path) -> None:
    keys = Keys(f"sqlite:///{tmp_path / 'k' / 'gateway.db'}")
    old = keys.create()
    with GatewayProcess(asr_server, tmp_path / "g", "--keys", "--database", keys.database) as locked:
        shutil.rmtree(tmp_path / "k")
        wait_until((tmp_path / "k/gateway.db").exists)
        for key in (old, keys.create()):
            assert transcribe(locked, key, files[0])


def test_a_file_that_cannot_be_written_again_is_told(
    asr_server: str, files: list[Path], tmp_path: Path
) -> None:
    place = tmp_path / "place"
    with GatewayProcess(
        asr_server, tmp_path / "g", "--database", f"sqlite:///{place / 'x.db'}", *QUICK
    ) as gateway:
        shutil.rmtree(place)
        place.touch()  # no folder can be made here
        wait_until(lambda: httpx.get(f"{gateway.url}/health/ready").status_code == 503)
        error = httpx.get(f"{gateway.url}/health/ready").json()["error"]
        assert error["code"] == "database" and "is gone" in error["message"]
        assert gateway.post("/v1/jobs", files={"file": files[0].read_bytes()}).status_code == 503
        place.unlink()
        wait_until(lambda: httpx.get(f"{gateway.url}/health/ready").status_code == 200)
        assert gateway.ended(gateway.job(files[0]))["status"] == "completed"
