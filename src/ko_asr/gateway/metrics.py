"""What every request leaves: an id, a line in the log without a word of it, and figures for Prometheus."""

import asyncio
import logging
import secrets
import time
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ko_asr.gateway import answered_by
from ko_asr.gateway.errors import CLIENT_GONE
from ko_asr.gateway.uploads import stopping

LOG = logging.getLogger("ko_asr.gateway")
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metrics:
    """The figures of one gateway."""

    def __init__(self) -> None:
        # They would double the series, and tell the start of the process only.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client has no types for it
        self._registry = CollectorRegistry()
        options: dict[str, Any] = {"registry": self._registry, "namespace": "ko_asr_gateway"}
        self.requests = Counter("requests", "Requests answered", ["route", "status"], **options)
        self.seconds = Histogram(
            "request_seconds",
            "From a request to the end of its answer",
            ["route"],
            buckets=_SECONDS,
            **options,
        )
        self.in_flight = Gauge("requests_in_flight", "Requests on board", **options)
        self.streams = Gauge("streams_open", "Streams of live speech at the recogniser", **options)
        self.streamed = Counter("streamed_seconds", "Seconds of live speech", **options)
        self.audio = Counter("audio_seconds", "Seconds of audio accepted", **options)
        self.jobs = Counter("jobs", "Jobs ended by workers of this process", ["status"], **options)

    def add(self, collector: Collector) -> None:
        """Show what ``collector`` tells as well."""
        self._registry.register(collector)

    def page(self) -> bytes:
        """All figures in Prometheus's text format."""
        page: bytes = generate_latest(self._registry)
        return page


class Observed:
    """ASGI application that counts and logs what ``app`` answers, under an x-request-id."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what ``app`` raises is logged, and answered by its own handlers."""
        if scope["type"] == "websocket":
            await self._app(scope, receive, self._watching_handshake(scope, send))
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        versions = answered_by.begin()
        request_id, started, status = f"req_{secrets.token_hex(12)}", time.perf_counter(), CLIENT_GONE

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if versions:
                    headers["x-model-version"] = ", ".join(sorted(versions))
            await send(message)

        with self._metrics.in_flight.track_inprogress():
            try:
                await self._app(scope, receive, observed_send)
            except asyncio.CancelledError:  # the server stops, and has waited long enough
                if status == CLIENT_GONE:
                    await stopping().response(scope["path"])(scope, receive, observed_send)
            except Exception:
                LOG.exception("%s failed", request_id)
        self._note(scope, request_id, status, time.perf_counter() - started)

    def _watching_handshake(self, scope: Scope, send: Send) -> Send:
        """Count and log a WebSocket that is refused; one that is let in is logged when it ends."""
        request_id, started = f"req_{secrets.token_hex(12)}", time.perf_counter()

        async def observed_send(message: Message) -> None:
            if message["type"] == "websocket.http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
                self._note(scope, request_id, message["status"], time.perf_counter() - started)
            await send(message)

        return observed_send

    def _note(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        routine = route.startswith("/health/") and status < 400  # a probe every few seconds
        LOG.log(
            logging.DEBUG if routine else logging.INFO,
            "%s %s %s %d %.0f ms",
            request_id,
            scope.get("method", "WebSocket"),
            route,
            status,
            1000 * seconds,
        )
