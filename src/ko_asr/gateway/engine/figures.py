"""Figures of the servers and of the shadow for Prometheus, read when they are asked for."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ko_asr.gateway.engine.shadow import Shadow
from ko_asr.gateway.engine.triton import TritonEngine

_PREFIX = "ko_asr_gateway"
_LABELS = ("version", "server")


class ServerFigures:
    """What each server of ``engine`` does; those that left the DNS are not shown."""

    def __init__(self, engine: TritonEngine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """The figures now."""
        servers = self._engine.servers
        for name, what in (
            ("healthy", "1 where a server is asked, 0 where it is out"),
            ("files_in_flight", "Pieces of files under way at a server"),
            ("streams_in_flight", "Live streams at a server"),
        ):
            gauge = GaugeMetricFamily(f"{_PREFIX}_server_{name}", what, labels=_LABELS)
            for server in servers:
                gauge.add_metric((server.version, server.url), float(getattr(server, name)))
            yield gauge
        for name, what in (
            ("files", "Pieces of files sent to a server"),
            ("streams", "Live streams begun or resumed at a server"),
            ("failures", "Requests that a server did not answer"),
        ):
            counter = CounterMetricFamily(f"{_PREFIX}_server_{name}", what, labels=_LABELS)
            for server in servers:
                counter.add_metric((server.version, server.url), getattr(server, name))
            yield counter


class ShadowFigures:
    """What the shadow heard, and how far its texts are from those that were answered."""

    def __init__(self, shadow: Shadow) -> None:
        self._shadow = shadow

    def collect(self) -> Iterator[Metric]:
        """The figures now."""
        shadow = self._shadow
        for name, value, what in (
            ("compared", shadow.compared, "Pieces of files that the shadow recognised too"),
            ("different", shadow.different, "Of them with another text"),
            ("failed", shadow.failed, "Pieces that the shadow did not answer"),
            ("dropped", shadow.dropped, "Pieces that it was too busy for"),
        ):
            yield CounterMetricFamily(f"{_PREFIX}_shadow_{name}", what, value=value)
        yield GaugeMetricFamily(
            f"{_PREFIX}_shadow_cer",
            "Mean character error rate of its texts against those answered",
            value=shadow.cer,
        )
