"""The keys of a database and their accounts at this gateway, kept in step with it a few seconds apart.

No request waits for the database but one with a key that is not known here: it may have been made just now.
"""

import asyncio
import logging

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from ko_asr.gateway.access import store
from ko_asr.gateway.access.account import Account
from ko_asr.gateway.access.key import Key, parse, wrong_key
from ko_asr.gateway.access.store import Usage
from ko_asr.gateway.access.tokens import REALTIME, RTZR, Tokens
from ko_asr.gateway.caller import Caller
from ko_asr.gateway.database import Database
from ko_asr.gateway.errors import ApiError

LOG = logging.getLogger("ko_asr.gateway")
_EVERY = 2.0  # seconds between two looks into the database; a revoked key works for no longer
_LEAST = 0.25  # and for keys that are not known, at least
_PATIENCE = 5.0  # that a request with an unknown key has
_REALTIME_PATH = "/v1/realtime"  # exactly: with a client secret nobody gets another one
_RTZR_PATHS = "/rtzr/"
_Found = tuple[list[Key], dict[str, float]]


class Accounts:
    """All keys. Use it in ``async with``."""

    def __init__(self, database: Database, tokens: Tokens) -> None:
        self._database, self._tokens = database, tokens
        self._accounts: dict[str, Account] = {}
        self._reachable, self._stopping = True, False

    async def __aenter__(self) -> "Accounts":
        self._wanted, self._next = asyncio.Event(), _future()
        await self._sync()
        self._task = asyncio.create_task(self._keep_in_step())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        self._wanted.set()
        await self._task  # not cancelled: its thread would go on, and what it writes be written again
        if not await self._sync():
            LOG.warning("keys: the usage of the last seconds is lost")

    async def of(self, credential: str, path: str) -> Account:
        """The account of a key, or of a token that is good for ``path``. ApiError 401, 503."""
        if found := parse(credential):
            return await self.of_key(*found)
        if path == _REALTIME_PATH:
            return await self._of_token(REALTIME, credential)
        if path.startswith(_RTZR_PATHS):
            return await self._of_token(RTZR, credential)
        raise wrong_key()

    async def _of_token(self, purpose: str, token: str) -> Account:
        account = await self._account(self._tokens.verify(purpose, token))
        account.key.check_good()
        return account

    async def of_key(self, key_id: str, secret: str) -> Account:
        """The account of a key with this secret. ApiError 401, 503."""
        account = await self._account(key_id)
        account.key.check(secret)
        return account

    def caller(self, name: str) -> Caller:
        """Whoever has the key with this id, for work that goes on when the request is over.

        Who came without a key, before there were keys, has no account: nothing is taken from anybody.
        """
        account = self._accounts.get(name)
        return account.caller if account else Caller(name)

    async def _account(self, key_id: str) -> Account:
        if key_id not in self._accounts and not await self._look_again():
            raise ApiError(503, "the keys cannot be read: try again later", retry_after=5)
        try:
            return self._accounts[key_id]
        except KeyError:
            raise wrong_key() from None

    async def _look_again(self) -> bool:
        """Wait for the next look into the database, which all requests that wait share."""
        self._wanted.set()
        try:
            async with asyncio.timeout(_PATIENCE):
                return await asyncio.shield(self._next)
        except TimeoutError:
            return False

    async def _keep_in_step(self) -> None:
        while not self._stopping:
            await asyncio.sleep(_LEAST)
            try:
                async with asyncio.timeout(_EVERY - _LEAST):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            waiting, self._next = self._next, _future()
            waiting.set_result(await self._sync())

    async def _sync(self) -> bool:
        """Give the database what was spent, and take what it knows; False when that fails."""
        day, accounts = store.today(), list(self._accounts.values())
        spent = {
            (account.key.id, spent_day): usage
            for account in accounts
            for spent_day, usage in account.hand_over().items()
        }
        try:
            found, seconds = await self._database.run(lambda connection: _exchange(connection, spent, day))
        except SQLAlchemyError as error:
            for account in accounts:
                account.kept()
            if self._reachable:
                LOG.error("keys: the database fails, known keys go on working: %s", _reason(error))
            self._reachable = False
            return False
        if not self._reachable:
            LOG.warning("keys: the database answers again")
        self._reachable = True
        for key in found:
            account = self._accounts.setdefault(key.id, Account(key))
            account.key = key
            account.handed(day, seconds.get(key.id, 0.0))
        return True


def _future() -> asyncio.Future[bool]:
    return asyncio.get_running_loop().create_future()


def _exchange(connection: Connection, spent: dict[tuple[str, str], Usage], day: str) -> _Found:
    store.add_usage(connection, spent)
    return store.keys(connection), store.seconds_on(connection, day)


def _reason(error: SQLAlchemyError) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]
