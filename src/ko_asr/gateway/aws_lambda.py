"""The gateway as an AWS Lambda function: files only, the model in the image (deploy/lambda/Dockerfile).

Lambda calls `handler` with events of a function URL, an API Gateway (HTTP or REST) or a load balancer, which
Mangum turns into requests. The options of `python -m ko_asr.gateway` are in the environment variable
KO_ASR_GATEWAY_OPTIONS. It was tested with recorded events, and not run in the cloud.
"""

import asyncio
import functools
import os
import shlex
from typing import Any

from mangum import Mangum
from mangum.protocols import LifespanCycle

from ko_asr.gateway.app import create_app
from ko_asr.gateway.command_line import parse

OPTIONS = "KO_ASR_GATEWAY_OPTIONS"
# Lambda takes events of 6 MB, in which Base64 leaves room for 4.5 MB of a body.
# Who may call it is decided before it, by the function's URL or API; --keys decides it here.
_DEFAULTS = (
    "--engine embedded --repository /opt/ko-asr/triton --max-upload 4 --data /tmp/ko-asr --allow-host '*'"
)
_TEXT = ["text/", "application/json", "application/x-subrip"]  # the rest is answered as Base64


class Function:
    """The application, begun once for all events of a process: with each event it would begin anew."""

    def __init__(self) -> None:
        """Load the model and begin. UserError when the options or the model are unfit."""
        options = shlex.split(f"{_DEFAULTS} {os.environ.get(OPTIONS, '')}")
        app = create_app(parse(OPTIONS, str(__doc__), options))
        asyncio.set_event_loop(asyncio.new_event_loop())  # the one that Mangum takes
        self._running = LifespanCycle(app, "on")  # kept: nobody else holds its task
        self._running.__enter__()
        self.answer = Mangum(app, lifespan="off", text_mime_types=_TEXT)


@functools.cache
def function() -> Function:
    """The function of this process."""
    return Function()


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one event."""
    answer: dict[str, Any] = function().answer(event, context)
    return answer


if "AWS_LAMBDA_RUNTIME_API" in os.environ:  # while the process begins, when Lambda gives it whole cores
    function()
