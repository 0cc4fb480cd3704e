# SPDX-License-Identifier: AGPL-3.0-only
"""TLS for clients that use a socket from two threads, as OpenSSL does not let them.

The synchronous client of websockets reads in one thread and writes in another. With a socket of
the ssl module, about one handshake in a thousand hangs: both threads are inside OpenSSL at once.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

from support.timing import TIMEOUT_S

_SIZE = 65536


@contextlib.contextmanager
def decrypted(url: str, context: ssl.SSLContext) -> Iterator[socket.socket]:
    """Connect to a wss:// address by TLS; what goes through the socket is plain.

    Raises:
        ssl.SSLError: If the handshake fails.
    """
    parts = urlsplit(url)
    assert parts.hostname
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(
            socket.create_connection((parts.hostname, parts.port or 443), timeout=TIMEOUT_S)
        )
        far = _Tls(raw, context, parts.hostname)
        far.shake_hands()
        ours, theirs = _tcp_pair()
        stack.enter_context(ours)
        thread = threading.Thread(target=far.relay, args=(theirs,))
        thread.start()
        stack.callback(thread.join)
        stack.callback(ours.close)
        yield ours


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return two sockets that are connected, of the kind that a client of TCP expects."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


class _Tls:
    """The client's end of TLS, used by one thread at a time."""

    def __init__(self, raw: socket.socket, context: ssl.SSLContext, hostname: str) -> None:
        self._raw = raw
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)

    def shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._send()
                self._receive()
            else:
                self._send()
                return

    def relay(self, plain: socket.socket) -> None:
        """Carry bytes between the socket and *plain* until either side ends.

        Neither direction waits for the other: a server that is not read from may not read either.
        """
        for one in (self._raw, plain):
            one.setblocking(False)
        to_raw, to_plain = bytearray(self._outgoing.read()), bytearray()
        with plain, contextlib.suppress(OSError):
            while True:
                writers = [sock for sock, data in ((self._raw, to_raw), (plain, to_plain)) if data]
                readable, writable, _ = select.select([self._raw, plain], writers, [])
                if plain in readable:
                    data = plain.recv(_SIZE)
                    if not data:
                        return
                    self._tls.write(data)
                    to_raw += self._outgoing.read()
                if self._raw in readable:
                    is_open = self._receive()
                    to_plain += self._decrypt()
                    if not is_open:
                        plain.setblocking(True)
                        plain.sendall(to_plain)
                        return
                if self._raw in writable:
                    del to_raw[: self._raw.send(to_raw)]
                if plain in writable:
                    del to_plain[: plain.send(to_plain)]

    def _decrypt(self) -> bytes:
        """Return what has come, as far as it is whole."""
        data = bytearray()
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while some := self._tls.read(_SIZE):
                data += some
        return bytes(data)

    def _receive(self) -> bool:
        data = self._raw.recv(_SIZE)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return bool(data)

    def _send(self) -> None:
        if self._outgoing.pending:
            self._raw.sendall(self._outgoing.read())
