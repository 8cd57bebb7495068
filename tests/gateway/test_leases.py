"""The rules of leases, on a database of each kind."""

import time
from collections.abc import Iterator

import pytest
from backing_services import postgres
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from ko_asr.gateway.database import Database
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.jobs import deliveries, leases, store
from ko_asr.gateway.jobs.leases import Lost, Progress
from ko_asr.gateway.jobs.store import NewJob
from ko_asr.gateway.jobs.tables import DELIVERIES, IDEMPOTENCY, JOBS, PARTS

FIELDS = {"model": ["asr"]}
LAST = Progress(0, 0, "[]", 100)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    if request.param == "sqlite":
        yield Database(f"sqlite:///{tmp_path_factory.mktemp('leases') / 'jobs.db'}")
        return
    with postgres() as url:
        found = Database(url)
        yield found
        found.close()


@pytest.fixture
def database(opened: Database) -> Database:
    for table in (PARTS, DELIVERIES, IDEMPOTENCY, JOBS):
        opened.run_now(lambda connection, table=table: connection.execute(delete(table)))
    return opened


def make(database: Database, owner: str = "a", **values) -> str:
    return database.run_now(store.create(NewJob(owner, FIELDS, {}, **values)))[0].id


def take(database: Database, seconds: float = 60.0, attempts: int = 5):
    return database.run_now(leases.take("worker", seconds, attempts))


def row(database: Database, job: str) -> dict:
    query = select(JOBS).where(JOBS.c.id == job)
    return dict(database.run_now(lambda connection: connection.execute(query).mappings().one()))


def test_a_job_is_one_workers(database: Database) -> None:
    job = make(database)
    held = take(database)
    assert held.job.id == job and take(database) is None
    database.run_now(leases.renew(held, 60.0, 40))
    assert row(database, job)["progress"] == 40
    database.run_now(leases.complete(held, LAST))
    assert row(database, job)["status"] == "completed" and take(database) is None


def test_a_lease_that_ran_out_is_anothers_and_its_holder_writes_nothing(database: Database) -> None:
    job = make(database, callback_url="https://a.example/")
    first = take(database, seconds=-1.0)
    second = take(database)
    assert second.job.id == job
    for write in (
        leases.renew(first, 60.0, 1),
        leases.save(first, LAST),
        leases.complete(first, LAST),
        leases.fail(first, ApiError(400, "no")),
        leases.defer(first, ApiError(503, "no")),
        leases.release(first, counts=True),
    ):
        with pytest.raises(Lost):
            database.run_now(write)
    database.run_now(leases.complete(second, LAST))
    with pytest.raises(Lost):
        database.run_now(leases.complete(second, LAST))
    counted = database.run_now(lambda connection: len(list(connection.execute(select(DELIVERIES)))))
    assert counted == 1


def test_a_job_that_kills_its_workers_fails(database: Database) -> None:
    job = make(database, callback_url="https://a.example/")
    for _ in range(3):
        assert take(database, seconds=-1.0, attempts=3).job.id == job
    assert take(database, attempts=3) is None
    assert (row(database, job)["status"], row(database, job)["error_code"]) == ("failed", "worker_lost")
    assert database.run_now(deliveries.take("webhook", 60.0)).kind == "job.failed"


def test_waiting_and_giving_back_cost_no_attempt(database: Database) -> None:
    job = make(database)
    database.run_now(leases.release(take(database), counts=False))
    assert row(database, job)["attempts"] == 0
    database.run_now(leases.defer(take(database), ApiError(503, "away", retry_after=100)))
    assert row(database, job)["attempts"] == 0 and row(database, job)["run_after"] > time.time() + 90
    assert take(database) is None
    database.run_now(lambda connection: connection.execute(update(JOBS).values(run_after=0.0)))
    database.run_now(leases.release(take(database), counts=True))
    assert row(database, job)["attempts"] == 1
    database.run_now(
        lambda connection: connection.execute(update(JOBS).values(run_after=0.0, deferrals=1440))
    )
    database.run_now(leases.defer(take(database), ApiError(503, "away for a day")))
    assert row(database, job)["error_message"] == "away for a day"


def test_callers_take_turns(database: Database) -> None:
    for _ in range(3):
        make(database, "many")
    make(database, "one")
    make(database, "two")
    order = []
    while held := take(database):
        order.append(held.job.owner)
        time.sleep(0.002)
    assert order == ["many", "one", "two", "many", "many"]


def test_a_caller_sees_his_own(database: Database) -> None:
    job = make(database, "a", key="k", fingerprint="f")
    for work in (store.get(job, "b"), store.bodies(job, "b"), store.cancel(job, "b")):
        with pytest.raises(ApiError) as caught:
            database.run_now(work)
        assert caught.value.status == 404
    assert database.run_now(store.listed("b", 10, None, None)) == ([], False)
    assert make(database, "b", key="k", fingerprint="f") != job
    assert make(database, "a", key="k", fingerprint="f") == job


def test_what_is_taken_back_leaves_nothing(database: Database) -> None:
    job = make(database, file="uploads/x", callback_url="https://a.example/", key="k", fingerprint="f")
    held = take(database)
    database.run_now(leases.save(held, Progress(0, 10, '["text"]', 10)))
    database.run_now(store.cancel(job, "a"))
    with pytest.raises(Lost):
        database.run_now(leases.complete(held, LAST))
    assert database.run_now(store.done_with) == [(job, "uploads/x")]
    assert database.run_now(store.unnamed(["uploads/x", "uploads/y"])) == ["uploads/y"]
    database.run_now(store.forget(job))
    for table in (JOBS, PARTS, DELIVERIES, IDEMPOTENCY):
        query = select(table)
        assert not database.run_now(lambda connection, query=query: list(connection.execute(query)))


def test_receivers_that_hang_hold_up_their_own_caller_only(database: Database) -> None:
    for owner in ("a", "a", "a", "b"):
        make(database, owner, callback_url=f"https://{owner}.example/")
        database.run_now(leases.complete(take(database), LAST))
    sent = [database.run_now(deliveries.take("webhook", 60.0)) for _ in range(3)]
    assert [one.url for one in sent] == ["https://a.example/", "https://b.example/", "https://a.example/"]


def test_messages_are_one_senders_for_a_time(database: Database) -> None:
    make(database, callback_url="https://a.example/")
    database.run_now(leases.complete(take(database), LAST))
    first = database.run_now(deliveries.take("webhook", -1.0))
    again = database.run_now(deliveries.take("webhook", 60.0))
    assert (first.id, first.attempt, again.attempt) == (again.id, 1, 2)
    assert database.run_now(deliveries.take("webhook", 60.0)) is None
    database.run_now(deliveries.arrived(first))
    database.run_now(deliveries.again(again, -1.0, "late"))  # the first had arrived
    assert database.run_now(deliveries.take("webhook", 60.0)) is None


@given(times=st.integers(0, 1000))
def test_deferrals_grow_and_stay_short(times: int) -> None:
    assert 1 <= leases.deferral(times) <= leases.deferral(times + 1) <= 60
