"""The options of a gateway, which a worker of its jobs takes as well."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ko_asr.finishing.command import add_arguments, read_options
from ko_asr.gateway.audio.ffmpeg import find_ffmpeg
from ko_asr.gateway.settings.access import AccessSettings
from ko_asr.gateway.settings.corrections import CorrectionSettings
from ko_asr.gateway.settings.engine import EngineSettings
from ko_asr.gateway.settings.gateway import DEFAULT_PORT, MIB, Settings
from ko_asr.gateway.settings.jobs import JobSettings


def parse(program: str, description: str, arguments: Sequence[str] | None = None) -> Settings:
    """Read the command line of ``program``, or ``arguments``. Exits where it is wrong."""
    default = Settings()
    parser = argparse.ArgumentParser(
        prog=program,
        usage="%(prog)s [options]",  # argparse would list all of them before each error
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        metavar="PORT",
        help=f"to listen at ({DEFAULT_PORT}); 0 takes a free one",
    )
    add("--alias", action="append", default=[], metavar="NAME", help="another name of the model; repeatable")
    add(
        "--max-upload",
        type=float,
        default=default.max_upload / MIB,
        metavar="MIB",
        help="largest file of a request (25)",
    )
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    seconds: dict[str, Any] = {"type": float, "metavar": "SECONDS"}
    add("--max-seconds-sync", default=default.max_seconds, help="most audio of a request (1800)", **seconds)
    add("--piece-seconds", default=default.piece_seconds, help="longer audio is cut (20)", **seconds)
    add("--max-requests", default=default.max_requests, help="requests at a time (64)", **number)
    add("--in-flight", default=default.in_flight, help="pieces at Triton at a time (16)", **number)
    add("--in-flight-each", default=default.in_flight_each, help="of them of one request (4)", **number)
    add("--timeout", default=default.timeout, help="for Triton's answer to a piece (60)", **seconds)
    add("--folder", type=Path, default=default.folder, help="of temporary files (the system's)")
    add("--no-ffmpeg", action="store_true", help="take only what libsndfile reads")
    add_arguments(parser)
    EngineSettings.add_options(parser)
    CorrectionSettings.add_options(parser)
    JobSettings.add_options(parser)
    AccessSettings.add_options(parser)
    args = parser.parse_args(arguments)
    numbers = ("max_upload", "max_seconds_sync", "max_requests", "in_flight", "in_flight_each", "timeout")
    if bad := [name for name in numbers if not getattr(args, name) > 0]:
        parser.error(f"--{bad[0].replace('_', '-')} must be positive")
    if not 0 <= args.port < 1 << 16:
        parser.error(f"--port {args.port} is no port: give one from 0 to 65535")
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
        written=read_options(args),
        ffmpeg=None if args.no_ffmpeg else find_ffmpeg(),
        corrections=CorrectionSettings.of(args),
        jobs=JobSettings.of(args),
        access=AccessSettings.of(args),
    )
