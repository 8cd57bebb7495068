"""A worker of jobs: a process beside the gateways, on this host or another.

    python -m ko_asr.gateway.worker --triton 127.0.0.1:8001 --data DIR --job-workers 2

It takes the options of the gateway and serves no port; docs/gateway-jobs.md has the whole.
"""

import asyncio
import contextlib
import logging
import signal

from ko_asr.errors import run_main
from ko_asr.gateway.__main__ import parse
from ko_asr.gateway.gateway import Gateway
from ko_asr.gateway.live.inbox import Sockets
from ko_asr.gateway.metrics import Metrics
from ko_asr.gateway.settings.gateway import Settings


async def work(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT; then jobs go back to the queue."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Gateway(settings, Metrics(), Sockets()):
        print(f"jobs: {settings.jobs.workers} at a time; {settings.engine}", flush=True)
        await stop.wait()


def main() -> None:
    settings = parse("python -m ko_asr.gateway.worker", str(__doc__))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("ko_asr.gateway").setLevel(logging.INFO)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(work(settings))


if __name__ == "__main__":
    run_main(main)
