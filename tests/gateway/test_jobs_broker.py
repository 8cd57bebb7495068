"""Jobs from a broker, and news of their end to it: real servers, clients that know nothing of FastStream."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from backing_services import nats, rabbitmq, wait_until
from gateway_process import PYTHON, GatewayProcess
from webhook_receiver import Receiver

# Both listen to all messages, send the lines of standard input as jobs, and print what comes as JSON lines.
NATS = """
import asyncio, json, sys, nats
async def main():
    connection = await nats.connect(sys.argv[1])
    stream = connection.jetstream()
    heard = await stream.subscribe("ko_asr.job.*")
    for line in sys.stdin:
        await stream.publish("ko_asr.job.submit", line.strip().encode())
    print("sent", flush=True)
    async for message in heard.messages:
        if message.subject != "ko_asr.job.submit":
            print(message.data.decode(), flush=True)
asyncio.run(main())
"""
RABBIT = """
import asyncio, json, sys, aio_pika
async def main():
    connection = await aio_pika.connect(sys.argv[1])
    channel = await connection.channel()
    exchange = await channel.declare_exchange("ko_asr", "topic", durable=True)
    queue = await channel.declare_queue(exclusive=True)
    await queue.bind(exchange, "job.*")
    for line in sys.stdin:
        await exchange.publish(aio_pika.Message(line.strip().encode()), "job.submit")
    print("sent", flush=True)
    async with queue.iterator() as messages:
        async for message in messages:
            if message.routing_key != "job.submit":
                print(message.body.decode(), flush=True)
asyncio.run(main())
"""


@pytest.fixture(params=["nats", "rabbitmq"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The address of a broker, and the program of its client."""
    found = subprocess.run([PYTHON, "-c", "import faststream"], capture_output=True)
    if found.returncode:
        pytest.skip("no FastStream: make setup-broker")
    server, program = (nats, NATS) if request.param == "nats" else (rabbitmq, RABBIT)
    with server(tmp_path / "broker") as url:
        yield url, program


def test_jobs_come_and_news_go(asr_server, files: list[Path], broker, tmp_path: Path) -> None:
    url, program = broker
    options = (
        "--broker",
        url,
        "--allow-url",
        "127.0.0.1",
        "--allow-callback",
        "127.0.0.1",
        "--job-poll",
        "0.1",
    )
    with Receiver() as receiver, GatewayProcess(asr_server, tmp_path / "g", *options) as gateway:
        receiver.files["/speech"] = files[0].read_bytes()
        job = {"id": "one", "url": f"{receiver.url}/speech", "metadata": {"mine": "1"}}
        bad = [{"id": "two", "url": "http://x/"}, {"id": "\ud800", "url": "http://x/"}]
        lines = [json.dumps(job), json.dumps(job), "nonsense", *map(json.dumps, bad)]
        wait_until(lambda: "broker" not in gateway.log.read_text())
        output = tmp_path / "heard"
        with output.open("w") as stream:
            command = [PYTHON, "-c", program, url]
            client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stream, text=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            client.communicate("\n".join(lines), timeout=0.1)

        def heard() -> list[dict]:
            return [json.loads(line) for line in output.read_text().splitlines() if line != "sent"]

        try:
            wait_until(lambda: len(heard()) >= 4)
            uploaded = gateway.job(files[1])  # one that came over HTTP is told of as well
            wait_until(lambda: len(heard()) >= 5)
        finally:
            client.kill()
            client.wait()
        news = heard()
        assert sorted(one["type"] for one in news) == ["job.completed"] * 2 + ["job.rejected"] * 3
        done = {one["data"]["id"]: one["data"] for one in news if one["type"] == "job.completed"}
        assert uploaded in done
        (mine,) = (data for data in done.values() if data["metadata"] == {"mine": "1"})
        assert gateway.result(mine["id"]).json()["text"] == gateway.text(files[0])
        refused = {one["data"]["id"]: one["data"]["error"] for one in news if one["type"] == "job.rejected"}
        assert refused["two"]["param"] == "url" and set(refused) == {"two", None}
