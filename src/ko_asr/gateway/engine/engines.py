"""From the settings to an engine."""

from collections.abc import Callable

from ko_asr.gateway.engine.engine import Engine
from ko_asr.gateway.engine.figures import ServerFigures, ShadowFigures
from ko_asr.gateway.engine.shadow import Shadow, ShadowedEngine
from ko_asr.gateway.engine.triton import TritonEngine
from ko_asr.gateway.metrics import Metrics
from ko_asr.gateway.settings.engine import EMBEDDED
from ko_asr.gateway.settings.gateway import Settings


def engine_maker(settings: Settings, metrics: Metrics) -> Callable[[], Engine]:
    """What makes the engine in a running loop. UserError when the embedded one cannot be loaded."""
    if settings.engine.kind == EMBEDDED:
        from ko_asr.gateway.engine.embedded.engine import load

        return load(settings.engine, settings.timeout)
    return lambda: _triton(settings, metrics)


def _triton(settings: Settings, metrics: Metrics) -> Engine:
    engine = TritonEngine(settings.engine.groups, settings.timeout, settings.engine.health_timeout)
    metrics.add(ServerFigures(engine))
    if settings.engine.shadow is None:
        return engine
    shadow = Shadow(TritonEngine([settings.engine.shadow], settings.timeout), settings.engine.shadow_share)
    metrics.add(ShadowFigures(shadow))
    return ShadowedEngine(engine, shadow)
