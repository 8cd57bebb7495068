"""The options of a gateway, which a worker of its jobs takes as well."""

import argparse
from pathlib import Path

from ko_asr.client.connection import DEFAULT_URL
from ko_asr.gateway.access.settings import AccessSettings
from ko_asr.gateway.audio.ffmpeg import find_ffmpeg
from ko_asr.gateway.correction_settings import CorrectionSettings
from ko_asr.gateway.job_settings import JobSettings
from ko_asr.gateway.settings import DEFAULT_PORT, MIB, Settings


def parse(program: str, description: str) -> Settings:
    """Read the command line of ``program``. Exits where it is wrong."""
    default = Settings()
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--triton", default=DEFAULT_URL, metavar="HOST:PORT", help=f"Triton's gRPC (default {DEFAULT_URL})")
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
        triton=args.triton,
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
