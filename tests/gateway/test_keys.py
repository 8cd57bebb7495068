"""API keys: who comes in, how much, and what is counted, for clients that nobody here wrote."""

import asyncio
import json
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import openai
import pytest
import soundfile
from backing_services import postgres
from gateway_keys import Keys, access, client, id_of, transcribe
from gateway_live import append, events_until, rtzr, rtzr_address
from gateway_process import GatewayProcess
from gateway_schemathesis import schemathesis
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

WRONG = f"ko-asr-0123456789ab-{'x' * 43}"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    file = tmp_path_factory.mktemp("keys") / "made" / "gateway.db"
    return Keys(f"sqlite:///{file}?timeout=1")


@pytest.fixture(scope="module")
def locked(asr_server: str, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway that wants keys."""
    folder = tmp_path_factory.mktemp("locked") / "g"
    with GatewayProcess(asr_server, folder, "--keys", "--database", keys.database) as running:
        yield running


@pytest.fixture(scope="module")
def key(keys: Keys) -> str:
    """A key without limits."""
    return keys.create()


def until_refused(gateway: GatewayProcess, key: str) -> openai.APIStatusError:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            client(gateway, key).models.list()
        except openai.APIStatusError as error:
            return error
        time.sleep(0.1)
    raise AssertionError("never refused")


def test_the_sdk_with_right_and_wrong_keys(locked, keys: Keys, key: str, files: list[Path]) -> None:
    assert transcribe(locked, key, files[0])
    for wrong in ("none", WRONG, f"{key[:-1]}{'A' if key[-1] != 'A' else 'B'}"):
        with pytest.raises(openai.AuthenticationError) as caught:
            transcribe(locked, wrong, files[0])
        assert caught.value.code == "invalid_api_key"
        assert caught.value.response.headers["www-authenticate"] == "Bearer"
        assert caught.value.request_id
    with pytest.raises(openai.AuthenticationError):
        client(locked, WRONG).models.list()
    log = locked.log.read_text(encoding="utf-8")
    assert key.split("-")[3] not in log and WRONG not in log


def test_a_key_is_made_used_at_once_and_revoked(locked, keys: Keys) -> None:
    made = access(keys.database, "create", "--name", "콜센터", "--streams", "2", "--json")
    key = json.loads(made.stdout)["key"]
    assert client(locked, key).models.list()
    assert access(keys.database, "revoke", id_of(key)).stdout.startswith(f"{id_of(key)} is revoked")
    error = until_refused(locked, key)
    assert isinstance(error, openai.AuthenticationError) and "revoked" in str(error)
    again = access(keys.database, "revoke", id_of(key), check=False)
    assert again.returncode == 2 and again.stderr.startswith("error: no key")
    row = next(row for row in json.loads(access(keys.database, "list", "--json").stdout) if row["revoked"])
    assert (row["id"], row["name"], row["streams"]) == (id_of(key), "콜센터", 2) and key.split("-")[
        3
    ] not in str(row)


def test_the_database_holds_no_secret(keys: Keys, key: str) -> None:
    file = Path(keys.database.removeprefix("sqlite:///").partition("?")[0])
    found = b"".join(path.read_bytes() for path in file.parent.iterdir())
    assert id_of(key).encode() in found and key.partition(id_of(key))[2][1:].encode() not in found
    assert file.stat().st_mode & 0o777 == 0o600


def test_open_routes(locked) -> None:
    for path in ("/health/live", "/health/ready", "/openapi.json", "/metrics"):
        assert httpx.get(f"{locked.url}{path}").status_code == 200
    assert httpx.get(f"{locked.url}/metrics", headers={"x-forwarded-for": "10.0.0.1"}).status_code == 401
    assert httpx.get(f"{locked.url}/v1/nothing").status_code == 401
    assert httpx.post(f"{locked.url}/health/live").status_code == 401


def test_figures_from_elsewhere_need_a_key_for_them(locked, keys: Keys, key: str) -> None:
    for shown, status in ((key, 403), (keys.create(metrics=True), 200)):
        headers = {"x-forwarded-for": "10.0.0.1", "authorization": f"Bearer {shown}"}
        assert httpx.get(f"{locked.url}/metrics", headers=headers).status_code == status


def test_a_refusal_waits_for_no_body(locked) -> None:
    head = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", httpx.URL(locked.url).port), 20) as connection:
        connection.sendall(head)
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 401 ") and b"connection: close" in answer


def test_a_client_that_only_sends_sees_its_refusal(locked, tmp_path: Path) -> None:
    large = tmp_path / "large.wav"
    large.write_bytes(bytes(20 << 20))
    with pytest.raises(openai.AuthenticationError):
        transcribe(locked, WRONG, large)
    assert not locked.left()


def test_slow_uploads_of_one_key_leave_places_to_others(
    asr_server, keys: Keys, key: str, files: list[Path], tmp_path: Path
) -> None:
    slow, options = keys.create(), ("--keys", "--database", keys.database, "--max-requests", "4")
    head = (
        f"POST /v1/transcribe HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nAuthorization: Bearer {slow}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x"
    )
    with GatewayProcess(asr_server, tmp_path / "g", *options) as gateway, ExitStack() as connections:
        for _ in range(3):
            address = ("127.0.0.1", httpx.URL(gateway.url).port)
            connections.enter_context(socket.create_connection(address, 20)).sendall(head.encode())
        deadline = time.monotonic() + 20
        while gateway.figure("requests_in_flight") < 4:  # the question is one
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(openai.RateLimitError) as caught:
            transcribe(gateway, slow, files[0])
        assert caught.value.code == "full"
        assert transcribe(gateway, key, files[0])


def test_requests_at_a_time(locked, keys: Keys, files: list[Path]) -> None:
    key = keys.create(requests=1)
    head = "POST /v1/transcribe HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nAuthorization: Bearer {}\r\n"
    kind = "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x"
    with socket.create_connection(("127.0.0.1", httpx.URL(locked.url).port), 20) as connection:
        connection.sendall((head.format(key) + kind).encode())
        deadline = time.monotonic() + 20
        while locked.figure("requests_in_flight") < 2:  # the question is one
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(openai.RateLimitError) as caught:
            transcribe(locked, key, files[0])
        assert caught.value.code == "concurrency_limit_exceeded"
        assert caught.value.response.headers["retry-after-ms"] == "1000"
        assert client(locked, key).models.list()  # reading is free
    locked.wait_until_empty()
    assert transcribe(locked, key, files[0])


def test_audio_a_minute(locked, keys: Keys, files: list[Path]) -> None:
    key = keys.create(minute=1)
    assert transcribe(locked, key, files[0])  # longer than a second: it goes into debt
    with pytest.raises(openai.RateLimitError) as caught:
        transcribe(locked, key, files[0])
    assert caught.value.code == "rate_limit_exceeded"
    wait = int(caught.value.response.headers["retry-after"])
    seconds = soundfile.info(files[0]).duration
    assert 0 < wait <= 60 * seconds


def test_audio_a_day_and_no_second_try(locked, keys: Keys, files: list[Path]) -> None:
    seconds = soundfile.info(files[0]).duration
    key = keys.create(day=1.5 * seconds)
    assert transcribe(locked, key, files[0])
    count = locked.figure("requests_total")
    with pytest.raises(openai.RateLimitError) as caught:
        transcribe(locked, key, files[0], retries=2)
    assert caught.value.code == "insufficient_quota"
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 24 * 3600
    assert locked.figure("requests_total") - count == 2  # it, and that for the figures


def test_gateways_share_a_day_and_count_to_the_end(
    locked, asr_server: str, keys: Keys, files: list[Path], tmp_path: Path
) -> None:
    seconds = soundfile.info(files[0]).duration
    limited, free = keys.create(day=1.5 * seconds), keys.create()
    with GatewayProcess(asr_server, tmp_path / "g", "--keys", "--database", keys.database) as other:
        transcribe(locked, limited, files[0])
        transcribe(locked, free, files[0])
        deadline = time.monotonic() + 20
        while keys.usage(limited)[0] < 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with pytest.raises(openai.AuthenticationError):  # for which the other one looks at once
            client(other, WRONG).models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            transcribe(other, limited, files[0])
        assert caught.value.code == "insufficient_quota"
        for _ in range(3):
            transcribe(other, free, files[0])
        other.process.send_signal(signal.SIGTERM)
        other.process.wait(20)
    requests, streams, used = keys.usage(free)
    assert (requests, streams, used) == (4, 0, pytest.approx(4 * seconds, abs=0.01))
    row = json.loads(access(keys.database, "usage", id_of(free), "--json").stdout)[0]
    assert (row["id"], row["requests"]) == (id_of(free), 4)


def test_the_same_on_postgresql(asr_server: str, files: list[Path], tmp_path: Path) -> None:
    with postgres() as url:
        keys = Keys(url)
        with GatewayProcess(asr_server, tmp_path / "g", "--keys", "--database", url) as gateway:
            key = keys.create(day=1.5 * soundfile.info(files[0]).duration)
            assert transcribe(gateway, key, files[0])
            deadline = time.monotonic() + 20
            while keys.usage(key)[0] < 1:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            with pytest.raises(openai.RateLimitError):
                transcribe(gateway, key, files[0])
        assert keys.usage(key)[0] == 2  # written in two steps
        keys.revoke(key)
        assert access(url, "revoke", id_of(key), check=False).returncode == 2


@pytest.mark.parametrize("path", ["/v1/realtime?intent=transcription", "/rtzr/v1/transcribe:streaming", "/x"])
def test_a_handshake_is_refused_with_an_answer(locked, path: str) -> None:
    url = f"{locked.url.replace('http', 'ws')}{path}"
    browser = ["realtime", f"openai-insecure-api-key.{WRONG}"]
    for options in (
        {},
        {"additional_headers": {"Authorization": f"Bearer {WRONG}"}},
        {"subprotocols": browser},
    ):
        with pytest.raises(InvalidStatus) as caught:
            connect(url, **options)
        response = caught.value.response
        assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
        assert json.loads(response.body)


def connected_when_free(url: str, protocols: list[str]) -> ClientConnection:
    """Obey Retry-After: a place is free a moment after the close frame is answered."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return connect(url, subprotocols=protocols)
        except InvalidStatus as error:
            if error.response.status_code != 429 or time.monotonic() > deadline:
                raise
            time.sleep(float(error.response.headers["retry-after"]))


def test_streams_at_a_time_and_secrets_of_browsers(locked, keys: Keys) -> None:
    key = keys.create(streams=1)
    url = f"{locked.url.replace('http', 'ws')}/v1/realtime?intent=transcription"
    secret = client(locked, key).realtime.client_secrets.create().value
    for shown in (key, secret):
        browser = ["realtime", f"openai-insecure-api-key.{shown}"]
        with connected_when_free(url, browser) as socket:
            assert socket.subprotocol == "realtime"
            assert json.loads(socket.recv(20))["type"] == "session.created"
            with pytest.raises(InvalidStatus) as caught:
                connect(url, additional_headers={"authorization": f"Bearer {key}"})
            assert caught.value.response.status_code == 429
            assert caught.value.response.headers["retry-after"] == "1"
    with pytest.raises(openai.AuthenticationError):  # a secret makes no further ones
        client(locked, secret).realtime.client_secrets.create()


def test_live_speech_is_taken_from_the_account_as_it_comes(locked, keys: Keys) -> None:
    key, packet = keys.create(day=2), bytes(16_000)
    address = rtzr_address(locked.url, sample_rate=16_000, encoding="LINEAR16")
    bearer = {"Authorization": f"Bearer {key}"}
    _, code, reason = asyncio.run(rtzr(address, [packet] * 8, bearer))
    assert code == 1013 and reason.startswith("A0001: the key")
    key = keys.create(day=2)
    with client(locked, key).realtime.connect(extra_query={"intent": "transcription"}) as connection:
        assert connection.recv().type == "session.created"
        append(connection, bytes(24_000 * 2 * 3), 24_000)
        assert events_until(connection, "error")[-1].error.code == "insufficient_quota"
    deadline = time.monotonic() + 20
    while keys.usage(key)[2] != pytest.approx(2, abs=0.6):
        assert time.monotonic() < deadline, keys.usage(key)
        time.sleep(0.2)


def test_rtzr_tokens(locked, keys: Keys) -> None:
    key = keys.create()
    pair = {"client_id": id_of(key), "client_secret": key.partition(id_of(key))[2][1:]}
    answer = httpx.post(f"{locked.url}/rtzr/v1/authenticate", data=pair)
    assert answer.status_code == 200
    assert 0 < answer.json()["expire_at"] - time.time() <= 6 * 3600
    token = answer.json()["access_token"]
    for path, status in (("/rtzr/v1/none", 404), ("/v1/models", 401)):
        headers = {"authorization": f"bearer {token}"}
        assert httpx.get(f"{locked.url}{path}", headers=headers).status_code == status
    for bad, status in (
        (pair | {"client_secret": "x"}, 401),
        (pair | {"client_id": "x"}, 401),
        ({"client_id": "x"}, 400),
        ({"client_id": "x", "client_secret": "y" * 5000}, 413),
    ):
        assert httpx.post(f"{locked.url}/rtzr/v1/authenticate", data=bad).status_code == status
    keys.revoke(key)
    until_refused(locked, key)
    assert (
        httpx.get(f"{locked.url}/rtzr/v1/none", headers={"authorization": f"bearer {token}"}).status_code
        == 401
    )


def test_no_route_forgets_to_ask(locked, key: str, tmp_path: Path) -> None:
    schemathesis(locked, tmp_path, "ignored_auth", "not_a_server_error", "status_code_conformance", key=key)


def test_guesses_disturb_nobody(locked, key: str, files: list[Path]) -> None:
    def guess(number: int) -> int:
        headers = {"authorization": f"Bearer ko-asr-{number:012x}-{'x' * 43}"}
        return clients[number % 20].get("/v1/models", headers=headers).status_code

    clients = [httpx.Client(base_url=locked.url) for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        guesses = pool.map(guess, range(300))
        assert transcribe(locked, key, files[0])
        assert set(guesses) == {401}


def test_a_database_that_is_locked_stops_no_known_key(
    locked, keys: Keys, key: str, files: list[Path]
) -> None:
    transcribe(locked, key, files[0])
    file = keys.database.removeprefix("sqlite:///").partition("?")[0]
    with sqlite3.connect(file, isolation_level=None) as holder:
        holder.execute("BEGIN IMMEDIATE")
        time.sleep(3.5)
        assert transcribe(locked, key, files[0])
        with pytest.raises(openai.InternalServerError) as caught:
            client(locked, WRONG).models.list()
        assert caught.value.status_code == 503 and caught.value.response.headers["retry-after"]
        before = access(keys.database, "usage", id_of(key), check=False)
        assert before.returncode == 2 and "locked" in before.stderr and before.stderr.count("\n") == 1
        holder.execute("ROLLBACK")
    assert until_refused(locked, WRONG).status_code in (401, 503)
    deadline = time.monotonic() + 20
    while "answers again" not in locked.log.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert locked.log.read_text(encoding="utf-8").count("the database fails") == 1
