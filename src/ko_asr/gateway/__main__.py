"""Serve HTTP in front of Triton: OpenAI's transcription API and a plain one, on this machine only.

    python -m ko_asr.gateway --triton 127.0.0.1:8001 --port 9000 --alias whisper-1

There are no keys and no TLS yet, so it listens on 127.0.0.1 and nowhere else. docs/gateway.md has the routes.
"""

import argparse
import logging
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from ko_asr.errors import UserError, run_main
from ko_asr.gateway.app import create_app
from ko_asr.gateway.audio.ffmpeg import find_ffmpeg
from ko_asr.gateway.engine_settings import EngineSettings
from ko_asr.gateway.settings import DEFAULT_PORT, HOST, MIB, Settings


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Read the command line, or ``arguments``."""
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m ko_asr.gateway",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--port", type=int, default=DEFAULT_PORT, help=f"port on {HOST} (default {DEFAULT_PORT})")
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
    args = parser.parse_args(arguments)
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
    )


def listen(port: int) -> socket.socket:
    """A socket on this machine's own address. UserError when the port cannot be had."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} on {HOST} cannot be opened ({error}): give another --port") from error
    return listening


def main() -> None:
    settings = parse()
    if not settings.folder.is_dir():
        raise UserError(f"no folder {settings.folder} for temporary files: make it, or give another --folder")
    app, listening = create_app(settings), listen(settings.port)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("ko_asr.gateway").setLevel(logging.INFO)
    port = listening.getsockname()[1]
    ffmpeg = "libsndfile and ffmpeg" if settings.ffmpeg else "libsndfile only: no WebM, MP4, M4A, AAC, AMR"
    print(f"gateway: http://{HOST}:{port}/v1, this machine only; {settings.engine}; reads {ffmpeg}")
    print(f"next: curl http://{HOST}:{port}/v1/transcribe -F audio=@speech.wav", flush=True)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=30,
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    run_main(main)
