"""Messages to callers: signed, tried again, never sent inside."""

import asyncio
import base64
import ipaddress
import json
import re
import socket
from pathlib import Path

import httpx
import pytest
from backing_services import wait_until
from hypothesis import given
from hypothesis import strategies as st
from ssrfguard import SSRFGuardError
from standardwebhooks import Webhook, WebhookVerificationError

from ko_asr.errors import UserError
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.jobs.safe_http import SafeHttp
from ko_asr.gateway.jobs.webhooks import read_secret, signature, wait_after


def test_a_message_tells_of_the_end_of_a_job(jobs, files: list[Path], receiver) -> None:
    job = jobs.job(files[0], callback_url=f"{receiver.url}/end", metadata='{"통화": "7"}')
    wait_until(lambda: receiver.at("/end"))
    message = receiver.at("/end")[0].verified(jobs.webhook_secret)
    assert message["type"] == "job.completed" and message["timestamp"].endswith("Z")
    data = message["data"]
    assert (data["id"], data["status"], data["metadata"]) == (job, "completed", {"통화": "7"})
    assert httpx.get(f"{jobs.url}{data['result']}").json()["text"]
    assert "text" not in data and len(receiver.at("/end")[0].body) < 20_000
    broken = jobs.data / "broken"
    broken.write_bytes(b"%PDF" + bytes(100))
    jobs.job(broken, callback_url=f"{receiver.url}/failed")
    wait_until(lambda: receiver.at("/failed"))
    message = receiver.at("/failed")[0].verified(jobs.webhook_secret)
    assert message["type"] == "job.failed" and message["data"]["error"]["code"] == "unknown_format"
    log = jobs.log.read_text(encoding="utf-8")
    assert re.search(rf"job {job} completed: \d+\.\d s of audio in \d+\.\d s\n", log)
    assert re.search(rf"webhook msg_\w+ of {job}: try 1: 20[04] in \d+\.\d s\n", log)
    assert re.search(rf"job {message['data']['id']} failed: unknown_format after \d+\.\d s\n", log)
    assert receiver.url not in log and httpx.get(f"{jobs.url}{data['result']}").json()["text"] not in log
    with pytest.raises(WebhookVerificationError):
        receiver.at("/end")[0].verified("whsec_" + base64.b64encode(bytes(32)).decode())


def test_it_is_tried_until_it_is_taken(jobs, files: list[Path], receiver) -> None:
    given = iter([(500, {}), (302, {"location": f"{receiver.url}/stolen"}), (200, {})])
    receiver.answers["/third"] = lambda: next(given)
    jobs.job(files[0], callback_url=f"{receiver.url}/third")
    wait_until(lambda: len(receiver.at("/third")) == 3)
    assert len({one.id for one in receiver.at("/third")}) == 1 and not receiver.at("/stolen")


def test_410_ends_it_and_retry_after_is_heeded(jobs, files: list[Path], receiver) -> None:
    receiver.answers["/gone"] = lambda: (410, {})
    receiver.answers["/busy"] = lambda: (429, {"retry-after": "3600"})
    receiver.answers["/after"] = lambda: (500, {})
    for path in ("/gone", "/busy", "/after"):
        jobs.job(files[0], callback_url=f"{receiver.url}{path}")
    wait_until(lambda: len(receiver.at("/after")) >= 2)  # the others would have come again, too
    assert len(receiver.at("/gone")) == len(receiver.at("/busy")) == 1


@given(attempt=st.integers(1, 20), after=st.none() | st.floats(0, 1e9), chance=st.floats(0, 1))
def test_waits_grow_and_end(attempt: int, after: float | None, chance: float) -> None:
    wait, next_wait = wait_after(attempt, after, chance), wait_after(attempt + 1, after, 1 - chance)
    if wait is None:
        assert next_wait is None and attempt > 5
        return
    assert 4 <= wait <= 1.2 * 86_400 and wait >= min(after or 0, 86_400)
    assert next_wait is None or after or next_wait >= wait  # whatever the jitter
    assert wait_after(attempt, None, 0.5) == pytest.approx((wait_after(attempt, None, 0) or 0) / 0.8)


@given(secret=st.binary(min_size=24, max_size=64), name=st.text("abc_123", min_size=1), body=st.text())
def test_the_signature_is_the_librarys(secret: bytes, name: str, body: str) -> None:
    import time

    now = int(time.time())
    mine = signature(secret, name, now, body.encode())
    headers = {"webhook-id": name, "webhook-timestamp": str(now), "webhook-signature": mine}
    Webhook(secret).verify(body.encode(), headers, json_parse=False)


def test_the_secret_is_made_once_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    made = read_secret(path, make=True)
    assert read_secret(path, make=True) == made and path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    for text in ("", "whsec_", "whsec_c2hvcnQ=", base64.b64encode(bytes(32)).decode(), "whsec_???"):
        path.write_text(text)
        with pytest.raises(UserError):
            read_secret(path, make=True)
    with pytest.raises(UserError):
        read_secret(tmp_path / "none", make=False)


INSIDE = (
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
    *("198.18.0.1", "224.0.0.1", "255.255.255.255", "192.0.0.1", "240.0.0.1"),
    *("::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
    *("64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1"),
)
REFUSED = (
    *("http://example.com/", "ftp://example.com/", "file:///etc/passwd", "example.com", "https://", ""),
    *("https://u:p@example.com/", "https://example.com:22/", "https://2130706433/", "https://1.2.3.4.5/"),
    *(
        "https://127.1/",
        "https://017700000001/",
        "https://\u2460\u2461\u2466.0.0.1/",
        "https://example.com\n.evil/",
    ),
    *(f"https://[{address}]/" if ":" in address else f"https://{address}/" for address in INSIDE),
)


@pytest.mark.parametrize("url", REFUSED)
def test_addresses_that_are_refused_at_once(url: str) -> None:
    with pytest.raises(ApiError) as caught:
        SafeHttp((), False, 1).check(url, "callback_url")
    assert caught.value.status == 400 and caught.value.param == "callback_url"


@pytest.mark.parametrize("url", ["https://example.com/hook?a=b", "https://8.8.8.8/", "https://한국.example/"])
def test_addresses_that_are_taken(url: str) -> None:
    assert SafeHttp((), False, 1).check(url, "callback_url") == url


@pytest.mark.parametrize("address", INSIDE)
def test_a_name_that_leads_inside_is_not_called(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are looked up once; one inside answer among good ones is enough."""
    asked, sockets = [], []
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    real = socket.getaddrinfo

    def lookup(host, port, *arguments, **named):
        if host != "callback.example":
            return real(host, port, *arguments, **named)
        asked.append(host)
        answers = [(socket.AF_INET, "93.184.215.14"), (family, address)]
        return [(kind, socket.SOCK_STREAM, 6, "", (ip, port)) for kind, ip in answers]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(socket.socket, "connect", lambda *a: sockets.append(a))

    async def call() -> None:
        async with SafeHttp((), False, 1) as http:
            url = http.check("https://callback.example/", "callback_url")
            await http.client(url).post(url)

    with pytest.raises(SSRFGuardError):
        asyncio.run(call())
    assert asked and not sockets


def test_a_number_that_the_resolver_takes_for_an_address_is_not_called() -> None:
    async def call() -> None:
        async with SafeHttp((), False, 1) as http:
            url = http.check("https://0x7f.1/", "callback_url")
            await http.client(url).post(url)

    with pytest.raises((SSRFGuardError, httpx.ConnectError)):
        asyncio.run(call())


def test_only_named_hosts_may_be_inside(receiver) -> None:
    async def call(http: SafeHttp, url: str) -> int:
        return (await http.client(url).post(url)).status_code

    async def run() -> None:
        async with SafeHttp({"localhost"}, False, 1) as http:
            at = receiver.url.replace("127.0.0.1", "localhost")
            assert await call(http, http.check(f"{at}/x", "callback_url")) == 204
            with pytest.raises(ApiError):
                http.check(f"{receiver.url}/x", "callback_url")

    asyncio.run(run())


def test_a_body_is_small(jobs, files: list[Path], receiver) -> None:
    pairs = {f"{number:02}" + "키" * 30: "값" * 135 for number in range(16)}
    metadata = json.dumps(pairs, ensure_ascii=False)
    assert 8000 < len(metadata.encode()) < 8192
    jobs.job(files[0], callback_url=f"{receiver.url}/small", metadata=metadata)
    wait_until(lambda: receiver.at("/small"))
    assert len(receiver.at("/small")[0].body) < 20_000
