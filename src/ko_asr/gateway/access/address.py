"""The address that a gateway listens at, and what its certificate must be."""

import ipaddress
import socket
import ssl
from typing import Any

from ko_asr.errors import UserError
from ko_asr.gateway.settings.access import AccessSettings

_TLS_LOOP = "ko_asr.gateway.access.tls_loop:TlsLoop"
_PROTOCOLS = {
    "http": "ko_asr.gateway.access.connection:Connection",
    "ws": "ko_asr.gateway.access.connection:LiveConnection",
}


def listen(access: AccessSettings, port: int) -> socket.socket:
    """A socket at the address. UserError when it cannot be had, or nobody there would need a key."""
    family, address = _resolve(access.host, port)
    if not (ipaddress.ip_address(address[0]).is_loopback or access.keys or access.open):
        raise UserError(
            f"--host {access.host} lets other machines come in and there are no keys: give --keys, or --open"
        )
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"port {port} on {access.host} cannot be opened ({error}): give another --port"
        ) from error
    return listening


def _resolve(host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, OverflowError) as error:
        raise UserError(f"--host {host} is no address of this machine ({error}): give another one") from error
    family, _, _, _, address = found[0]
    return family, address


def url(access: AccessSettings, listening: socket.socket) -> str:
    """The address for people on this machine, with the scheme: nobody can open 0.0.0.0 in a browser."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    scheme = "https" if access.tls_cert else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def summary(access: AccessSettings, listening: socket.socket) -> str:
    """Who may come in, in words, for the start."""
    host = ipaddress.ip_address(listening.getsockname()[0])
    near, everywhere = host.is_loopback, f", at every address of this one ({host})"
    who = "whoever has a key" if access.keys else "everybody: there are no keys"
    where = "this machine only" if near else "other machines too" + everywhere * host.is_unspecified
    clear = access.keys and not (near or access.tls_cert or access.proxies)
    return f"{who}; {where}{', which send keys and audio in the clear: see --tls-cert' if clear else ''}"


def server_options(access: AccessSettings) -> dict[str, Any]:
    """Arguments for uvicorn. UserError where the certificate cannot be used."""
    options: dict[str, Any] = {"proxy_headers": access.proxies is not None, **_PROTOCOLS}
    if access.proxies is not None:
        options["forwarded_allow_ips"] = access.proxies
    if access.tls_cert and access.tls_key:
        _check_certificate(access)
        options |= {"ssl_certfile": access.tls_cert, "ssl_keyfile": access.tls_key, "loop": _TLS_LOOP}
    return options


def _check_certificate(access: AccessSettings) -> None:
    assert access.tls_cert and access.tls_key
    for path in (access.tls_cert, access.tls_key):
        if not path.is_file():
            raise UserError(f"no file {path}: give the certificate and its key in PEM format")
    try:
        # A key with a password would ask the terminal for it.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            access.tls_cert, access.tls_key, password=lambda: ""
        )
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        both = f"{access.tls_cert} and {access.tls_key}"
        raise UserError(
            f"{both} cannot be used ({reason}): they must be PEM, fit each other, and have no password"
        ) from error
