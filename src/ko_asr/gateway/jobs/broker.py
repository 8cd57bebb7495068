"""A message broker beside the database: jobs come from it, news of their end goes to it (FastStream).

Messages carry ids. Who works at what is in the database alone: a broker may deliver late and twice.
"""

import importlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from ko_asr.errors import UserError

SUBMIT = "job.submit"
_NAME = "ko_asr"  # of the stream, the exchange, and the first part of subjects
Handler = Callable[[Any], Awaitable[None]]


class Broker(Protocol):
    """One connection. Its methods raise what the client library raises."""

    async def start(self) -> None:
        """Connect, and begin to take messages."""

    async def publish(self, kind: str, body: bytes, message: str) -> None:
        """Publish ``body`` under ``kind``, such as job.completed; ``message`` is its id over all tries."""

    async def stop(self) -> None:
        """Disconnect."""


def open_broker(url: str, handler: Handler) -> Broker:
    """The broker at ``url``; ``handler`` gets what comes to job.submit, and raises to get it again.

    UserError where there is no such broker.
    """
    kinds: dict[str, type[_Nats | _Rabbit | _Kafka]] = {
        **dict.fromkeys(("nats", "tls"), _Nats),
        **dict.fromkeys(("amqp", "amqps"), _Rabbit),
        "kafka": _Kafka,
    }
    scheme = url.partition("://")[0]
    if scheme not in kinds:
        raise UserError("--broker must be nats://HOST:PORT, amqp://USER:PASSWORD@HOST/ or kafka://HOST:PORT")
    try:
        return kinds[scheme](url, handler)
    except ImportError as error:
        raise UserError(
            f"--broker needs FastStream ({error.name} is missing): pip install -r requirements-broker.txt"
        ) from error


def _again() -> Any:
    """The policy that gives a message back when its handler raises."""
    return importlib.import_module("faststream").AckPolicy.NACK_ON_ERROR


class _Nats:
    """NATS with JetStream: the stream ko_asr keeps messages until they are taken."""

    def __init__(self, url: str, handler: Handler) -> None:
        nats = importlib.import_module("faststream.nats")
        self._broker = nats.NatsBroker(url, max_reconnect_attempts=-1, logger=None)
        self._stream = nats.JStream(name=_NAME, subjects=[f"{_NAME}.>"])
        subject = f"{_NAME}.{SUBMIT}"
        self._broker.subscriber(
            subject,
            durable="gateways",
            pull_sub=nats.PullSub(batch_size=1),  # one consumer for all gateways
            stream=self._stream,
            ack_policy=_again(),
            no_reply=True,
        )(handler)

    async def start(self) -> None:
        await self._broker.start()

    async def publish(self, kind: str, body: bytes, message: str) -> None:
        # What comes twice within two minutes is once in the stream.
        headers = {"Nats-Msg-Id": message, "content-type": "application/json"}
        await self._broker.publish(body, f"{_NAME}.{kind}", headers=headers, stream=_NAME, timeout=10)

    async def stop(self) -> None:
        await self._broker.stop()


class _Rabbit:
    """RabbitMQ: a durable queue of jobs, and a topic exchange of news; who wants them binds a queue."""

    def __init__(self, url: str, handler: Handler) -> None:
        rabbit = importlib.import_module("faststream.rabbit")
        self._broker = rabbit.RabbitBroker(url, logger=None)
        self._exchange = rabbit.RabbitExchange(_NAME, type=rabbit.ExchangeType.TOPIC, durable=True)
        queue = rabbit.RabbitQueue(f"{_NAME}.{SUBMIT}", durable=True, routing_key=SUBMIT)
        self._broker.subscriber(queue, self._exchange, ack_policy=_again(), no_reply=True)(handler)

    async def start(self) -> None:
        await self._broker.start()

    async def publish(self, kind: str, body: bytes, message: str) -> None:
        await self._broker.publish(
            body,
            exchange=self._exchange,
            routing_key=kind,
            mandatory=False,
            persist=True,
            message_id=message,
            content_type="application/json",
            timeout=10,
        )

    async def stop(self) -> None:
        await self._broker.stop()


class _Kafka:
    """Kafka: the topics ko_asr.job.submit, ko_asr.job.completed, ko_asr.job.failed."""

    def __init__(self, url: str, handler: Handler) -> None:
        kafka = importlib.import_module("faststream.kafka")
        self._broker = kafka.KafkaBroker(url.removeprefix("kafka://").split(","), logger=None)
        self._broker.subscriber(
            f"{_NAME}.{SUBMIT}",
            group_id="gateways",
            auto_offset_reset="earliest",
            ack_policy=_again(),
            no_reply=True,
        )(handler)

    async def start(self) -> None:
        await self._broker.start()

    async def publish(self, kind: str, body: bytes, message: str) -> None:
        headers = {"message-id": message, "content-type": "application/json"}
        await self._broker.publish(body, f"{_NAME}.{kind}", key=message.encode(), headers=headers)

    async def stop(self) -> None:
        await self._broker.stop()
