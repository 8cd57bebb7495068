"""The HTTP application: routes, errors, health, metrics."""

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from ko_asr.gateway.api import corrections
from ko_asr.gateway.api import jobs as jobs_api
from ko_asr.gateway.api import plain as plain_api
from ko_asr.gateway.api.description import describe
from ko_asr.gateway.api.openai import api as openai
from ko_asr.gateway.api.openai import realtime
from ko_asr.gateway.api.page import routes as page
from ko_asr.gateway.api.rtzr import authenticate
from ko_asr.gateway.api.rtzr import streaming as rtzr_streaming
from ko_asr.gateway.api.rtzr import transcribe as rtzr_transcribe
from ko_asr.gateway.errors import add_handlers
from ko_asr.gateway.gateway import Gateway
from ko_asr.gateway.guard import guarded
from ko_asr.gateway.jobs.room import Jobs
from ko_asr.gateway.live.inbox import Sockets
from ko_asr.gateway.metrics import Metrics, Observed
from ko_asr.gateway.settings.gateway import Settings
from ko_asr.gateway.unread import ClosesUnread
from ko_asr.gateway.uploads import Uploads


def create_app(
    settings: Settings, sockets: Sockets | None = None, uploads: Uploads | None = None
) -> Observed:
    """An ASGI application, for one event loop; ``sockets`` and ``uploads`` get what it has to end."""
    metrics = Metrics()
    gateway = Gateway(settings, metrics, sockets)
    jobs = Jobs(gateway)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with gateway, jobs:
            yield

    # No pages of documentation: they would load scripts from elsewhere.
    app = FastAPI(title="ko-asr gateway", lifespan=lifespan, docs_url=None, redoc_url=None)
    add_handlers(app)
    app.include_router(openai.routes(gateway))
    app.include_router(realtime.routes(gateway))
    app.include_router(rtzr_streaming.routes(gateway))
    app.include_router(plain_api.routes(gateway))
    app.include_router(corrections.routes(gateway))
    app.include_router(page.routes(gateway))
    app.include_router(authenticate.routes(gateway))
    app.include_router(rtzr_transcribe.routes(jobs))
    app.include_router(jobs_api.routes(jobs))

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """Answer as long as the process does."""
        return {"status": "live"}

    @app.get("/health/ready", responses={429: {}, 503: {}})
    async def ready() -> dict[str, str]:
        """Answer 200 where an inference was answered just now, else what is wrong."""
        gateway.check_database()
        await gateway.recogniser.check()
        return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def figures() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.page(), media_type=CONTENT_TYPE_LATEST)

    describe(app, settings.access.keys)
    return Observed(
        guarded(ClosesUnread(app, uploads or Uploads()), settings.access, gateway.accounts), metrics
    )
