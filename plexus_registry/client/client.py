# SPDX-License-Identifier: AGPL-3.0-only
"""A registry as an object: its methods with typed results, over a connection that comes back."""

from __future__ import annotations

import asyncio
import enum
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from plexus_registry import backend as fields
from plexus_registry.backend import DEFAULT_PROTOCOL, Backend, Source
from plexus_registry.client import address, paging, results
from plexus_registry.client.arguments import (
    check_seconds,
    check_source,
    check_token,
    encoded,
    registration,
)
from plexus_registry.client.connection import DEFAULT_TIMEOUT_S, Broken, Connection
from plexus_registry.client.paging import PAGE_SIZE
from plexus_registry.client.reconnecting import Reconnecting
from plexus_registry.client.results import Method
from plexus_registry.errors import (
    BackendNotFound,
    InvalidValue,
    OutcomeUnknown,
    Refused,
    Unreachable,
    word,
)

if TYPE_CHECKING:
    from plexus_registry.protocol.status import Status

MAX_DELAY_S: Final = 5.0

Backends = list[Backend]
"""So that the method `list` does not hide what it returns."""

T = TypeVar("T")


class _Effect(enum.Enum):
    """What a call that got no answer may have done, and so whether it is sent again."""

    NONE = "none"
    """It reads: it is sent again."""
    SAME = "same"
    """It comes to the same done twice: it is sent again."""
    ONCE = "once"
    """Sent again it could undo what others did since, or fail for it was done: it is not."""


class Client:
    """A registry, to be used as ``async with Client() as registry``.

    Calls may be made side by side. Whoever calls while the registry is away waits, at most for
    *timeout_s*. Every method takes a `timeout_s` of its own, and raises:

    - `Refused` if the registry refuses, in its words; `BackendNotFound` if it is for that.
    - `Unreachable` if no answer came in time, and the change, if it was one, cannot have been made;
      or if what answers is no registry.
    - `OutcomeUnknown`, which is an `Unreachable`, if a change was sent and may have been made.
    - `InvalidValue` if an argument is none that a registry could accept.

    When the connection breaks, calls that wait for an answer are sent again if they read, or if
    they come to the same done twice: `register`, `ping`, `deregister`. The others, `update`,
    `delete` and `reload`, raise `OutcomeUnknown`.

    Args:
        url: ``ws://HOST:PORT``, ``wss://HOST:PORT`` or ``unix:/PATH``; None to look where
            plexus-registryctl(1) looks, before each connection anew.
        token: To be sent with the handshake, where writing needs one; empty for none, None for
            ``$PLEXUS_REGISTRY_TOKEN``.
        ca_file: PEM file of the authorities that a ``wss`` registry's certificate may come from;
            None for those of the system.
        timeout_s: For each call, what it waits for a connection included.
        max_delay_s: The longest wait between two attempts to connect; they begin at 0.1 s and
            double, each by chance shorter.

    Raises:
        InvalidValue: If an argument, or the variable in its place, cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        ca_file: Path | str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_delay_s: float = MAX_DELAY_S,
    ) -> None:
        self._timeout_s = check_seconds("timeout_s", timeout_s)
        known_url = None if url is None else address.check_url(url)
        if token is None:
            token = os.environ.get(address.TOKEN_VARIABLE, "").strip()
        self._token = check_token(token)
        self._ca_file = None if ca_file is None else Path(ca_file)
        self._wire = Reconnecting(
            lambda: known_url or address.find(os.environ),
            self.dial,
            check_seconds("max_delay_s", max_delay_s),
        )

    async def __aenter__(self) -> Self:
        self._wire.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._wire.stop()

    @property
    def url(self) -> str:
        """Where the registry is, or was looked for last."""
        return self._wire.url

    def dial(self, url: str, timeout_s: float | None = None) -> Connection:
        """Make a connection of one's own with what this client was given. It is not open yet."""
        return Connection(
            url,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            token=self._token,
            ca_file=self._ca_file,
        )

    async def connection(self, *, timeout_s: float | None = None) -> Connection:
        """Return the connection that all calls share; wait until there is one.

        Its `call` serves methods that have none here. It is closed by this client.
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await self._wire.connection()
        except TimeoutError:
            raise self._unreachable(limit_s) from None

    async def register(
        self,
        name: str,
        host: str,
        port: int,
        *,
        protocol: str = DEFAULT_PROTOCOL,
        description: str | None = None,
        namespace: str | None = None,
        version: str | None = None,
        metadata: object = None,
        source: Source = Source.MANUAL,
        timeout_s: float | None = None,
    ) -> Backend:
        """Register a backend, or say again that it is there, and return its entry.

        With another address than the one that was registered by hand it is refused; `update` it.
        The Rust program refuses every second time.

        Args:
            name: What clients ask for.
            host: DNS name, IPv4 or IPv6 address, as clients reach it.
            port: 1 to 65535.
            protocol: ``ws`` or ``wss``.
            description: For people. None here and below keeps what is there.
            namespace: Where the backend wants its calls to go.
            version: The backend's own.
            metadata: Text, or anything that has a JSON text.
            source: ``auto`` if a hub announces itself, which `announce` does: a name that a higher
                source holds keeps its entry, and that one is returned.
            timeout_s: Instead of the client's.
        """
        params = registration(
            name,
            host,
            port,
            protocol=protocol,
            description=description,
            namespace=namespace,
            version=version,
            metadata=metadata,
        )
        params["source"] = check_source(source)
        return await self._call(results.REGISTER, params, effect=_Effect.SAME, timeout_s=timeout_s)

    async def list(self, *, active_only: bool = True, timeout_s: float | None = None) -> Backends:
        """Return all entries as they are at one moment, the newest first.

        Where that is more than the registry gives at once (max_answer_size), page by page.
        """
        try:
            params = {"active_only": active_only}
            return await self._call(results.LIST, params, timeout_s=timeout_s)
        except Refused as refusal:
            if not paging.is_too_large(refusal):
                raise
        found = self.pages(active_only=active_only, timeout_s=timeout_s)
        return [one async for page in found for one in page]

    async def pages(
        self,
        *,
        active_only: bool = True,
        size: int = PAGE_SIZE,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Backends]:
        """Go over all entries, the newest first, at most *size* at a time.

        For registries so large that one answer with everything is too much. What is registered
        meanwhile is not seen, and what is deleted may be. Pages that are too large for the registry
        (max_answer_size) are made smaller. The Rust program gives all at once.

        Args:
            active_only: Leave out those that said good-bye.
            size: Of a page, at least 1.
            timeout_s: For each page, instead of the client's.
        """
        if size < 1:
            raise InvalidValue("size", size, "an integer from 1")

        async def ask(params: dict[str, Any]) -> Backends:
            return await self._call(results.LIST, params, timeout_s=timeout_s)

        async for page in paging.pages(ask, active_only=active_only, size=size):
            yield page

    async def get(self, name: str, *, timeout_s: float | None = None) -> Backend | None:
        """Return the entry of that name, None if there is none."""
        return await self._call(results.GET, {"name": name}, timeout_s=timeout_s)

    async def resolve(self, name: str, *, timeout_s: float | None = None) -> str:
        """Return the URL of the backend of that name, whether it is active or not.

        Raises:
            BackendNotFound: If there is none.
        """
        found = await self.get(name, timeout_s=timeout_s)
        if found is None:
            raise BackendNotFound(f"Backend not found: {word(name)}")
        return found.url

    async def update(
        self,
        name: str,
        *,
        host: str | None = None,
        port: int | None = None,
        protocol: str | None = None,
        description: str | None = None,
        namespace: str | None = None,
        version: str | None = None,
        metadata: object = None,
        timeout_s: float | None = None,
    ) -> Backend:
        """Change what is given, keep the rest, and return the entry. An empty text clears.

        Raises:
            BackendNotFound: If there is none of that name.
        """
        changes = {
            "host": None if host is None else fields.check_host(host),
            "port": None if port is None else fields.check_port(port),
            "protocol": None if protocol is None else fields.check_protocol(protocol),
            "description": description,
            "namespace": namespace,
            "version": version,
            "metadata": metadata,
        }
        fields.check_description(description, fields.GREATEST_LIMITS)
        fields.check_namespace(namespace)
        fields.check_version(version)
        fields.check_metadata(metadata, fields.GREATEST_LIMITS)
        params = {"name": name} | {
            field: value for field, value in changes.items() if value is not None
        }
        return await self._call(results.UPDATE, params, effect=_Effect.ONCE, timeout_s=timeout_s)

    async def delete(self, name: str, *, timeout_s: float | None = None) -> None:
        """Remove the entry of that name.

        Raises:
            BackendNotFound: If there is none.
        """
        await self._call(results.DELETE, {"name": name}, effect=_Effect.ONCE, timeout_s=timeout_s)

    async def ping(self, name: str, *, timeout_s: float | None = None) -> None:
        """Record that the backend of that name is alive.

        Raises:
            BackendNotFound: If there is none.
        """
        failure = await self._call(
            results.PING, {"name": name}, effect=_Effect.SAME, timeout_s=timeout_s
        )
        if failure is not None:
            raise BackendNotFound(failure)

    async def deregister(self, name: str, *, timeout_s: float | None = None) -> None:
        """Say that the backend of that name has stopped; its entry stays, inactive.

        Raises:
            BackendNotFound: If there is none.
        """
        await self._call(
            results.DEREGISTER, {"name": name}, effect=_Effect.SAME, timeout_s=timeout_s
        )

    async def reload(self, *, timeout_s: float | None = None) -> results.Reload:
        """Have the declared backends read again, and return what that came to."""
        return await self._call(results.RELOAD, effect=_Effect.ONCE, timeout_s=timeout_s)

    async def status(self, *, timeout_s: float | None = None) -> Status:
        """Return how the registry is doing. The Rust program cannot tell."""
        return await self._call(results.STATUS, timeout_s=timeout_s)

    async def _call(
        self,
        method: Method[T],
        params: object = None,
        *,
        effect: _Effect = _Effect.NONE,
        timeout_s: float | None = None,
    ) -> T:
        encoded({"params": params})  # so that what cannot be sent waits for no registry
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        return method.read(self.url, await self._exchange(method.name, params, effect, limit_s))

    async def _exchange(
        self, method: str, params: object, effect: _Effect, limit_s: float
    ) -> dict[str, Any]:
        is_sent = False
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    connection = await self._wire.connection()
                    was_sent, is_sent = is_sent, True
                    try:
                        return await connection.exchange(method, params)
                    except Broken as broken:
                        is_sent = was_sent or broken.is_sent
                        if is_sent and effect is _Effect.ONCE:
                            raise self._unknown(method, broken.reason) from None
        except TimeoutError:
            if not is_sent:
                raise self._unreachable(limit_s) from None
            reason = f"no answer to {method} within {limit_s:g} s"
            if effect is _Effect.NONE:
                raise Unreachable(self.url, reason) from None
            raise self._unknown(method, reason) from None

    def _unreachable(self, waited_s: float) -> Unreachable:
        return Unreachable(self.url, f"{self._wire.reason}; waited {waited_s:g} s")

    def _unknown(self, method: str, reason: str) -> OutcomeUnknown:
        return OutcomeUnknown(self.url, f"{reason}; whether {method} was carried out is not known")
