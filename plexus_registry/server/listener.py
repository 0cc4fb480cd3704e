# SPDX-License-Identifier: AGPL-3.0-only
"""The listening sockets and the connections that came in through them.

Connections are accepted here and not by `asyncio.Server`, which accepts as many as come, fills
the log when descriptors run out, and does not say what it has accepted when it stops.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from plexus_registry.notices import Notices
from plexus_registry.protocol.hub import Hub
from plexus_registry.server.addresses import client_of, label_of, listening_sockets, own_names
from plexus_registry.server.backlog import Backlog
from plexus_registry.server.connection import READ_BYTES, Connection
from plexus_registry.server.crowd import Crowd, place_of
from plexus_registry.server.handshake import REASONS, Terms
from plexus_registry.server.intake import DEFAULT_MAX_SMALL_FRAMES
from plexus_registry.server.pages import Page
from plexus_registry.server.tls import TlsLayer

logger = logging.getLogger(__name__)

BACKLOG: Final = 1024
ACCEPTS_PER_TURN: Final = 64
ACCEPT_PAUSE_S: Final = 1.0
OWN_FILES: Final = 48
"""Open files that clients must leave to the process: database, declarations, listening sockets."""
REFUSALS_MIN: Final = 16
"""How many clients above the limit there is room for, to tell them so."""
REFUSALS_MAX: Final = 256
"""How many clients above the limit are told so at a time; more are cut off without a word."""
DEFAULT_MAX_CONNECTIONS: Final = 10_000
DEFAULT_MAX_CONNECTIONS_PER_ADDRESS: Final = 1024
DEFAULT_MAX_MESSAGE_SIZE: Final = 2**20
DEFAULT_MAX_BUFFERED_INPUT: Final = 2**26
DEFAULT_MAX_BUFFERED_OUTPUT: Final = 2**28
DEFAULT_MAX_PENDING_CALLS: Final = 1024
DEFAULT_HANDSHAKE_TIMEOUT_S: Final = 10.0
DEFAULT_CLOSE_TIMEOUT_S: Final = 5.0
DEFAULT_SLOW_READER_TIMEOUT_S: Final = 60.0
DEFAULT_SLOW_SENDER_TIMEOUT_S: Final = 60.0


@dataclass(slots=True)
class Counts:
    """What came to the server's sockets.

    Attributes:
        accepted: Connections.
        refused: Those of them that were refused, by the reasons of `REASONS`.
    """

    accepted: int = 0
    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))


class Server:
    """Serves one hub on any number of sockets. To be made in a running event loop.

    Args:
        hub: What the clients call.
        max_connections: How many at once; the next ones get HTTP 429. It is lowered to what the
            limit of open files (RLIMIT_NOFILE) leaves room for.
        max_connections_per_address: How many of them from one address of another machine; see
            `crowd.place_of`.
        max_message_size: Of a message from a client, in bytes; above it the connection is
            closed with 1009.
        max_buffered_input: How many bytes of messages that are not whole yet may wait in this
            process; see `Intake`. There is always room for one message.
        max_buffered_output: How many bytes may wait in this process for clients that do not
            read; see `Backlog`.
        max_pending_calls: How many calls of a client may have begun and wait for the disk; it is
            not read from meanwhile.
        max_small_frames: How many fragments a message may have, whatever is in them, and how many
            pings and pongs may come in ten seconds.
        allowed_origins: Origins of web pages that may connect, beside those on this host.
        allowed_hosts: Names of this host that clients may use, in lower case, beside those that
            it knows itself.
        tls: With what TCP sockets speak TLS; None for no TLS. Unix sockets never do.
        pages: What HTTP clients get without a WebSocket, by its path.
        handshake_timeout_s: How long a client may take until its HTTP request is complete, TLS
            included.
        close_timeout_s: How long a client whose connection is closing may take nothing of what
            is sent to it, and not end its half.
        slow_reader_timeout_s: How long any other client may take nothing of what is sent to it
            once more waits than a transport should hold.
        slow_sender_timeout_s: How long a client may take for each 16 KiB of a message that has
            begun, and for its end.

    Attributes:
        tls: As given; another one counts for connections that come from then on.
        addresses: Where it listens, as ``host:port`` or a path.
        pages: As given.
        counts: What came.
        connections: Those that are open.
        notices: Logs what clients can cause at will.
        terms: On which clients are admitted.
        read_buffer: Where connections receive into, one after another.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
        max_connections_per_address: int = DEFAULT_MAX_CONNECTIONS_PER_ADDRESS,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_buffered_input: int = DEFAULT_MAX_BUFFERED_INPUT,
        max_buffered_output: int = DEFAULT_MAX_BUFFERED_OUTPUT,
        max_pending_calls: int = DEFAULT_MAX_PENDING_CALLS,
        max_small_frames: int = DEFAULT_MAX_SMALL_FRAMES,
        allowed_origins: Collection[str] = (),
        allowed_hosts: Collection[str] = (),
        tls: ssl.SSLContext | None = None,
        pages: Mapping[str, Page] | None = None,
        handshake_timeout_s: float = DEFAULT_HANDSHAKE_TIMEOUT_S,
        close_timeout_s: float = DEFAULT_CLOSE_TIMEOUT_S,
        slow_reader_timeout_s: float = DEFAULT_SLOW_READER_TIMEOUT_S,
        slow_sender_timeout_s: float = DEFAULT_SLOW_SENDER_TIMEOUT_S,
    ) -> None:
        self.hub = hub
        self.max_connections, self._accepted_max = _limits(max_connections)
        self.max_message_size = max_message_size
        self.max_pending_calls = max_pending_calls
        self.max_small_frames = max_small_frames
        self.pages = dict(pages or {})
        hosts = own_names() | {*allowed_hosts}
        self.terms = Terms(hub.access, frozenset(allowed_origins), hosts, tuple(self.pages))
        self.counts = Counts()
        self.tls = tls
        self.handshake_timeout_s = handshake_timeout_s
        self.close_timeout_s = close_timeout_s
        self.slow_reader_timeout_s = slow_reader_timeout_s
        self.slow_sender_timeout_s = slow_sender_timeout_s
        self.loop = asyncio.get_running_loop()
        self.addresses: list[str] = []
        self.connections: set[Connection] = set()
        self.backlog = Backlog(max_buffered_output)
        self.unfinished = Backlog(max(max_buffered_input, max_message_size))
        self.notices = Notices(logger)
        self.read_buffer = memoryview(bytearray(READ_BYTES))
        self._crowd = Crowd(max_connections_per_address)
        # Accepted, and not begun yet: asyncio takes some turns of the loop for that.
        self._arriving: dict[Connection, asyncio.Task[object]] = {}
        # The timer is there while accepting pauses.
        self._listeners: dict[socket.socket, asyncio.TimerHandle | None] = {}
        self._all_closed: asyncio.Event | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._all_closed is not None

    def limit_reached(self, place: str) -> tuple[str, int] | None:
        """Return the name and value of the limit on connections that a new one goes beyond.

        Args:
            place: What it counts for, see `Crowd`.
        """
        if len(self.connections) > self.max_connections:
            return "max_connections", self.max_connections
        if self._crowd.is_over(place):
            return "max_connections_per_address", self._crowd.max_each
        return None

    async def listen(self, host: str, port: int) -> None:
        """Listen on a TCP address; port 0 takes a free one.

        Raises:
            ListenError: If the address is taken, is not of this machine, or is not permitted.
        """
        for sock in await listening_sockets(host, port, backlog=BACKLOG):
            self._serve(sock)

    async def listen_on(self, sock: socket.socket) -> None:
        """Listen on a stream socket that listens already, of any family.

        It is closed when the server stops, but not shut down or unlinked: whoever passed it may
        hold it still.
        """
        self._serve(sock)

    def _serve(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # Accepted sockets inherit it: a peer that vanished is noticed in the end.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.addresses.append(label_of(sock.getsockname()))
        self._resume(sock)

    # --- accepting --------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # EMFILE and its like, accept(2): the next try fails as well
                self._pause(listener, error)
                return
            self.counts.accepted += 1
            place = place_of(address)
            if len(self.connections) + len(self._arriving) >= self._accepted_max:
                self._cut(sock, address, "max_connections", self.max_connections)
            elif self._crowd.is_over(place, by=REFUSALS_MIN):
                self._cut(sock, address, "max_connections_per_address", self._crowd.max_each)
            else:
                connection = Connection(self, client_of(sock, address, place=place))
                connection.place = place
                self._crowd.enter(place)
                self._begin(connection, sock)

    def _cut(self, sock: socket.socket, address: object, name: str, limit: int) -> None:
        sock.close()
        self.counts.refused["cut"] += 1
        message = f"connection cut, far too many {name}=%d peer=%s"
        self.notices.warning(message, limit, label_of(address))

    def _begin(self, connection: Connection, sock: socket.socket) -> None:
        def protocol() -> asyncio.BufferedProtocol:
            if self.tls is None or sock.family == socket.AF_UNIX:
                return connection
            return TlsLayer(
                connection,
                self.tls,
                peer=connection.peer,
                notices=self.notices,
                on_refused=self._count_tls_refusal,
            )

        def done(task: asyncio.Task[object]) -> None:
            self._arriving.pop(connection, None)
            if not task.cancelled() and task.exception() is not None:
                logger.debug("connection failed peer=%s: %s", connection.peer, task.exception())
                self.forget(connection)

        task = self.loop.create_task(self.loop.connect_accepted_socket(protocol, sock))
        self._arriving[connection] = task
        task.add_done_callback(done)

    def _count_tls_refusal(self) -> None:
        self.counts.refused["tls"] += 1

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        self.loop.remove_reader(listener)
        self._listeners[listener] = self.loop.call_later(ACCEPT_PAUSE_S, self._resume, listener)
        self.notices.warning("connections cannot be accepted reason=%s", error.strerror or error)

    def _resume(self, listener: socket.socket) -> None:
        self._listeners[listener] = None
        self.loop.add_reader(listener, self._accept, listener)

    # --- connections ------------------------------------------------------------------------------

    def remember(self, connection: Connection) -> None:
        """Take note that a connection has begun."""
        self._arriving.pop(connection, None)
        self.connections.add(connection)

    def forget(self, connection: Connection) -> None:
        """Take note that a connection is closed."""
        self.connections.discard(connection)
        self.backlog.forget(connection)
        self._crowd.leave(connection.place)
        connection.place = ""
        if self._all_closed is not None and not self.connections and not self._arriving:
            self._all_closed.set()

    # --- stopping ---------------------------------------------------------------------------------

    async def stop(self, *, timeout_s: float = 10.0) -> None:
        """Accept no more, finish what was received, close every connection with 1001.

        Args:
            timeout_s: How long clients and the disk may take; then connections are cut.
        """
        for listener, timer in self._listeners.items():
            if timer is not None:
                timer.cancel()
            self.loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()
        self._all_closed = asyncio.Event()
        # Those that arrive still stop by themselves once they have begun.
        for connection in list(self.connections):
            connection.stop()
        try:
            if self.connections or self._arriving:
                await asyncio.wait_for(self._all_closed.wait(), timeout_s)
        except TimeoutError:
            # Nothing that takes time: a connection that is cut is closed in the turn after.
            while self.connections or self._arriving:
                for connection in list(self.connections):
                    connection.abort()
                await asyncio.sleep(0)


def _limits(wanted: int) -> tuple[int, int]:
    """Return how many connections the limit of open files allows, and how many to accept.

    Args:
        wanted: The setting.
    """
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if open_files == resource.RLIM_INFINITY:
        return wanted, wanted + REFUSALS_MAX
    room = max(1, open_files - OWN_FILES)
    allowed = min(wanted, max(1, room - REFUSALS_MIN))
    if allowed < wanted:
        logger.warning(
            "max_connections lowered from %d to %d: the limit of open files (ulimit -n,"
            " LimitNOFILE=) is %d",
            wanted,
            allowed,
            open_files,
        )
    return allowed, min(allowed + REFUSALS_MAX, room)
