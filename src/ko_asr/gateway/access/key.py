"""An API key: a public id and a secret, of which only a hash is kept, and what its holder may do."""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from ko_asr.gateway.errors import ApiError

_PREFIX = "ko-asr-"  # by which scanners of source code can find keys that were published
_TEXT = re.compile(rf"{_PREFIX}([0-9a-f]{{12}})-([\w-]{{43}})", re.ASCII)


@dataclass(frozen=True)
class Limits:
    """What a key may do; None is no limit. ``requests`` and ``streams`` at a time, seconds of audio."""

    requests: int | None = None
    streams: int | None = None
    minute: float | None = None
    day: float | None = None


@dataclass(frozen=True)
class Key:
    """A key as it is kept. ``name`` is for people; ``digest`` is SHA-256 of the secret, in hex."""

    id: str
    name: str
    digest: str
    limits: Limits
    metrics: bool  # may read /metrics
    created: float  # epoch seconds
    revoked: float | None = None

    def check(self, secret: str) -> None:
        """Raise ApiError 401 unless ``secret`` is the key's, and the key is good."""
        if not hmac.compare_digest(self.digest, digest(secret)):
            raise wrong_key()
        self.check_good()

    def check_good(self) -> None:
        """Raise ApiError 401 when the key was revoked."""
        if self.revoked is not None:
            raise ApiError(401, f"the key {self.id} was revoked: ask for another one", code="invalid_api_key")


def new_id() -> str:
    """An id that no key has yet."""
    return secrets.token_hex(6)


def new_secret() -> str:
    """A secret of 256 bits: so long that a plain hash of it keeps it, and a request needs no slow one."""
    return secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """The hash of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def text_of(key_id: str, secret: str) -> str:
    """The key as its holder writes it."""
    return f"{_PREFIX}{key_id}-{secret}"


def parse(text: str) -> tuple[str, str] | None:
    """The id and the secret of a key as its holder writes it; None for anything else.

    >>> parse("sk-123")
    >>> parse(text_of("0123456789ab", "x" * 43))[0]
    '0123456789ab'
    """
    found = _TEXT.fullmatch(text)
    return (found[1], found[2]) if found else None


def wrong_key() -> ApiError:
    """The refusal of a key that is not known, or has another secret; it does not say which."""
    return ApiError(401, "the API key is wrong: see docs/gateway-access.md", code="invalid_api_key")
