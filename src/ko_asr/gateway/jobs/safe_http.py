"""HTTP to addresses that strangers name: never to what is inside.

The library looks a name up once, checks every answer (global unicast only, whatever is packed into it: mapped
IPv4, 6to4, NAT64), and connects to the very address that it checked. Redirects are answers, and not followed;
proxies and settings of the environment are left alone.
"""

import ssl
from collections.abc import Collection
from ipaddress import ip_network
from urllib.parse import urlsplit

import httpx
from ssrfguard import Policy, SSRFGuardError
from ssrfguard.httpx import AsyncClient

from ko_asr.gateway.errors import ApiError

_WITH_TLS = frozenset({443, 8443})
_WITHOUT = frozenset({80, 8080})
_ANYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))
_ANY_PORT = frozenset(range(1, 65_536))


class SafeHttp:
    """Clients for addresses outside, and for those of ``inside``: hosts by name that may be anywhere.

    Use it in ``async with``.
    """

    def __init__(self, inside: Collection[str], allow_http: bool, timeout: float) -> None:
        """``timeout`` in seconds bounds connecting and every wait for bytes."""
        self._inside = frozenset(inside)
        schemes = {"https", "http"} if allow_http else {"https"}
        ports = _WITH_TLS | _WITHOUT if allow_http else _WITH_TLS
        self._outside_policy = Policy(allowed_schemes=frozenset(schemes), allowed_ports=ports)
        self._outside = _client(self._outside_policy, timeout)
        self._inside_policy = _trusting(self._inside)
        self._inside_client = _client(self._inside_policy, timeout)

    async def __aenter__(self) -> "SafeHttp":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._outside.aclose()
        await self._inside_client.aclose()

    def check(self, url: str, param: str) -> str:
        """``url``, where nothing in it forbids to call it; its name is looked up then. ApiError."""
        try:
            self._policy(url).check_url(url)
            httpx.URL(url)
        except SSRFGuardError as error:
            reason = str(getattr(error, "reason", error)).partition(";")[0][:200]
            instead = "give an https address outside, or let the gateway allow its host (--allow-callback)"
            raise ApiError(400, f"{param} cannot be called ({reason}): {instead}", param=param) from error
        except (ValueError, httpx.InvalidURL):
            raise ApiError(400, f"{param} is no address", param=param) from None
        return url

    def client(self, url: str) -> httpx.AsyncClient:
        """The client that may call ``url``. Its requests raise SSRFGuardError and httpx.HTTPError."""
        return self._inside_client if self._is_inside(url) else self._outside

    def _policy(self, url: str) -> Policy:
        return self._inside_policy if self._is_inside(url) else self._outside_policy

    def _is_inside(self, url: str) -> bool:
        return host_of(url) in self._inside


def host_of(url: str) -> str:
    """The host of ``url`` in lower case, empty where there is none."""
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _trusting(hosts: frozenset[str]) -> Policy:
    return Policy(
        allowed_networks=_ANYWHERE,
        allowed_ports=_ANY_PORT,
        allowed_hosts=hosts or frozenset({"nothing.invalid"}),
    )


def _client(policy: Policy, timeout: float) -> AsyncClient:
    return AsyncClient(
        policy=policy,
        timeout=httpx.Timeout(timeout),
        follow_redirects=False,
        trust_env=False,
        verify=ssl.create_default_context(),
        headers={"user-agent": "ko-asr"},
    )
