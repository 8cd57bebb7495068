"""A caller's HTTP server: gets webhooks, and gives audio files."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook


@dataclass(frozen=True)
class Received:
    """One POST: its path, headers in lower case, and body."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """The message's."""
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> dict:
        """The message, where its signature is right (Standard Webhooks' own library)."""
        return Webhook(secret).verify(self.body, self.headers)


class Receiver:
    """Listens on 127.0.0.1. ``answers`` gives a status and headers for a path; 204 without."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: dict[str, Callable[[], tuple[int, dict[str, str]]]] = {}
        self.files: dict[str, bytes] = {}
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = self.rfile.read(length)
                if len(body) < length:  # its sender was killed
                    return
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append(Received(self.path, headers, body))
                self._answer(b"")

            def do_GET(self) -> None:
                self._answer(receiver.files.get(self.path, b""))

            def _answer(self, body: bytes) -> None:
                status = 200 if self.path in receiver.files else 204
                headers: dict[str, str] = {}
                if given := receiver.answers.get(self.path):
                    status, headers = given()
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Receiver":
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def at(self, path: str) -> list[Received]:
        """What came to ``path``."""
        return [one for one in self.received if one.path == path]
