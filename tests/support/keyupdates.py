# SPDX-License-Identifier: AGPL-3.0-only
"""A client of TLS 1.3 that asks for new keys, for which Python's `ssl` has no call."""

from __future__ import annotations

import _ssl
import contextlib
import ctypes
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import TypeVar

from websockets.frames import Opcode

from support.rawsocket import frame, head_of
from support.timing import TIMEOUT_S

T = TypeVar("T")

# The library that `_ssl` is linked to, whether by the loader or at build time.
_openssl = ctypes.CDLL(getattr(_ssl, "__file__", None))
_openssl.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
_openssl.SSL_do_handshake.argtypes = [ctypes.c_void_p]
ATTEMPTS_MAX = 5000
SSL_KEY_UPDATE_NOT_REQUESTED = 0
SSL_KEY_UPDATE_REQUESTED = 1


class UpdatingClient:
    """A WebSocket over TLS that can do so.

    Attributes:
        socket: The TCP connection.
        received_bytes: How much came, encrypted.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.received_bytes = 0
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._tls = context.wrap_bio(self._incoming, self._outgoing)
        self._pump(self._tls.do_handshake)
        # Behind the head of the object and its first field: _ssl.c, PySSLSocket.
        here = id(self._tls._sslobj)  # type: ignore[attr-defined]
        address = here + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)
        self._ssl = ctypes.c_void_p.from_address(address).value

    def updates(self, count: int, kind: int = SSL_KEY_UPDATE_REQUESTED) -> bytes:
        """Return *count* requests for new keys, to be sent next."""
        for _ in range(count):
            assert _openssl.SSL_key_update(self._ssl, kind) == 1
            assert _openssl.SSL_do_handshake(self._ssl) == 1
        return self._outgoing.read()

    def send_until_cut(self, some: Callable[[], bytes]) -> None:
        """Send *some*, which is encrypted, again and again until the server cuts the connection."""
        for _ in range(ATTEMPTS_MAX):
            try:
                self.socket.sendall(some())
            except (ConnectionResetError, BrokenPipeError):
                return
        raise AssertionError("the server takes everything")

    def send(self, data: bytes) -> None:
        """Send *data*, encrypted."""
        self._pump(lambda: self._tls.write(data))

    def receive(self, until: bytes) -> bytes:
        """Receive until it ends with *until*."""
        received = b""
        while not received.endswith(until):
            data = self._pump(lambda: self._tls.read(65536))
            assert data, received
            received += data
        return received

    def ping(self, data: bytes) -> None:
        """Send a ping and receive its pong, and nothing else."""
        self.send(frame(Opcode.PING, data))
        assert self.receive(data) == frame(Opcode.PONG, data, mask=False)

    def _pump(self, do: Callable[[], T]) -> T:
        while True:
            try:
                result = do()
            except ssl.SSLWantReadError:
                self.socket.sendall(self._outgoing.read())
                data = self.socket.recv(65536)
                assert data, "the server closed"
                self.received_bytes += len(data)
                self._incoming.write(data)
            else:
                self.socket.sendall(self._outgoing.read())
                return result


@contextlib.contextmanager
def updating_client(port: int, *, source: str = "") -> Iterator[UpdatingClient]:
    """Connect and do both handshakes."""
    address = ("127.0.0.1", port)
    with socket.create_connection(address, TIMEOUT_S, (source, 0) if source else None) as sock:
        client = UpdatingClient(sock)
        client.send(head_of())
        client.receive(b"\r\n\r\n")
        yield client
