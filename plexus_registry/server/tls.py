# SPDX-License-Identifier: AGPL-3.0-only
"""TLS between a socket's transport and the protocol above, over OpenSSL's memory buffers.

asyncio's own layer hides what waits in its second buffer, cannot half-close, and begins the
protocol only after its handshake. This one is thin: the limits on time, memory and input that a
plain connection has are the same here, for they see one transport with one buffer. What TLS does
on its own, such as answers to updates of keys, has limits here.
"""

from __future__ import annotations

import asyncio
import http
import ssl
from collections.abc import Callable
from typing import Any, Final

from plexus_registry.notices import Notices
from plexus_registry.server.allowance import Allowance
from plexus_registry.server.handshake import plain_response
from plexus_registry.server.outflow import OVERHEAD

READS_PER_TURN: Final = 64
"""How many records are handed over before others have their turn."""
BARREN_MAX_BYTES: Final = 65536
"""How much may come without anything to hand over; a record has at most 16 KiB and a bit."""
ANSWERS_MAX_BYTES: Final = 4096
ANSWERS_INTERVAL_S: Final = 10.0
"""In which time TLS may answer so much by itself: an update of keys takes some 30 bytes."""

NOT_TLS = "This port speaks TLS: connect with wss:// in place of ws://.\n"


class TlsLayer(asyncio.Transport, asyncio.BufferedProtocol):
    """The server's end of TLS: a protocol to the socket, a transport to the connection above.

    Args:
        above: The protocol that it carries. It begins before the handshake, whose time it limits.
        context: Certificate, key and versions.
        peer: Who the client is, for the log.
        notices: Logs handshakes that fail.
        on_refused: Called when one fails.
    """

    def __init__(
        self,
        above: asyncio.BufferedProtocol,
        context: ssl.SSLContext,
        *,
        peer: str,
        notices: Notices,
        on_refused: Callable[[], None],
    ) -> None:
        super().__init__()
        self._above = above
        self._loop = asyncio.get_running_loop()
        self._peer = peer
        self._notices = notices
        self._on_refused = on_refused
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._socket: asyncio.Transport
        self._has_shaken_hands = False
        self._answers = Allowance(ANSWERS_MAX_BYTES, ANSWERS_INTERVAL_S)
        self._barren_bytes = 0
        self._overhead_bytes = 0
        self._is_paused = False  # by the protocol above
        self._is_full = False  # the client does not read
        self._is_over = False  # nothing more is sent, and what comes is not looked at

    # --- asyncio.BufferedProtocol, to the socket --------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the client speaks first."""
        assert isinstance(transport, asyncio.Transport)
        self._socket = transport
        self._above.connection_made(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the buffer of the protocol above, which is free while nothing is handed over."""
        buffer: memoryview = self._above.get_buffer(sizehint)  # type: ignore[assignment]
        return buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was received, decrypt it and hand it over."""
        if not self._is_over:
            self._barren_bytes += nbytes
            self._incoming.write(self.get_buffer(-1)[:nbytes])
            self._hand_over()
            if self._barren_bytes > BARREN_MAX_BYTES and not self._is_over:
                self._cut()

    def eof_received(self) -> bool | None:
        """Let the socket close; WebSocket knows by its own close frame what is whole."""
        return self._above.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the protocol above."""
        self._is_over = True
        self._above.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell the protocol above, and read no more, which TLS might answer by itself."""
        self._is_full = True
        self._socket.pause_reading()
        self._above.pause_writing()

    def resume_writing(self) -> None:
        """Tell the protocol above: the client caught up."""
        self._is_full = False
        self._read_on()
        self._above.resume_writing()

    # --- asyncio.Transport, to the protocol above -------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the socket."""
        if name == OVERHEAD:
            return self._overhead_bytes
        return self._socket.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        """Return how much waits, encrypted, for the client."""
        return self._socket.get_write_buffer_size()

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Encrypt and send."""
        if data and not self._is_over:
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[self._tls.write(rest) :]
            except ssl.SSLError:  # not possible before the handshake
                self.abort()
            self._overhead_bytes -= len(data)
            self._flush()

    def can_write_eof(self) -> bool:
        """Tell that the closing of one direction is possible (RFC 8446, 6.1)."""
        return True

    def write_eof(self) -> None:
        """Close our direction; what the client still sends is taken and not looked at."""
        if not self._is_over:
            self._is_over = True
            self._say_close()
            try:
                self._socket.write_eof()
            except OSError:  # the client has read what it wanted, and left meanwhile
                self.abort()
            else:
                self._socket.resume_reading()

    def pause_reading(self) -> None:
        """Hand nothing over any more."""
        self._is_paused = True
        self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Hand over again, beginning with what is here already."""
        if self._is_paused:
            self._is_paused = False
            self._read_on()

    def is_closing(self) -> bool:
        """Tell whether the end has begun."""
        return self._socket.is_closing()

    def close(self) -> None:
        """Send what is left and close."""
        if not self._is_over:
            self._is_over = True
            self._say_close()
        self._socket.close()

    def abort(self) -> None:
        """Close at once."""
        self._is_over = True
        self._socket.abort()

    # --- in between -------------------------------------------------------------------------------

    def _read_on(self) -> None:
        """Read again if nothing stands against it, beginning with what is here already."""
        if not (self._is_paused or self._is_full):
            self._socket.resume_reading()
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        """Go on with the handshake, then hand over what was decrypted, as far as it is read."""
        if self._is_over:
            return
        is_handshake = not self._has_shaken_hands
        try:
            if is_handshake:
                self._tls.do_handshake()
                self._has_shaken_hands = True
            for _ in range(READS_PER_TURN):
                if self._is_paused or self._is_full or self._is_over:
                    break
                buffer = self.get_buffer(-1)
                size: int = self._tls.read(len(buffer), buffer)  # type: ignore[assignment]
                if not size:
                    raise ssl.SSLZeroReturnError
                self._barren_bytes = 0
                self._above.buffer_updated(size)
            else:
                self._socket.pause_reading()
                self._loop.call_soon(self._read_on)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # the client has closed its direction
            if not self._is_over:
                self._above.eof_received()
                self.close()
        except ssl.SSLError as error:
            self._fail(error)
        if not self._is_over:
            answers = self._outgoing.pending
            if answers and not is_handshake and self._answers.is_exceeded_by(answers):
                self._cut()
            self._flush()

    def _cut(self) -> None:
        """End what keeps TLS busy and has nothing to say."""
        if not self._has_shaken_hands:
            self._on_refused()
        self._notices.warning("TLS records without content, connection cut peer=%s", self._peer)
        self.abort()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self._overhead_bytes += len(data)
            self._socket.write(data)

    def _say_close(self) -> None:
        """Send the alert close_notify, if there is somebody to read it."""
        try:
            if self._has_shaken_hands:
                self._tls.unwrap()
        except ssl.SSLError:  # the client has not closed yet
            pass
        self._flush()

    def _fail(self, error: ssl.SSLError) -> None:
        """End what is no TLS, or not as we speak it. OpenSSL has left the alert for the client."""
        if not self._has_shaken_hands:
            self._on_refused()
            reason = (error.reason or str(error)).lower().replace("_", " ")
            self._notices.warning("TLS handshake failed reason=%s peer=%s", reason, self._peer)
            if error.reason == "HTTP_REQUEST":
                self._outgoing.read()
                self._socket.write(plain_response(http.HTTPStatus.BAD_REQUEST, NOT_TLS))
            self.write_eof()
        else:
            self._is_over = True
            self._flush()
            self._socket.close()
