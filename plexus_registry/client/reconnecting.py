# SPDX-License-Identifier: AGPL-3.0-only
"""A connection that is opened again whenever it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from plexus_registry.client.backoff import Backoff
from plexus_registry.client.connection import Connection
from plexus_registry.client.logs import logger, shown
from plexus_registry.errors import PlexusRegistryError, Unreachable

REFUSED_RETRY_S = 30.0
"""How long to wait after a registry refused the client itself: somebody has to do something."""


class Reconnecting:
    """Keeps one connection open from `start` to `stop`.

    Logs once when the registry goes away, and once when it is back.

    Args:
        find: Returns the URL of the registry. Called before each attempt.
        dial: Makes a connection to a URL, not open yet.
        max_delay_s: The longest wait between two attempts.

    Attributes:
        url: The one that was tried last.
        reason: Why there is no connection, if there is none.
    """

    def __init__(
        self, find: Callable[[], str], dial: Callable[[str], Connection], max_delay_s: float
    ) -> None:
        self.url = find()
        self.reason = "the client is not open"
        self._find = find
        self._dial = dial
        self._max_delay_s = max_delay_s
        self._connection: Connection | None = None
        self._refusal: PlexusRegistryError | None = None
        # A dict for its order: calls are sent in that in which they were made.
        self._waiters: dict[asyncio.Future[Connection], None] = {}
        self._keeping: asyncio.Task[None] | None = None
        self._is_away = False

    def start(self) -> None:
        """Begin to connect."""
        self.reason = "not connected yet"
        self._keeping = asyncio.create_task(self._keep(), name="plexus-registry-client")

    async def stop(self) -> None:
        """Close the connection and make no other. Idempotent."""
        keeping, self._keeping = self._keeping, None
        self.reason = "the client is closed"
        self._fail(Unreachable(self.url, self.reason))
        if keeping is not None:
            keeping.cancel()
            await asyncio.wait([keeping])

    async def connection(self) -> Connection:
        """Return the open connection; wait until there is one.

        Raises:
            Refused: If the registry refused this client.
            InvalidValue: If the client cannot even try, as its file of authorities is none.
            Unreachable: If `start` was not called, or `stop` was.
        """
        if self._keeping is None:
            raise Unreachable(self.url, self.reason)
        if self._connection is not None and self._connection.is_open:
            return self._connection
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        try:
            return await waiter
        finally:
            del self._waiters[waiter]

    async def _keep(self) -> None:
        backoff = Backoff(self._max_delay_s)
        clock = asyncio.get_running_loop().time
        while True:
            delay_s = None
            try:
                self.url = self._find()
                async with self._dial(self.url) as connection:
                    opened_at = clock()
                    self._opened(connection)
                    await connection.wait_closed()
                self._lost(connection.end)
                if clock() - opened_at > self._max_delay_s:
                    backoff.reset()  # it was not one of those that accept and hang up
            except Unreachable as error:
                self._lost(error.reason)
            except PlexusRegistryError as refusal:
                self._refused(refusal)
                delay_s = REFUSED_RETRY_S
            except Exception as error:  # a fault of ours: who waits must not wait for ever
                logger.exception("registry not connected to url=%s", self.url)
                self._lost(str(error) or type(error).__name__)
            await asyncio.sleep(backoff.next() if delay_s is None else delay_s)

    def _opened(self, connection: Connection) -> None:
        if self._is_away:
            logger.info("registry answers again url=%s", self.url)
        self._is_away = False
        self._refusal = None
        self._connection = connection
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(connection)

    def _lost(self, reason: str) -> None:
        self.reason = reason
        self._connection = None
        self._refusal = None
        if not self._is_away:
            logger.warning("registry away url=%s reason=%s", self.url, shown(reason))
        self._is_away = True

    def _refused(self, refusal: PlexusRegistryError) -> None:
        self._connection = None
        if self._refusal is None:
            logger.warning("registry refused us url=%s reason=%s", self.url, shown(str(refusal)))
        self._is_away = True
        self._refusal = refusal
        self._fail(refusal)

    def _fail(self, error: PlexusRegistryError) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)
