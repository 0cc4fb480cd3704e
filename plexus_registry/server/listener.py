# SPDX-License-Identifier: AGPL-3.0-only
"""The listening sockets and the connections that came in through them."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Collection
from typing import Final

from plexus_registry.errors import ListenError
from plexus_registry.protocol.hub import Hub
from plexus_registry.server.connection import READ_BYTES, Connection, label_of

BACKLOG: Final = 1024
TURNS_TO_CONNECT: Final = 4
"""Turns of the event loop within which an accepted socket becomes a connection of ours."""
DEFAULT_MAX_CONNECTIONS: Final = 10_000
DEFAULT_MAX_MESSAGE_SIZE: Final = 2**20
DEFAULT_HANDSHAKE_TIMEOUT_S: Final = 10.0
DEFAULT_CLOSE_TIMEOUT_S: Final = 5.0


class Server:
    """Serves one hub on any number of sockets. To be made in a running event loop.

    Args:
        hub: What the clients call.
        max_connections: How many at once; the next ones get HTTP 429.
        max_message_size: Of a message from a client, in bytes; above it the connection is
            closed with 1009.
        allowed_origins: Origins of web pages that may connect, beside those on this host.
        handshake_timeout_s: How long a client may take until its HTTP request is complete.
        close_timeout_s: How long a client may take to end its half of a closed connection.

    Attributes:
        addresses: Where it listens, as ``host:port`` or a path.
        connections: Those that are open.
        read_buffer: Where connections receive into, one after another.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        allowed_origins: Collection[str] = (),
        handshake_timeout_s: float = DEFAULT_HANDSHAKE_TIMEOUT_S,
        close_timeout_s: float = DEFAULT_CLOSE_TIMEOUT_S,
    ) -> None:
        self.hub = hub
        self.max_connections = max_connections
        self.max_message_size = max_message_size
        self.allowed_origins = frozenset(allowed_origins)
        self.handshake_timeout_s = handshake_timeout_s
        self.close_timeout_s = close_timeout_s
        self.loop = asyncio.get_running_loop()
        self.addresses: list[str] = []
        self.connections: set[Connection] = set()
        self.read_buffer = memoryview(bytearray(READ_BYTES))
        self._listeners: list[asyncio.Server] = []
        self._all_closed: asyncio.Event | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._all_closed is not None

    @property
    def is_full(self) -> bool:
        """Whether there are more connections than allowed."""
        return len(self.connections) > self.max_connections

    async def listen(self, host: str, port: int) -> None:
        """Listen on a TCP address; port 0 takes a free one.

        Raises:
            ListenError: If the address is taken, is not of this machine, or is not permitted.
        """
        try:
            listener = await self.loop.create_server(
                lambda: Connection(self), host, port, backlog=BACKLOG, start_serving=False
            )
        except OSError as error:
            raise ListenError(_explain(error, host, port)) from error
        await self._serve(listener)

    async def listen_on(self, sock: socket.socket) -> None:
        """Listen on a stream socket that listens already, of any family.

        It is closed when the server stops, but not shut down or unlinked: whoever passed it may
        hold it still.
        """
        # Not create_unix_server(), which unlinks the path when it stops (Python 3.13).
        await self._serve(
            await self.loop.create_server(
                lambda: Connection(self), sock=sock, backlog=BACKLOG, start_serving=False
            )
        )

    async def _serve(self, listener: asyncio.Server) -> None:
        for sock in listener.sockets:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                # Accepted sockets inherit it: a peer that vanished is noticed in the end.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self.addresses.append(label_of(sock.getsockname()))
        self._listeners.append(listener)
        await listener.start_serving()

    async def stop(self, *, timeout_s: float = 10.0) -> None:
        """Accept no more, finish what was received, close every connection with 1001.

        Args:
            timeout_s: How long clients and the disk may take; then connections are cut.
        """
        for listener in self._listeners:
            listener.close()
        self._all_closed = asyncio.Event()
        for _ in range(TURNS_TO_CONNECT):
            await asyncio.sleep(0)
        for connection in list(self.connections):
            connection.stop()
        try:
            if self.connections:
                await asyncio.wait_for(self._all_closed.wait(), timeout_s)
        except TimeoutError:
            for connection in list(self.connections):
                connection.abort()
            await self._all_closed.wait()
        for listener in self._listeners:
            await listener.wait_closed()

    def forget(self, connection: Connection) -> None:
        """Take note that a connection is closed."""
        self.connections.discard(connection)
        if self._all_closed is not None and not self.connections:
            self._all_closed.set()


def _explain(error: OSError, host: str, port: int) -> str:
    where = label_of((host, port))
    if error.errno == errno.EADDRINUSE:
        return (
            f"cannot listen on {where}: the port is taken, perhaps by another registry or Plexus"
            " tool; stop it or choose another with --port"
        )
    if error.errno == errno.EACCES:
        return (
            f"cannot listen on {where}: not permitted; ports below 1024 need a privilege,"
            " choose another with --port"
        )
    if isinstance(error, socket.gaierror):
        return f"cannot listen on {where}: the name has no address; choose with --host"
    # Without a number: asyncio since Python 3.13 tries the next address, until there is none left.
    if error.errno in (None, errno.EADDRNOTAVAIL):
        return f"cannot listen on {where}: that is no address of this machine; choose with --host"
    return f"cannot listen on {where}: {error.strerror or error}"
