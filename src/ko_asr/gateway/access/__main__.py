"""API keys of the gateway: make, list and revoke them, and see what they used.

    python -m ko_asr.gateway.access create --name "call centre" --requests 8 --seconds-a-day 360000
    python -m ko_asr.gateway.access list
    python -m ko_asr.gateway.access revoke 0123456789ab
    python -m ko_asr.gateway.access usage --days 30

Gateways that run take note within two seconds. A key is shown once: the database has a hash only.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from ko_asr.errors import UserError, run_main
from ko_asr.gateway import database
from ko_asr.gateway.access import store
from ko_asr.gateway.access.key import Key, Limits, text_of
from ko_asr.gateway.database import Database

_Row = dict[str, Any]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ko_asr.gateway.access",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("create", help="make a key")
    make.add_argument("--name", required=True, help="who it is for; for people")
    make.add_argument(
        "--requests", type=_whole, metavar="N", help="most requests with audio at a time (no limit)"
    )
    make.add_argument("--streams", type=_whole, metavar="N", help="most live streams at a time (no limit)")
    make.add_argument(
        "--seconds-a-minute", type=_positive, metavar="S", help="most audio, in seconds (no limit)"
    )
    make.add_argument("--seconds-a-day", type=_positive, metavar="S", help="the same; days begin in Korea")
    make.add_argument("--metrics", action="store_true", help="it may read /metrics")
    commands.add_parser("list", help="all keys")
    commands.add_parser("revoke", help="end a key, for good").add_argument("id")
    used = commands.add_parser("usage", help="what keys used, by day")
    used.add_argument("id", nargs="?", help="of one key (all)")
    used.add_argument("--days", type=_whole, default=31, help="until today (31)")
    for command in commands.choices.values():
        database.add_options(command)
        command.add_argument("--json", action="store_true", help="for programs")
    return parser.parse_args()


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a number, 1 or more")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be a positive number")
    return value


def create(keys: Database, args: argparse.Namespace) -> None:
    limits = Limits(args.requests, args.streams, args.seconds_a_minute, args.seconds_a_day)
    key, secret = keys.run_now(lambda to: store.create(to, args.name[:200], limits, args.metrics))
    if args.json:
        _print_json(_key_row(key) | {"key": text_of(key.id, secret), "client_secret": secret})
        return
    print(f"key:           {text_of(key.id, secret)}")
    print(f"client_id:     {key.id}")
    print(f"client_secret: {secret}")
    print("The last two are for clients of RTZR's API. Keep them: the secret is not shown again.")


def show(keys: Database, args: argparse.Namespace) -> None:
    rows = [_key_row(key) for key in keys.run_now(store.keys)]
    _print(rows, args.json, "no keys: make one with create --name NAME")


def revoke(keys: Database, args: argparse.Namespace) -> None:
    if not keys.run_now(lambda to: store.revoke(to, args.id)):
        raise UserError(f"no key {args.id} that is good: see list")
    if args.json:
        _print_json({"id": args.id, "revoked": True})
    else:
        print(f"{args.id} is revoked: gateways refuse it in two seconds")


def usage(keys: Database, args: argparse.Namespace) -> None:
    since = (datetime.now(store.KOREA) - timedelta(days=args.days - 1)).date().isoformat()
    rows = [
        {"day": row.day, "id": row.key_id, **asdict(row.usage), "name": row.name}
        for row in keys.run_now(lambda to: store.usage(to, args.id, since))
    ]
    _print(rows, args.json, f"nothing was used since {since}")


def _key_row(key: Key) -> _Row:
    return {
        "id": key.id,
        "requests": key.limits.requests,
        "streams": key.limits.streams,
        "seconds_a_minute": key.limits.minute,
        "seconds_a_day": key.limits.day,
        "metrics": key.metrics,
        "created": _time(key.created),
        "revoked": None if key.revoked is None else _time(key.revoked),
        "name": key.name,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, store.KOREA).isoformat(timespec="seconds")


def _print(rows: list[_Row], as_json: bool, none: str) -> None:
    if as_json:
        _print_json(rows)
    elif not rows:
        print(none)
    else:
        table = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    return "-" if value is None else str(value)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))


_COMMANDS: dict[str, Callable[[Database, argparse.Namespace], None]] = {
    "create": create,
    "list": show,
    "revoke": revoke,
    "usage": usage,
}


def main() -> None:
    args = parse()
    keys = Database(database.url_of(args))
    try:
        _COMMANDS[args.command](keys, args)
    except SQLAlchemyError as error:
        raise UserError(
            f"the database fails: {str(getattr(error, 'orig', error)).splitlines()[0]}"
        ) from error
    finally:
        keys.close()


if __name__ == "__main__":
    run_main(main)
