"""Serve HTTP and WebSockets in front of Triton: OpenAI's API, RTZR's and a plain one.

    python -m ko_asr.gateway --triton 127.0.0.1:8001 --port 9000 --alias whisper-1

It listens on 127.0.0.1; --host with --keys lets other machines come in. docs/gateway.md has the routes.
"""

import gc
import logging
import os

import uvicorn

from ko_asr.errors import UserError, run_main
from ko_asr.gateway.access.address import listen, server_options, summary, url
from ko_asr.gateway.app import create_app
from ko_asr.gateway.command_line import parse
from ko_asr.gateway.live.inbox import Sockets
from ko_asr.gateway.live.server import LiveServer
from ko_asr.gateway.uploads import Uploads


def main() -> None:
    settings = parse("python -m ko_asr.gateway", str(__doc__))
    if not settings.folder.is_dir():
        raise UserError(f"no folder {settings.folder} for temporary files: make it, or give another --folder")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # it would log a line for every ffmpeg
    os.environ.setdefault("WEBSOCKETS_MAX_LINE_LENGTH", "32768")  # 1,000 letters of keywords fit
    options = server_options(settings.access)
    sockets, uploads = Sockets(), Uploads()
    app, listening = create_app(settings, sockets, uploads), listen(settings.access, settings.port)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("ko_asr.gateway").setLevel(logging.INFO)
    address = url(settings.access, listening)
    ffmpeg = "libsndfile and ffmpeg" if settings.ffmpeg else "libsndfile only: no WebM, MP4, M4A, AAC, AMR"
    print(f"gateway: {address}/v1; {settings.engine}; reads {ffmpeg}")
    print(f"lets in: {summary(settings.access, listening)}")
    print(f"page: {address}/")
    key = ' -H "Authorization: Bearer $KEY"' if settings.access.keys else ""
    print(f"next: curl {address}/v1/transcribe -F audio=@speech.wav{key}", flush=True)
    gc.freeze()  # what was imported is never garbage
    gc.set_threshold(20_000, 20, 20)  # live speech makes few circles; looking for them took 6 % of its time
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=30,
        ws_per_message_deflate=False,  # audio gets no smaller, and 500 sockets would take 20 MB more
        ws_ping_timeout=120.0,  # a client's answer waits behind the audio that it has sent
        **options,
    )
    LiveServer(config, sockets, uploads).run(sockets=[listening])


if __name__ == "__main__":
    run_main(main)
