# SPDX-License-Identifier: AGPL-3.0-only
"""A TCP client that sends any bytes and shows what comes back, WebSocket frames included."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from websockets.frames import Opcode

from support.timing import TIMEOUT_S

UPGRADE = {
    "Host": "localhost",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


class Response(NamedTuple):
    """An HTTP response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Received(NamedTuple):
    """A frame from the server."""

    opcode: Opcode
    data: bytes

    @property
    def close_code(self) -> int:
        """The code of a close frame."""
        assert self.opcode is Opcode.CLOSE
        return int(struct.unpack("!H", self.data[:2])[0])

    @property
    def json(self) -> Any:
        """The JSON in a text frame."""
        assert self.opcode is Opcode.TEXT
        return json.loads(self.data)


def head_of(
    request_line: str = "GET / HTTP/1.1", headers: Mapping[str, str | None] | None = None
) -> bytes:
    """Encode a handshake; *headers* replaces headers of `UPGRADE`, None leaves one out."""
    merged = {**UPGRADE, **(headers or {})}
    lines = [f"{name}: {value}" for name, value in merged.items() if value is not None]
    return "\r\n".join([request_line, *lines, "", ""]).encode()


def text_frame(message: object) -> bytes:
    """Encode a masked text frame; anything but text or bytes becomes JSON first."""
    if not isinstance(message, str | bytes):
        message = json.dumps(message)
    return frame(Opcode.TEXT, message.encode() if isinstance(message, str) else message)


def frame(
    opcode: int, data: bytes = b"", *, fin: bool = True, mask: bool = True, reserved: int = 0
) -> bytes:
    """Encode a frame, also one that no client may send. The mask is a key of zeros."""
    first, masked = (fin << 7) | (reserved << 4) | opcode, mask << 7
    if len(data) < 126:
        head = struct.pack("!BB", first, masked | len(data))
    elif len(data) < 65536:
        head = struct.pack("!BBH", first, masked | 126, len(data))
    else:
        head = struct.pack("!BBQ", first, masked | 127, len(data))
    return head + (b"\0\0\0\0" if mask else b"") + data


def close_frame(code: int = 1000) -> bytes:
    """Encode a close frame."""
    return frame(Opcode.CLOSE, struct.pack("!H", code))


class RawSocket:
    """One TCP connection.

    Attributes:
        socket: Its socket.
        unread: What was received and not looked at yet.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.unread = bytearray()

    def send(self, data: bytes) -> None:
        """Send all of *data*."""
        self.socket.sendall(data)

    def upgrade(self) -> None:
        """Do the handshake of a WebSocket."""
        self.send(head_of())
        assert self.read_response().status == 101

    def read_response(self, *, has_body: bool = True) -> Response:
        """Read an HTTP response; a 101 has no body, and neither has one to HEAD."""
        while b"\r\n\r\n" not in self.unread:
            assert self._receive(), self.unread
        head = self._take(self.unread.index(b"\r\n\r\n") + 4)
        status_line, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
        version, status, _ = status_line.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = (
            b"" if status == "101" or not has_body else self._take(int(headers["content-length"]))
        )
        return Response(int(status), headers, body)

    def read_frame(self) -> Received:
        """Read one frame, which must be whole and unmasked."""
        first, length = self._take(2)
        assert first & 0xF0 == 0x80, "a fragment, or reserved bits"
        assert length < 128, "a masked frame"
        if length == 126:
            (length,) = struct.unpack("!H", self._take(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._take(8))
        return Received(Opcode(first & 0x0F), self._take(length))

    def read_to_end(self) -> bytes:
        """Read until the server closes, in good order or by a reset."""
        with contextlib.suppress(ConnectionResetError):
            while self._receive():
                pass
        return self._take(len(self.unread))

    def reset(self) -> None:
        """Cut the connection as a crash does: with a reset, without a close frame."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _take(self, size: int) -> bytes:
        while len(self.unread) < size:
            assert self._receive(), f"the server closed; received {self.unread!r}"
        data = bytes(self.unread[:size])
        del self.unread[:size]
        return data

    def _receive(self) -> bool:
        received = self.socket.recv(65536)
        self.unread += received
        return bool(received)


@contextlib.contextmanager
def raw_socket(
    port: int,
    *,
    host: str = "127.0.0.1",
    source: str = "",
    receive_buffer: int | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[RawSocket]:
    """Connect; *receive_buffer* bounds what the kernel takes while nobody reads.

    *source* is the client's own address, and with *tls* the connection speaks TLS.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(TIMEOUT_S)
        if source:
            sock.bind((source, 0))
        sock.connect((host, port))
        if tls is None:
            yield RawSocket(sock)
            return
        with tls.wrap_socket(sock, server_hostname=host) as secure:
            yield RawSocket(secure)


@contextlib.contextmanager
def raw_websocket(port: int, **options: Any) -> Iterator[RawSocket]:
    """Connect and do the handshake."""
    with raw_socket(port, **options) as raw:
        raw.upgrade()
        yield raw
