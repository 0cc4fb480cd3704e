# SPDX-License-Identifier: AGPL-3.0-only
"""A hub says that it is there, as long as it is."""

from __future__ import annotations

import asyncio
import ipaddress
import math
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from plexus_registry import backend as fields
from plexus_registry.backend import DEFAULT_PROTOCOL, Address, Backend, Source
from plexus_registry.client import results
from plexus_registry.client.arguments import check_seconds, registration
from plexus_registry.client.backoff import Backoff
from plexus_registry.client.client import MAX_DELAY_S, Client
from plexus_registry.client.connection import DEFAULT_TIMEOUT_S, Connection
from plexus_registry.client.logs import logger, shown
from plexus_registry.errors import (
    BackendNotFound,
    InvalidValue,
    PlexusRegistryError,
    Refused,
    Unreachable,
    word,
)

PING_INTERVAL_S: Final = 30.0
RETRY_S: Final = 30.0
GOODBYE_S: Final = 3.0
"""How long a hub's end may take for the registry."""


def announce(
    name: str,
    *,
    port: int,
    host: str | None = None,
    protocol: str = DEFAULT_PROTOCOL,
    description: str | None = None,
    namespace: str | None = None,
    version: str | None = None,
    metadata: object = None,
    url: str | None = None,
    token: str | None = None,
    ca_file: Path | str | None = None,
    ping_interval_s: float = PING_INTERVAL_S,
    retry_s: float = RETRY_S,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Announcement:
    """Announce a hub to the registry for as long as an ``async with`` block runs.

    The hub is registered (source ``auto``), pinged, and registered again when the registry comes
    back or has lost the entry. At the end of the block, however it ends, the hub is deregistered;
    that takes 3 seconds at the most. Whatever becomes of the registry, nothing is raised into the
    block: it is logged, once, and tried again.

    Args:
        name: What clients ask for; `_info` of the hub should say the same.
        port: Where the hub listens.
        host: How clients reach it; None for 127.0.0.1 if the registry is on this machine, else
            the address from which this machine talks to it.
        protocol: ``ws`` or ``wss``.
        description: For people.
        namespace: Where the hub wants its calls to go.
        version: The hub's own.
        metadata: Text, or anything that has a JSON text.
        url: As for `Client`, and so are *token*, *ca_file* and *timeout_s*.
        token: See there.
        ca_file: See there.
        ping_interval_s: How often the registry is told that the hub is alive, and so how long a
            lost entry may stay unnoticed.
        retry_s: How long to wait after a refusal.
        timeout_s: See there.

    Raises:
        InvalidValue: At once, if an argument is none that a registry could accept.
    """
    params = registration(
        name,
        "127.0.0.1" if host is None else host,
        port,
        protocol=protocol,
        description=description,
        namespace=namespace,
        version=version,
        metadata=metadata,
    )
    if _is_unspecified(params["host"]):
        accepted = "an address that clients can connect to, or None to find out"
        raise InvalidValue("host", host, accepted)
    client = Client(url, token=token, ca_file=ca_file, timeout_s=timeout_s)
    return Announcement(
        client,
        params,
        is_host_known=host is not None,
        ping_interval_s=check_seconds("ping_interval_s", ping_interval_s),
        retry_s=check_seconds("retry_s", retry_s),
    )


class Announcement:
    """What `announce` returns: a hub that is being announced.

    Attributes:
        backend: The entry as the registry last showed it; None before that.
    """

    def __init__(
        self,
        client: Client,
        params: dict[str, Any],
        *,
        is_host_known: bool,
        ping_interval_s: float,
        retry_s: float,
    ) -> None:
        self.backend: Backend | None = None
        self._client = client
        self._params = params
        self._name: str = params["name"]
        self._is_host_known = is_host_known
        self._ping_interval_s = ping_interval_s
        self._retry_s = retry_s
        self._is_registered = asyncio.Event()
        self._tried: Address | None = None
        self._is_displaced = False
        self._trouble = ""
        self._backoff = Backoff(MAX_DELAY_S)
        self._keeping: asyncio.Task[None] | None = None

    @property
    def is_registered(self) -> bool:
        """Whether the registry has the hub, as far as is known."""
        return self._is_registered.is_set()

    async def registered(self) -> None:
        """Wait until the registry has the hub."""
        await self._is_registered.wait()

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        self._keeping = asyncio.create_task(self._keep(), name="plexus-registry-announcement")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._keeping is not None, "not entered"
        self._keeping.cancel()
        self._is_registered.clear()
        closing = asyncio.create_task(self._client.__aexit__(None, None, None))
        try:
            async with asyncio.timeout(GOODBYE_S):
                await asyncio.wait([self._keeping])
                if self._tried is not None:
                    await self._say_goodbye(self._tried)
        except TimeoutError:
            self._tell_trouble(f"the registry had {GOODBYE_S:g} s to hear the good-bye")
        finally:
            await closing

    async def _keep(self) -> None:
        while True:
            try:
                connection = await self._client.connection(timeout_s=math.inf)
                await self._register(connection)
                await self._stay(connection)
                continue
            except Unreachable as error:  # it is there, and does not answer
                self._tell_trouble(str(error))
                delay_s = self._backoff.next()
            except PlexusRegistryError as refusal:
                self._tell_trouble(str(refusal))
                delay_s = self._retry_s
            except Exception:  # a fault of ours is no reason for a hub to end
                logger.exception("hub not announced name=%s", word(self._name))
                delay_s = self._retry_s
            self._is_registered.clear()
            await asyncio.sleep(delay_s)

    async def _register(self, connection: Connection) -> None:
        host = self._params["host"] if self._is_host_known else connection.local_host
        address = Address(fields.check_host(host), self._params["port"], self._params["protocol"])
        await self._await_turn(address)
        self._tried = address
        try:
            entry = await self._client.register(
                **self._params | {"host": address.host}, source=Source.AUTO
            )
        except Refused:
            # The Rust program refuses what is registered already, by us for example.
            found = await self._client.get(self._name)
            if found is None or found.address != address:
                raise
            entry = found
        self.backend = entry
        if entry.address != address:
            self._is_displaced = True
            raise _held(entry)
        if not self.is_registered:
            logger.info(
                "hub registered name=%s url=%s registry=%s",
                word(self._name),
                address.url,
                self._client.url,
            )
        self._trouble = ""
        self._backoff.reset()
        self._is_registered.set()

    async def _stay(self, connection: Connection) -> None:
        """Ping until the registry has to be told anew who is there."""
        while True:
            try:
                async with asyncio.timeout(self._ping_interval_s):
                    await connection.wait_closed()
                self._is_registered.clear()
                return
            except TimeoutError:
                pass
            # A ping names no address: it would keep somebody else's entry alive as well.
            found = await self._client.get(self._name)
            if found is not None and found.address != self._tried:
                self._is_registered.clear()
                self._is_displaced = True
                return
            try:
                if found is not None:
                    await self._client.ping(self._name)
                    continue
            except BackendNotFound:
                pass
            self._is_registered.clear()
            logger.info("hub was forgotten by the registry name=%s", word(self._name))
            return

    async def _await_turn(self, address: Address) -> None:
        """Leave the name to whoever has it at another address, where that is not ours to change.

        The registry would take our announcement for a sign of life of what was entered on purpose,
        and two hubs would take the name from each other for ever.

        Raises:
            Refused: If it is in use.
        """
        found = await self._client.get(self._name)
        if found is not None and found.address != address:
            is_on_purpose = found.source is not Source.AUTO  # it stands, active or not
            if is_on_purpose or (self._is_displaced and found.is_active):
                self.backend = found
                raise _held(found)
        self._is_displaced = False

    def _tell_trouble(self, reason: str) -> None:
        if reason != self._trouble:
            logger.warning("hub not announced name=%s reason=%s", word(self._name), shown(reason))
        self._trouble = reason

    async def _say_goodbye(self, address: Address) -> None:
        """Deregister, unless another hub has the name by now.

        On a connection of its own: when an event loop ends, it cancels the client's tasks as well.
        """
        named = {"name": self._name}
        try:
            async with self._client.dial(self._client.url, GOODBYE_S) as connection:
                found = await results.GET.ask(connection, named)
                # None, too: our registration may be on its way to the disk.
                if found is None or found.address == address:
                    await results.DEREGISTER.ask(connection, named)
                    logger.info("hub deregistered name=%s", word(self._name))
        except BackendNotFound:
            pass
        except PlexusRegistryError as error:
            logger.warning(
                "hub not deregistered name=%s reason=%s", word(self._name), shown(str(error))
            )


def _held(entry: Backend) -> Refused:
    return Refused(
        f"the name is held by an entry of source {entry.source} at {entry.url}; announce another"
        " name, or delete that entry"
    )


def _is_unspecified(host: str) -> bool:
    """Tell whether a host means all addresses of a machine, in whichever spelling."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_unspecified
