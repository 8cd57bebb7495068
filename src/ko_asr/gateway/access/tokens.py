"""Tokens that stand for a key for a while: RTZR's access tokens, OpenAI's client secrets of realtime.

A token is a signed JWT (HS256). Gateways of one database share the secret, so a token of one is good at all;
without a database it is good at the gateway that issued it, until that ends.
"""

import secrets
import time
from typing import Any

import jwt
from sqlalchemy import Column, Connection, LargeBinary, String, Table, insert, select
from sqlalchemy.exc import IntegrityError

from ko_asr.gateway.database import METADATA, Database
from ko_asr.gateway.errors import ApiError

RTZR, REALTIME = "rtzr", "realtime"  # purposes
_PREFIX = {REALTIME: "ek_"}  # as OpenAI's
_SECRETS = Table(
    "secrets", METADATA, Column("name", String(40), primary_key=True), Column("value", LargeBinary)
)
_NAME = "tokens"


class Tokens:
    """Tokens signed with one secret."""

    def __init__(self, secret: bytes | None = None) -> None:
        """``secret`` of 32 bytes; without one, one of this process's own."""
        self._secret = secret or secrets.token_bytes(32)

    @classmethod
    def shared(cls, database: Database) -> "Tokens":
        """Tokens with the secret of ``database``, which is made once. SQLAlchemyError when it fails."""
        try:
            return cls(database.run_now(_secret))
        except IntegrityError:  # another gateway has just made it
            return cls(database.run_now(_secret))

    def issue(self, purpose: str, subject: str, seconds: float, **claims: Any) -> str:
        """A token for ``subject`` that ends in ``seconds``; ``claims``, of JSON, can be read by everybody."""
        payload = {**claims, "aud": purpose, "sub": subject, "exp": time.time() + seconds}
        return _PREFIX.get(purpose, "") + jwt.encode(payload, self._secret, "HS256")

    def verify(self, purpose: str, token: str) -> str:
        """The subject of ``token``. ApiError 401 when it is none for ``purpose``, or has expired."""
        return str(self.claims(purpose, token)["sub"])

    def claims(self, purpose: str, token: str) -> dict[str, Any]:
        """All that ``token`` says. ApiError like `verify`."""
        prefix = _PREFIX.get(purpose, "")
        try:
            if not token.startswith(prefix):
                raise jwt.InvalidTokenError
            claims: dict[str, Any] = jwt.decode(
                token.removeprefix(prefix),
                self._secret,
                ["HS256"],
                audience=purpose,
                options={"require": ["exp", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise ApiError(401, "the token has expired: ask for another one", code="token_expired") from None
        except jwt.InvalidTokenError:
            raise ApiError(401, "the token is not valid here: ask for one", code="invalid_token") from None
        return claims


def _secret(connection: Connection) -> bytes:
    found = connection.execute(select(_SECRETS.c.value).where(_SECRETS.c.name == _NAME)).scalar()
    if found is None:
        found = secrets.token_bytes(32)
        connection.execute(insert(_SECRETS).values(name=_NAME, value=found))
    return bytes(found)
