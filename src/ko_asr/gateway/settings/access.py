"""The options of who may come in, and from where."""

import argparse
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
HOST = "127.0.0.1"
_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
_ORIGIN = re.compile(r"https?://[a-z0-9.\-\[\]:]+|[a-z-]+-extension://[a-z0-9-]+")


@dataclass(frozen=True)
class AccessSettings:
    """Keys, the address to listen at, TLS, pages of browsers, proxies."""

    host: str = HOST
    keys: bool = False
    open: bool = False  # other machines may come although there are no keys
    tls_cert: Path | None = None
    tls_key: Path | None = None
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    proxies: str | None = None
    metrics_from: tuple[Network, ...] = _LOOPBACK

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """Add the options that `of` reads."""
        group = parser.add_argument_group("who may come in (docs/gateway-access.md)")
        add = group.add_argument
        add("--host", default=HOST, help=f"address to listen at (default {HOST}); others need --keys")
        add("--keys", action="store_true", help="only with an API key of the database")
        add("--open", action="store_true", help="listen at any --host without keys: everybody may come in")
        add("--tls-cert", type=Path, metavar="PEM", help="certificate and its chain: https and wss")
        add("--tls-key", type=Path, metavar="PEM", help="its private key")
        many: dict[str, Any] = {"action": "append", "default": []}
        add("--allow-origin", metavar="ORIGIN", help="pages that may use it (CORS), or *; repeatable", **many)
        add(
            "--allow-host",
            metavar="NAME",
            help="its name, without keys, or *; repeatable",
            **many,
        )
        add("--trust-proxy", metavar="ADDRESSES", help="proxies whose X-Forwarded-For, -Proto are believed")
        add("--metrics-from", metavar="NETWORK", help="reads /metrics without a key; repeatable", **many)

    @classmethod
    def of(cls, args: argparse.Namespace) -> "AccessSettings":
        """Read the command line of `add_options`. UserError for options that do not go together."""
        if bool(args.tls_cert) != bool(args.tls_key):
            raise UserError("--tls-cert and --tls-key go together: give both, or none")
        if "*" in args.allow_origin and not args.keys:
            raise UserError(
                "--allow-origin * needs --keys: every page on the internet could use this gateway"
            )
        return cls(
            host=args.host,
            keys=args.keys,
            open=args.open,
            tls_cert=args.tls_cert,
            tls_key=args.tls_key,
            origins=tuple(map(_origin, args.allow_origin)),
            hosts=tuple(name.lower() for name in args.allow_host),
            proxies=args.trust_proxy and _proxies(args.trust_proxy),
            metrics_from=(*_LOOPBACK, *map(_network, args.metrics_from)),
        )


def _origin(text: str) -> str:
    """The origin as a browser sends it."""
    origin = text.lower().removesuffix("/")
    if origin != "*" and not _ORIGIN.fullmatch(origin):
        raise UserError(f"--allow-origin {text} is no origin: write it as https://app.example.com")
    return origin


def _proxies(text: str) -> str:
    """The addresses as uvicorn takes them, which would believe nobody for one that is none."""
    try:
        for address in text.split(","):
            if address.strip() != "*":
                ipaddress.ip_network(address.strip())
    except ValueError:
        raise UserError(
            f"--trust-proxy {text} has no address: write 127.0.0.1 or 10.0.0.0/8,10.1.0.7"
        ) from None
    return text


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise UserError(f"--metrics-from {text} is no network: write it as 10.0.0.0/8") from None
