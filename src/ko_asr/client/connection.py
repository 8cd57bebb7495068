"""A gRPC connection to a server, and its errors: a class each."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError
from ko_asr.runtime import failure, tensors

DEFAULT_URL = "127.0.0.1:8001"
# Triton's messages for an older export
_NO_WRITTEN = re.compile(
    f"unexpected inference output.*'{tensors.WRITTEN}'"
    "|with the (keys endpointing, keywords|key keywords), not"
)
_NO_OPTIONS = re.compile(f"(expected number of inputs|unexpected inference input).*'{tensors.OPTIONS}'")


class ServerError(UserError):
    """A refusal, or a server out of reach; ``code`` is the gRPC status (INVALID_ARGUMENT, ...)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self._message = code, message

    def __reduce__(self) -> tuple[type["ServerError"], tuple[str, str]]:
        """Let the error come from a process of a pool: by default only its sentence would be given back."""
        return type(self), (self.code, self._message)


class ServerUnavailable(ServerError):
    """No server at the address (UNAVAILABLE)."""


class AnswerTimeout(ServerError):
    """No answer in time (DEADLINE_EXCEEDED)."""


class RequestRefused(ServerError):
    """A request that the server cannot use (INVALID_ARGUMENT)."""


class KeywordsNotTaken(RequestRefused):
    """Keywords for a model that was exported without that input (INVALID_ARGUMENT)."""


class WrittenNotGiven(RequestRefused):
    """A written form of a model that was exported without one (INVALID_ARGUMENT)."""


class StreamsFull(ServerError):
    """A server whose places are all taken (UNAVAILABLE): try later, or another server."""


@dataclass(frozen=True)
class Tls:
    """Certificates of an encrypted connection, files in PEM format.

    Without ``root`` the system's authorities are trusted.
    """

    root: Path | None = None
    key: Path | None = None  # of the client, where the server asks for one
    chain: Path | None = None

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """Add the options that `of` reads."""
        parser.add_argument(
            "--tls", action="store_true", help="encrypt; trust the system's authorities or --tls-root"
        )
        files = {"root": "authorities", "key": "client's key", "chain": "client's certificate"}
        for name, what in files.items():
            parser.add_argument(f"--tls-{name}", type=Path, metavar="PEM", help=f"{what}, for --tls")

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Tls | None":
        """Read the command line of `add_options`; None for a connection in the clear."""
        files = (args.tls_root, args.tls_key, args.tls_chain)
        return cls(*files) if args.tls or any(files) else None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of a tritonclient client. UserError when a file is missing."""
        files = {"root_certificates": self.root, "private_key": self.key, "certificate_chain": self.chain}
        for path in files.values():
            if path is not None and not path.is_file():
                raise UserError(f"no file {path}: give the TLS certificates in PEM format")
        return {"ssl": True} | {name: str(path) for name, path in files.items() if path is not None}


def connect(library: Any, url: str, tls: Tls | None, **options: Any) -> Any:
    """Make a client of ``library``, tritonclient.grpc or its aio. UserError for a malformed address."""
    try:
        return library.InferenceServerClient(url, **options, **(tls.arguments() if tls else {}))
    except UserError:
        raise
    except Exception as error:  # tritonclient raises its own and grpc's kinds
        raise UserError(f"{url} is not an address: write host:port, such as {DEFAULT_URL}") from error


def server_error(error: Exception, url: str, timeout: float, model: str) -> ServerError:
    """The ServerError for an InferenceServerException of a request to ``model`` at ``url``."""
    code = str(getattr(error, "status", lambda: None)() or "UNKNOWN").rpartition(".")[2]
    text = getattr(error, "message", lambda: str(error))() or str(error)
    if (sentence := failure.full_sentence(text)) is not None:
        return StreamsFull("UNAVAILABLE", f"{url} refuses another stream: {sentence}")
    if code == "UNAVAILABLE" and "stopping" in text:
        return ServerUnavailable(code, f"the server at {url} is stopping: ask again when it has started")
    if code == "NOT_FOUND" and "no available versions" in text:
        return ServerUnavailable(
            code, f"the server at {url} is still loading {model!r}: ask again in a moment"
        )
    if code == "UNAVAILABLE":
        return ServerUnavailable(
            code, f"no server answers at {url}: start one with make serve, or give another address"
        )
    if code == "DEADLINE_EXCEEDED":
        return AnswerTimeout(code, f"no answer from {url} within {timeout:g} s")
    if code == "INVALID_ARGUMENT" and _NO_OPTIONS.search(text):
        return KeywordsNotTaken(
            code, f"{model!r} at {url} takes no keywords: export it again with export/to_triton.py"
        )
    if code == "INVALID_ARGUMENT" and _NO_WRITTEN.search(text):
        return WrittenNotGiven(
            code, f"{model!r} at {url} gives no written form: export it again with export/to_triton.py"
        )
    text = text.removeprefix("[request id: <id_unknown>] ").removeprefix(f"in ensemble '{model}', ")
    kind = RequestRefused if code == "INVALID_ARGUMENT" else ServerError
    return kind(code, text.strip())
