"""Serve HTTP in front of Triton: OpenAI's transcription API and a plain one.

    python -m ko_asr.gateway --triton 127.0.0.1:8001 --port 9000 --alias whisper-1

It listens on 127.0.0.1; --host with --keys lets other machines come in. docs/gateway.md has the routes.
"""

import argparse
import gc
import logging
import os
from pathlib import Path

import uvicorn

from ko_asr.errors import UserError, run_main
from ko_asr.gateway.access.address import listen, server_options, summary, url
from ko_asr.gateway.app import create_app
from ko_asr.gateway.audio.ffmpeg import find_ffmpeg
from ko_asr.gateway.live.inbox import Sockets
from ko_asr.gateway.live.server import LiveServer
from ko_asr.gateway.settings.access import AccessSettings
from ko_asr.gateway.settings.corrections import CorrectionSettings
from ko_asr.gateway.settings.engine import EngineSettings
from ko_asr.gateway.settings.gateway import DEFAULT_PORT, MIB, Settings
from ko_asr.gateway.settings.jobs import JobSettings


def parse(program: str = "python -m ko_asr.gateway", description: str | None = __doc__) -> Settings:
    """Read the command line."""
    default = Settings()
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--port", type=int, default=DEFAULT_PORT, help=f"port (default {DEFAULT_PORT})")
    add("--alias", action="append", default=[], metavar="NAME", help="another name of the model; repeatable")
    add("--max-upload", type=float, default=default.max_upload / MIB, metavar="MIB", help="of a file (25)")
    add("--max-seconds-sync", type=float, default=default.max_seconds, help="audio of a request (1800)")
    add("--piece-seconds", type=float, default=default.piece_seconds, help="longer audio is cut (20)")
    add("--max-requests", type=int, default=default.max_requests, help="requests on board; more get 429 (64)")
    add("--in-flight", type=int, default=default.in_flight, help="pieces at Triton at a time (16)")
    add("--in-flight-each", type=int, default=default.in_flight_each, help="of them of one request (4)")
    add("--timeout", type=float, default=default.timeout, help="seconds for Triton's answer to a piece (60)")
    add("--folder", type=Path, default=default.folder, help="for temporary files (the system's)")
    add("--no-ffmpeg", action="store_true", help="take only what libsndfile reads")
    EngineSettings.add_options(parser)
    CorrectionSettings.add_options(parser)
    JobSettings.add_options(parser)
    AccessSettings.add_options(parser)
    args = parser.parse_args()
    numbers = ("max_upload", "max_seconds_sync", "max_requests", "in_flight", "in_flight_each", "timeout")
    if bad := [name for name in numbers if not getattr(args, name) > 0]:
        parser.error(f"--{bad[0].replace('_', '-')} must be positive")
    if args.piece_seconds < 2:
        parser.error("--piece-seconds must be at least 2")
    return Settings(
        engine=EngineSettings.of(args),
        port=args.port,
        aliases=tuple(args.alias),
        max_upload=int(args.max_upload * MIB),
        max_seconds=args.max_seconds_sync,
        piece_seconds=args.piece_seconds,
        max_requests=args.max_requests,
        in_flight=args.in_flight,
        in_flight_each=args.in_flight_each,
        timeout=args.timeout,
        folder=args.folder,
        ffmpeg=None if args.no_ffmpeg else find_ffmpeg(),
        corrections=CorrectionSettings.of(args),
        jobs=JobSettings.of(args),
        access=AccessSettings.of(args),
    )


def main() -> None:
    settings = parse()
    if not settings.folder.is_dir():
        raise UserError(f"no folder {settings.folder} for temporary files: make it, or give another --folder")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # it would log a line for every ffmpeg
    options = server_options(settings.access)
    listening = listen(settings.access, settings.port)
    sockets = Sockets()
    app = create_app(settings, sockets)
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
    LiveServer(config, sockets).run(sockets=[listening])


if __name__ == "__main__":
    run_main(main)
