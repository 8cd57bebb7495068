"""`python -m ko_asr.gateway` that believes who a request says it is (x-caller): stands in for keys."""

from starlette.requests import HTTPConnection

import ko_asr.gateway.__main__ as gateway
from ko_asr.errors import run_main
from ko_asr.gateway.caller import Caller, set_caller

make = gateway.create_app


def create_app(settings):
    app = make(settings)

    async def named(scope, receive, send):
        if scope["type"] == "http" and (name := HTTPConnection(scope).headers.get("x-caller")):
            set_caller(HTTPConnection(scope), Caller(name))
        await app(scope, receive, send)

    return named


if __name__ == "__main__":
    gateway.create_app = create_app
    run_main(gateway.main)
