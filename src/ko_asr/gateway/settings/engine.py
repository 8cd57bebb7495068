"""What recognises for a gateway, and what of it the command line decides."""

import argparse
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ko_asr.client.connection import DEFAULT_URL
from ko_asr.errors import UserError
from ko_asr.gateway.settings.addresses import DEFAULT_VERSION, Address, split_version

TRITON, EMBEDDED = "triton", "embedded"


@dataclass(frozen=True)
class Group:
    """The servers of one version of the model, and its share of the callers beside those of others."""

    version: str
    addresses: tuple[Address, ...]
    weight: float = 1.0


def _default_groups() -> tuple[Group, ...]:
    return (Group(DEFAULT_VERSION, (Address.parse(DEFAULT_URL),)),)


@dataclass(frozen=True)
class EngineSettings:
    """Triton servers in ``groups``, or the graphs of ``repository`` in this process."""

    kind: str = TRITON
    groups: tuple[Group, ...] = field(default_factory=_default_groups)
    shadow: Group | None = None  # gets a copy of ``shadow_share`` (0..1) of the files, and is not answered
    shadow_share: float = 0.0
    health_timeout: float = 10.0  # seconds without any answer after which a server is out
    repository: Path = Path("triton")
    threads: int = 0  # of the embedded engine for files; 0: one a core
    max_streams: int = 128  # of the embedded engine; further ones are refused

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """Add the options that `of` reads."""
        add = parser.add_argument_group("engine (docs/gateway-engines.md)").add_argument
        default = EngineSettings()
        add(
            "--engine",
            choices=(TRITON, EMBEDDED),
            default=TRITON,
            help="Triton, or the models in this process",
        )
        add(
            "--triton",
            action="append",
            default=[],
            metavar="[VERSION=]HOST:PORT",
            help=f"gRPC of a server, or dns:NAME:PORT of many; repeatable ({DEFAULT_URL})",
        )
        add("--weight", action="append", default=[], metavar="VERSION=N", help="its share of the callers")
        add(
            "--shadow",
            action="append",
            default=[],
            metavar="[VERSION=]HOST:PORT",
            help="server that is compared only",
        )
        add(
            "--shadow-share",
            type=float,
            default=0.1,
            metavar="SHARE",
            help="of the files, for --shadow (0.1)",
        )
        add(
            "--health-timeout",
            type=float,
            default=10.0,
            metavar="SECONDS",
            help="without an answer, after which a server is out (10)",
        )
        add(
            "--repository",
            type=Path,
            default=default.repository,
            help="models for embedded (triton/)",
        )
        number: dict[str, Any] = {"type": int, "metavar": "N"}
        add("--embedded-threads", default=0, help="for files (one a core)", **number)
        add("--embedded-streams", default=default.max_streams, help="live streams at a time (128)", **number)

    @classmethod
    def of(cls, args: argparse.Namespace) -> "EngineSettings":
        """Read the command line of `add_options`. UserError for what cannot be meant."""
        shadows = _groups(args.shadow, [])
        if len(shadows) > 1:
            raise UserError("--shadow names several versions: one can be compared at a time")
        if not 0 <= args.shadow_share <= 1:
            raise UserError(f"--shadow-share is a share of the files, 0 to 1, not {args.shadow_share:g}")
        if not args.health_timeout > 0:
            raise UserError("--health-timeout must be positive")
        if args.embedded_threads < 0 or args.embedded_streams < 1:
            raise UserError("--embedded-threads and --embedded-streams must be positive")
        if args.engine == EMBEDDED and (args.triton or args.shadow or args.weight):
            raise UserError("--engine embedded asks no server: leave out --triton, --weight and --shadow")
        return cls(
            kind=args.engine,
            groups=_groups(args.triton or [DEFAULT_URL], args.weight),
            shadow=shadows[0] if shadows else None,
            shadow_share=args.shadow_share if shadows else 0.0,
            health_timeout=args.health_timeout,
            repository=args.repository,
            threads=args.embedded_threads,
            max_streams=args.embedded_streams,
        )

    def __str__(self) -> str:
        if self.kind == EMBEDDED:
            return f"{self.repository} in this process"
        named = len(self.groups) > 1
        return "Triton: " + ", ".join(
            f"{group.version}={address}" if named else str(address)
            for group in self.groups
            for address in group.addresses
        )


def _groups(addresses: list[str], weights: list[str]) -> tuple[Group, ...]:
    found: dict[str, list[Address]] = {}
    for version, rest in map(split_version, addresses):
        found.setdefault(version, []).append(Address.parse(rest))
    given = dict(map(_weight, weights))
    if weights and set(given) != set(found):
        raise UserError(
            f"--weight is for {', '.join(sorted(given))}, --triton for {', '.join(sorted(found))}: "
            "name the same versions in both, as --triton v2=HOST:PORT --weight v2=5"
        )
    return tuple(Group(name, tuple(some), given.get(name, 1.0)) for name, some in found.items())


def _weight(text: str) -> tuple[str, float]:
    version, _, number = text.partition("=")
    try:
        weight = float(number)
    except ValueError:
        weight = -1.0
    if not version or not 0 <= weight < math.inf:
        raise UserError(f"--weight {text} is no share: write VERSION=N, as v2=5")
    return version, weight
