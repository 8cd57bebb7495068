"""A gRPC connection to a server, and what its errors mean."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError

DEFAULT_URL = "127.0.0.1:8001"


class ServerError(UserError):
    """The server refused or could not be reached; ``code`` is the gRPC status (INVALID_ARGUMENT, ...)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True)
class Tls:
    """Files in PEM format; without ``root`` the system's authorities are trusted."""

    root: Path | None = None
    key: Path | None = None  # of the client, where the server asks for one
    chain: Path | None = None

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """The command line of `of`."""
        parser.add_argument(
            "--tls", action="store_true", help="encrypt; trust the system's authorities or --tls-root"
        )
        files = {"root": "authorities", "key": "client's key", "chain": "client's certificate"}
        for name, what in files.items():
            parser.add_argument(f"--tls-{name}", type=Path, metavar="PEM", help=f"{what}, for --tls")

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Tls | None":
        """What the command line asks for; None for a connection in the clear."""
        files = (args.tls_root, args.tls_key, args.tls_chain)
        return cls(*files) if args.tls or any(files) else None

    def arguments(self) -> dict[str, Any]:
        """As tritonclient takes them. UserError when a file is missing."""
        files = {"root_certificates": self.root, "private_key": self.key, "certificate_chain": self.chain}
        for path in files.values():
            if path is not None and not path.is_file():
                raise UserError(f"no file {path}: give the TLS certificates in PEM format")
        return {"ssl": True} | {name: str(path) for name, path in files.items() if path is not None}


def connect(library: Any, url: str, tls: Tls | None, **options: Any) -> Any:
    """A client of ``library``, tritonclient.grpc or its aio. UserError for a malformed address."""
    try:
        return library.InferenceServerClient(url, **options, **(tls.arguments() if tls else {}))
    except UserError:
        raise
    except Exception as error:  # tritonclient raises its own and grpc's kinds
        raise UserError(f"{url} is not an address: write host:port, such as {DEFAULT_URL}") from error


def explained(error: Exception, url: str, timeout: float, model: str) -> ServerError:
    """What an InferenceServerException of a request to ``model`` at ``url`` means."""
    code = str(getattr(error, "status", lambda: None)() or "UNKNOWN").rpartition(".")[2]
    if code == "UNAVAILABLE":
        return ServerError(code, f"no server answers at {url}: start one with make serve, or give --url")
    if code == "DEADLINE_EXCEEDED":
        return ServerError(code, f"no answer from {url} within {timeout:g} s")
    text = getattr(error, "message", lambda: str(error))() or str(error)
    text = text.removeprefix("[request id: <id_unknown>] ").removeprefix(f"in ensemble '{model}', ")
    return ServerError(code, text.strip())
