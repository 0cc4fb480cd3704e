# SPDX-License-Identifier: AGPL-3.0-only
"""One client's connection: bytes in, bytes out, and what keeps one client from hurting others.

Flow control: a client that does not read its answers is not read from either, and is cut off in
the end; one whose calls wait for the disk gets no more calls started than `max_pending_calls` of
the server. Fairness: one turn of the event loop reads at most `READ_BYTES` from a client, takes a
share of frames (`Intake`), and starts at most `MESSAGES_PER_TURN` of its messages, none of them
once it has taken `TURN_NS`: a listing takes far longer than a message does on the average.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final, cast

from websockets.frames import CloseCode
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol

from plexus_registry.access import Client
from plexus_registry.protocol.session import Session
from plexus_registry.server.framing import text_frames
from plexus_registry.server.intake import LIMIT_CODES, Intake
from plexus_registry.server.opening import Opening
from plexus_registry.server.outflow import Outflow

if TYPE_CHECKING:
    from plexus_registry.server.listener import Server

logger = logging.getLogger(__name__)

# The library tells of every connection at level INFO; what matters is told here.
_library_logger = logging.getLogger("plexus_registry.server.websockets")
_library_logger.setLevel(logging.WARNING)

READ_BYTES: Final = 16384
MESSAGES_PER_TURN: Final = 128
TURN_NS: Final = 5_000_000
UNSENT_MAX_BYTES: Final = 65536
STOPPING_HANDSHAKE_TIMEOUT_S: Final = 1.0


class Connection(asyncio.BufferedProtocol):
    """A connection that was accepted, from its HTTP request to its end.

    Args:
        server: Whose connection it is.
        client: Who it is with, as far as the kernel knows.

    Attributes:
        place: What the connection counts for, see `Crowd`.
    """

    transport: asyncio.Transport
    _outflow: Outflow

    def __init__(self, server: Server, client: Client) -> None:
        self.peer = client.label
        self.place = ""
        self._client = client
        self._server = server
        self._loop = server.loop
        self._max_pending = server.max_pending_calls
        self._websocket = ServerProtocol(max_size=server.max_message_size, logger=_library_logger)
        self._session: Session | None = None
        self._opening: Opening | None = None
        self._inbox: deque[bytes] = deque()
        self._intake = Intake(
            self._websocket,
            server.unfinished,
            loop=server.loop,
            timeout_s=server.slow_sender_timeout_s,
            max_small=server.max_small_frames,
            on_failed=self._tell_fault,
        )
        # The echo of the client's close frame: it waits until what was asked before is answered.
        self._farewell: list[bytes] = []
        self._is_write_paused = False
        self._is_turn_scheduled = False
        self._is_stopping = False
        self._has_client_ended = False
        self._has_said_goodbye = False
        self._timer: asyncio.TimerHandle | None = None

    # --- asyncio.BufferedProtocol -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: wait for the HTTP request, for a bounded time."""
        # Not asserted: the transports of other event loops do not derive from asyncio's.
        self.transport = transport = cast(asyncio.Transport, transport)
        self._outflow = Outflow(transport)
        self._opening = Opening(
            self._server,
            self._websocket,
            self._client,
            place=self.place,
            is_unix=transport.get_extra_info("socket").family == socket.AF_UNIX,
            finish=self._finish,
            send=self._write,
        )
        self._set_timer(self._server.handshake_timeout_s)
        self._server.remember(self)
        if self._server.is_stopping:  # it was accepted just before
            self.stop()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the buffer that all connections share: it is emptied before anyone else reads."""
        return self._server.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was received and carry out what it asks for."""
        if self._websocket.eof_sent:
            return  # the connection is refused or closed: what still comes is not looked at
        data = bytes(self._server.read_buffer[:nbytes])
        opening = self._opening
        if opening is not None:
            opening.receive(data)
            if self._websocket.state is State.OPEN:
                self._begin(opening)
        else:
            self._intake.feed(data)
        self._turn()

    def eof_received(self) -> bool | None:
        """Let the transport close: the client sends no more."""
        if self._opening is not None and self._opening.is_decided and not self._websocket.eof_sent:
            # A page is made, and whoever asked for it may still read.
            self._has_client_ended = True
            return True
        self._intake.end()
        self._flush()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; what it asked to be changed is still carried out."""
        self._cancel_timer()
        self._intake.end()
        self._is_write_paused = False  # nothing is sent any more
        if self._session is not None:
            self._session.abandon()
        if self._intake.rest or self._inbox or (self._session and self._session.is_busy):
            self._schedule_turn()
        logger.debug("connection closed peer=%s", self.peer)
        self._server.forget(self)

    def pause_writing(self) -> None:
        """Start no more calls: the client does not keep up with its answers."""
        self._is_write_paused = True
        self._server.backlog.note(self)
        if self._timer is None:
            self._watch_outflow(self._server.slow_reader_timeout_s)

    def resume_writing(self) -> None:
        """Go on: the client caught up."""
        self._is_write_paused = False
        self._server.backlog.forget(self)
        self._schedule_turn()

    # --- the handshake ----------------------------------------------------------------------------

    def _begin(self, opening: Opening) -> None:
        """Begin the conversation: the WebSocket is open."""
        self._opening = None
        self._client, self.peer = opening.client, opening.client.label
        self._cancel_timer()
        self._session = Session(
            self._server.hub, client=self._client, on_output=self._schedule_turn
        )
        logger.debug("connection open peer=%s", self.peer)
        if opening.rest:
            self._flush()
            self._intake.feed(opening.rest)

    def _finish(self, response: bytes) -> None:
        """Answer with *response* and end the connection; what follows it is not looked at."""
        if self.transport.is_closing():
            return
        self._outflow.write(response)
        if self._has_client_ended:
            self.transport.close()
            self._expect_end()
            return
        self._websocket.fail(CloseCode.ABNORMAL_CLOSURE)
        self._flush()

    # --- turns ------------------------------------------------------------------------------------

    def _schedule_turn(self) -> None:
        """Take a turn soon; once, however many answers of a commit come together."""
        if not self._is_turn_scheduled:
            self._is_turn_scheduled = True
            self._loop.call_soon(self._scheduled_turn)

    def _scheduled_turn(self) -> None:
        self._is_turn_scheduled = False
        self._turn()

    def _turn(self) -> None:
        """Carry out what is there, send what is ready, and decide whether to read on."""
        session = self._session
        if session is None:
            self._flush()
            return
        began_ns = perf_counter_ns()
        ends_ns = began_ns + TURN_NS
        inbox, intake = self._inbox, self._intake
        if intake.rest and not self._is_held_up(session):
            self._take_frames()
        for _ in range(MESSAGES_PER_TURN):
            if self._is_write_paused or session.pending >= self._max_pending:
                break
            if session.is_busy:
                if not session.advance():
                    break
            elif inbox:
                session.receive(inbox.popleft())
            else:
                break
            if session.unsent_bytes > UNSENT_MAX_BYTES:
                self._flush()
            if perf_counter_ns() > ends_ns:
                self._schedule_turn()
                break
        else:
            self._schedule_turn()
        self._flush()
        if session.answered:
            self._server.hub.counts.at_once.add(perf_counter_ns() - began_ns, session.answered)
            session.answered = 0
        if self._is_held_up(session):
            self.transport.pause_reading()
            intake.excuse()
        elif intake.rest:
            self.transport.pause_reading()
            self._schedule_turn()
        elif not self._is_stopping:
            self.transport.resume_reading()
        elif not session.pending:
            self._say_goodbye()

    def _is_held_up(self, session: Session) -> bool:
        """Tell whether what came before has to be done first."""
        is_busy = bool(self._inbox) or session.is_busy
        return is_busy or self._is_write_paused or session.pending >= self._max_pending

    def _take_frames(self) -> None:
        messages, websocket = self._intake.take(), self._websocket
        if not self._has_said_goodbye:  # else nobody can answer them
            self._inbox += messages
        if websocket.close_rcvd is not None and not self._farewell:
            self._farewell = websocket.data_to_send()
            self._expect_end()
        elif websocket.eof_sent:
            self._tell_fault()

    def _flush(self) -> None:
        """Send what is ready, in one write."""
        websocket, session = self._websocket, self._session
        messages = session.messages_to_send() if session is not None else []
        if self._farewell:
            # The client has closed, and the protocol lets us finish what was asked before
            # (RFC 6455, 5.5.1), for a script that asks and leaves.
            writes = text_frames(messages)
            if session is None or not (session.pending or session.is_busy or self._inbox):
                writes += self._farewell
                self._farewell = []
        elif messages and websocket.state is State.OPEN:
            writes = text_frames(messages) + websocket.data_to_send()
        else:
            writes = websocket.data_to_send()
        if writes:
            self._write(writes)

    def _write(self, writes: list[bytes]) -> None:
        if self.transport.is_closing():
            if self._session is not None:  # what is there for it is not read any more
                self._session.abandon()
            return
        self._outflow.write(b"".join(writes))
        if self._is_write_paused:
            self._server.backlog.note(self)
        if writes[-1] == SEND_EOF:
            # The other side may still be sending: half-close and let it read what we said, where
            # closing at once would reset the connection and lose it (RFC 9112, 9.6).
            if not self.transport.can_write_eof():
                self.transport.close()
                return
            try:
                self.transport.write_eof()
            except OSError:  # the client has left meanwhile
                self.abort()
                return
            self.transport.resume_reading()
            self._expect_end()

    # --- the end ----------------------------------------------------------------------------------

    def stop(self) -> None:
        """Finish what was received, then close with 1001 (going away)."""
        self._is_stopping = True
        if self._session is None:
            # It was accepted, so it gets its handshake: to be told of the stop, not cut off.
            self._set_timer(STOPPING_HANDSHAKE_TIMEOUT_S)
        else:
            self.transport.pause_reading()
            self._schedule_turn()

    def abort(self) -> None:
        """End the connection at once."""
        self.transport.abort()

    @property
    def buffered_bytes(self) -> int:
        """How much waits for the client in this process."""
        return self.transport.get_write_buffer_size()

    def cut_for_backlog(self) -> None:
        """End the connection at once: too much waits for too many, and this one is the worst."""
        self._cut("too much output waits, connection cut")

    def _say_goodbye(self) -> None:
        if self._websocket.state is State.OPEN:
            self._has_said_goodbye = True
            self._websocket.send_close(CloseCode.GOING_AWAY, "the registry is stopping")
            self._flush()
            self._expect_end()
        # For the client's half of the closing, whoever began it.
        self.transport.resume_reading()

    def _tell_fault(self) -> None:
        """Tell the client that the connection has failed, and the operator where it matters."""
        self._schedule_turn()
        close, notices = self._websocket.close_sent, self._server.notices
        if close is not None and close.code == CloseCode.MESSAGE_TOO_BIG:
            message = "message too large, connection closed max_message_size=%d peer=%s"
            notices.warning(message, self._server.max_message_size, self.peer)
        elif close is not None and close.code in LIMIT_CODES:
            notices.warning(f"{close.reason}, connection closed peer=%s", self.peer)

    # --- time limits ------------------------------------------------------------------------------

    def _expect_end(self) -> None:
        """Cut the connection off if the client neither reads what is left nor ends its half."""
        self._watch_outflow(self._server.close_timeout_s)

    def _watch_outflow(self, timeout_s: float) -> None:
        self._outflow.has_moved()
        self._set_timer(timeout_s, self._check_outflow)

    def _check_outflow(self) -> None:
        """Cut the client off if it has taken nothing for as long as the timer ran."""
        self._timer = None
        has_moved = self._outflow.has_moved()
        if self._websocket.state is not State.OPEN:
            # Calls that were begun are answered, if the client is still there to read it.
            is_reading = has_moved and self._outflow.unread_bytes
            if is_reading or (self._session and self._session.pending):
                self._set_timer(self._server.close_timeout_s, self._check_outflow)
            else:
                self.abort()
        elif self._is_write_paused:
            if has_moved:
                self._set_timer(self._server.slow_reader_timeout_s, self._check_outflow)
            else:
                self._cut("client does not read, connection cut")

    def _cut(self, event: str) -> None:
        unread_bytes = self._outflow.unread_bytes
        message = f"{event} unread_bytes=%d peer=%s"
        self._server.notices.warning(message, unread_bytes, self.peer)
        self.abort()

    def _set_timer(self, timeout_s: float, expire: Callable[[], None] | None = None) -> None:
        self._cancel_timer()
        self._timer = self._loop.call_later(timeout_s, expire or self.abort)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
