"""Other machines, pages in browsers, TLS: what a gateway does to be safe, and what it says at its start."""

import contextlib
import json
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
import trustme
from gateway_keys import Keys, transcribe
from gateway_process import PYTHON, GatewayProcess
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

ELSEWHERE = "https://elsewhere.example"
APP = "https://app.example.com"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(f"sqlite:///{tmp_path_factory.mktemp('exposed') / 'gateway.db'}")


@pytest.fixture(scope="module")
def exposed(
    asr_server: str, keys: Keys, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway with keys, TLS and an allowed page at every address of this machine, to which SSL_CERT_FILE
    leads every client.
    """
    folder = tmp_path_factory.mktemp("exposed")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(folder / "chain.pem", append=True)
    tls = ["--tls-cert", str(folder / "chain.pem"), "--tls-key", str(folder / "key.pem")]
    rest = ["--keys", "--database", keys.database, "--allow-origin", f"{APP}/", "--trust-proxy", "127.0.0.1"]
    rest += ["--host", "0.0.0.0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
        with GatewayProcess(asr_server, folder / "g", *tls, *rest) as running:
            yield running


def say(arguments: list[tuple[str, ...]]) -> list[str]:
    """What gateways say that must not start, all in one process."""
    command = [PYTHON, "-c", _STARTS, json.dumps(arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd="/")
    return json.loads(ended.stdout)


_STARTS = """
import contextlib, io, json, sys
from ko_asr.errors import run_main
from ko_asr.gateway.__main__ import main
said = []
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    with contextlib.redirect_stderr(io.StringIO()) as error, contextlib.redirect_stdout(sys.stderr):
        with contextlib.suppress(SystemExit):
            run_main(main)
    said.append(error.getvalue())
print(json.dumps(said))
"""


def test_a_start_that_would_be_unsafe_or_cannot_be(tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"no database at all " * 100)
    old = tmp_path / "old.db"
    with contextlib.closing(sqlite3.connect(old)) as database:
        database.execute("CREATE TABLE jobs (id TEXT)")
    text = tmp_path / "text.pem"
    text.write_text("no certificate", encoding="utf-8")
    pair = [trustme.CA().issue_cert("a.example") for _ in range(2)]
    pair[0].cert_chain_pems[0].write_to_path(tmp_path / "one.pem")
    pair[1].private_key_pem.write_to_path(tmp_path / "other.key")
    data = ("--port", "0", "--data", str(tmp_path / "data"))
    cases = {
        ("--host", "0.0.0.0"): "there are no keys: give --keys, or --open",
        ("--host", "nowhere.invalid"): "is no address of this machine",
        ("--keys", "--database", f"sqlite:///{broken}"): "file is not a database",
        ("--keys", "--database", "nonsense"): "see --database",
        ("--keys", "--database", "sqlite:////proc/none/x.db"): "cannot be opened",
        ("--tls-cert", str(text)): "go together",
        ("--tls-cert", str(text), "--tls-key", str(tmp_path / "none")): "no file",
        ("--tls-cert", str(text), "--tls-key", str(text)): "they must be PEM",
        ("--tls-cert", str(tmp_path / "one.pem"), "--tls-key", str(tmp_path / "other.key")): "fit each other",
        ("--allow-origin", "app.example.com"): "is no origin",
        ("--allow-origin", "*"): "needs --keys",
        ("--metrics-from", "everywhere"): "is no network",
        ("--trust-proxy", "10.0.0.1,somebody"): "has no address",
        ("--job-workers", "-1"): "--job-workers must not be negative",
        ("--keep-hours", "0"): "--keep-hours must be positive",
        ("--database", f"sqlite:///{old}"): "its table jobs has other columns",
    }
    said = say([(*data, *arguments) for arguments in cases])
    for arguments, found, sentence in zip(cases, said, cases.values(), strict=True):
        assert found.startswith("error: ") and found.count("\n") == 1, (arguments, found)
        assert sentence in found, (arguments, found)


def test_other_pages_may_not_use_a_gateway_without_keys(gateway, files: list[Path]) -> None:
    for origin in (ELSEWHERE, "null", "http://127.0.0.1:1", "http://localhost.elsewhere.example"):
        error = gateway.error(
            403, data={"model": "asr"}, files={"file": files[0].read_bytes()}, headers={"origin": origin}
        )
        assert "--allow-origin" in error["message"]
        with pytest.raises(InvalidStatus) as caught:
            connect(f"{gateway.url.replace('http', 'ws')}/v1/realtime", origin=origin)
        assert caught.value.response.status_code == 403 and json.loads(caught.value.response.body)
    preflight = {"origin": ELSEWHERE, "access-control-request-method": "POST"}
    answer = httpx.options(f"{gateway.url}/v1/audio/transcriptions", headers=preflight)
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


def test_its_own_page_may(gateway) -> None:
    answer = httpx.get(f"{gateway.url}/v1/models", headers={"origin": gateway.url})
    assert answer.status_code == 200 and answer.headers["x-content-type-options"] == "nosniff"
    url = f"{gateway.url.replace('http', 'ws')}/v1/realtime?intent=transcription"
    with connect(url, origin=gateway.url):
        pass


def test_names_that_a_page_could_have_made_point_here(gateway) -> None:
    port = httpx.URL(gateway.url).port
    for host, status in (
        (f"rebound.example:{port}", 403),
        ("127.0.0.1.rebound.example", 403),
        (f"localhost:{port}", 200),
        (f"[::1]:{port}", 200),
        ("gateway", 200),
    ):
        answer = httpx.get(f"{gateway.url}/v1/models", headers={"host": host, "origin": f"http://{host}"})
        assert answer.status_code == status, host


def test_figures_stay_here(gateway) -> None:
    assert httpx.get(f"{gateway.url}/metrics", headers={"forwarded": "for=1.2.3.4"}).status_code == 403


def test_tls_for_the_sdk_and_for_sockets(exposed, keys: Keys, files: list[Path]) -> None:
    key = keys.create()
    assert exposed.url.startswith("https://")
    assert transcribe(exposed, key, files[0])
    with pytest.raises(openai.AuthenticationError):
        transcribe(exposed, "wrong", files[0])
    url = f"{exposed.url.replace('http', 'ws')}/v1/realtime?intent=transcription"
    with connect(url, additional_headers={"authorization": f"Bearer {key}"}):
        pass
    with pytest.raises(httpx.HTTPError):
        httpx.get(exposed.url.replace("https", "http"))


def test_its_address_is_one_that_can_be_opened(exposed) -> None:
    said = exposed.log.read_text(encoding="utf-8")
    assert f"gateway: {exposed.url}/v1;" in said and f"page: {exposed.url}/\n" in said
    assert "other machines too, at every address of this one (0.0.0.0)" in said


def test_a_page_that_is_allowed(exposed, keys: Keys) -> None:
    """The headers that a browser asks for when a page uses OpenAI's own JavaScript."""
    asked = (
        "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,"
        "x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,x-stainless-timeout"
    )
    preflight = {
        "origin": APP,
        "access-control-request-method": "POST",
        "access-control-request-headers": asked,
        "access-control-request-private-network": "true",
    }
    answer = httpx.options(f"{exposed.url}/v1/audio/transcriptions", headers=preflight)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == APP
    assert set(asked.split(",")) <= set(answer.headers["access-control-allow-headers"].split(","))
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-private-network"] == "true"
    for key, status in ((keys.create(), 200), ("wrong", 401)):  # a page can read its refusal, too
        headers = {"origin": APP, "authorization": f"Bearer {key}"}
        answer = httpx.get(f"{exposed.url}/v1/models", headers=headers)
        assert answer.status_code == status and answer.headers["access-control-allow-origin"] == APP
        assert "x-request-id" in answer.headers["access-control-expose-headers"]


def test_a_page_that_is_not(exposed, keys: Keys) -> None:
    for method, extra in (
        ("OPTIONS", {"access-control-request-method": "POST"}),
        ("GET", {"authorization": f"Bearer {keys.create()}"}),
    ):
        answer = httpx.request(method, f"{exposed.url}/v1/models", headers={"origin": ELSEWHERE, **extra})
        assert "access-control-allow-origin" not in answer.headers


def test_clients_behind_a_proxy_are_not_the_proxy(exposed) -> None:
    for forwarded, status in ((None, 200), ("9.9.9.9", 401), ("127.0.0.1, 9.9.9.9", 401)):
        headers = {"x-forwarded-for": forwarded} if forwarded else {}
        assert httpx.get(f"{exposed.url}/metrics", headers=headers).status_code == status, forwarded
