# SPDX-License-Identifier: AGPL-3.0-only
"""Frames of a client, made before they are needed, and the mark that ends every answer."""

from __future__ import annotations

import itertools
import json
import socket
import struct
from collections.abc import Iterable
from typing import Any, Final, Protocol

MASK: Final = b"\x37\xfa\x21\x3d"
"""The masking key of RFC 6455, section 5.7. No zeros: a server must do the work of unmasking."""

DONE: Final = b'"type":"done"'
"""Stands once in every answer, in its last frame."""

FAILED: Final = b'"type":"error"'
"""Stands in the answer to a request that was refused."""

HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\n"
    b"Host: localhost\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)

TIMEOUT_S: Final = 60.0
"""After which a server that does not answer is given up."""


TEXT, CONTINUATION, CLOSE = 0x1, 0x0, 0x8
"""Opcodes, RFC 6455, section 5.2."""


def masked_frame(text: bytes, opcode: int = TEXT, *, is_last: bool = True) -> bytes:
    """Return a masked frame (RFC 6455, 5.2)."""
    size, first = len(text), opcode | (0x80 if is_last else 0)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    key = int.from_bytes((MASK * (size // 4 + 1))[:size])
    return head + MASK + (int.from_bytes(text) ^ key).to_bytes(size)


def call(method: str, **params: Any) -> bytes:
    """Return the frame of a call through the hub, as Plexus clients make it."""
    return masked_frame(request(method, **params))


def request(method: str, **params: Any) -> bytes:
    """Return the message of a call through the hub."""
    arguments = {"method": f"registry.{method}", "params": params}
    message = {"jsonrpc": "2.0", "id": 5, "method": "registry-hub.call", "params": arguments}
    return json.dumps(message, separators=(",", ":")).encode()


class Requests(Protocol):
    """What a generator sends."""

    def take(self, count: int) -> bytes:
        """Return the frames of *count* requests, or nothing if there are not as many left."""


class Same:
    """One request, again and again.

    Args:
        frame: The request.
    """

    def __init__(self, frame: bytes) -> None:
        self._frame = frame
        self._runs: dict[int, bytes] = {}

    def take(self, count: int) -> bytes:
        """Return *count* of them."""
        run = self._runs.get(count)
        if run is None:
            run = self._runs[count] = self._frame * count
        return run


class Each:
    """Requests that differ, each sent once.

    Args:
        frames: The requests; made at once, so that making them is not measured.
    """

    def __init__(self, frames: Iterable[bytes]) -> None:
        self._frames = list(frames)
        self._next = 0

    def take(self, count: int) -> bytes:
        """Return the next *count*, or nothing if there are not as many left."""
        start, end = self._next, self._next + count
        if end > len(self._frames):
            return b""
        self._next = end
        return b"".join(self._frames[start:end])


class Cycle:
    """Requests that differ, again from the first after the last.

    Args:
        frames: The requests.
    """

    def __init__(self, frames: Iterable[bytes]) -> None:
        self._frames = itertools.cycle(list(frames))

    def take(self, count: int) -> bytes:
        """Return the next *count*."""
        return b"".join(itertools.islice(self._frames, count))


def connect(port: int) -> socket.socket:
    """Connect to a server on this machine and do the handshake."""
    sock = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(HANDSHAKE)
    read_head(sock)
    return sock


def read_head(sock: socket.socket) -> None:
    """Read the answer to a handshake; nothing follows it unasked."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        received = sock.recv(4096)
        if not received:
            raise ConnectionError(f"the server closed after {head!r}")
        head += received
    if not head.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(f"the server refused the handshake: {head!r}")


def ask(sock: socket.socket, frame: bytes) -> bytes:
    """Send one request and return its answer, frames and all."""
    sock.sendall(frame)
    return receive(sock, 1)


def receive(sock: socket.socket, count: int, mark: bytes = DONE) -> bytes:
    """Return what is received until *count* answers are complete, each with one *mark*."""
    received = bytearray()
    while not _is_whole(received) or received.count(mark) < count:
        chunk = sock.recv(262144)
        if not chunk:
            raise ConnectionError(f"the server closed after {bytes(received[:200])!r}")
        received += chunk
    return bytes(received)


def payloads(received: bytes) -> list[bytes]:
    """Take the frames of a server apart."""
    texts, end = [], 0
    while end < len(received):
        start, end = _next_frame(received, end)
        texts.append(received[start:end])
    return texts


def _is_whole(received: bytearray) -> bool:
    end = 0
    while end < len(received):
        _, end = _next_frame(received, end)
    return end == len(received)


def _next_frame(received: bytes | bytearray, at: int) -> tuple[int, int]:
    """Return where the payload of the frame at *at* starts and ends, be it there or not."""
    head = received[at : at + 10].ljust(10, b"\0")
    size, start = head[1], at + 2
    if size == 126:
        size, start = int.from_bytes(head[2:4]), at + 4
    elif size == 127:
        size, start = int.from_bytes(head[2:10]), at + 10
    return start, start + size
