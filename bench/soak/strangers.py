# SPDX-License-Identifier: AGPL-3.0-only
"""Clients that leave without a word, or that do what a server must refuse.

Each function is one client; it returns how many answers it got and raises `Unexpected` if one of
them is not what a registry says to this.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct

from bench import wire

OVERSIZED_BYTES = 2**20 + 1
_LINGER_NOT = struct.pack("ii", 1, 0)
_FAREWELL = wire.masked_frame(struct.pack("!H", 1000), wire.CLOSE)


class Unexpected(Exception):
    """An answer that is not the one that was due; the text says which."""


def expect(answer: bytes, part: bytes, count: int = 1) -> None:
    """See that *part* is in an answer, so many times."""
    if answer.count(part) != count:
        raise Unexpected(f"{count} × {part!r} expected in {answer[:300]!r}")


def clean(port: int) -> int:
    """Ask, and close as the protocol says."""
    with contextlib.closing(wire.connect(port)) as sock:
        wire.ask(sock, wire.call("list", limit=3))
        sock.sendall(_FAREWELL)
        expect(_rest(sock), struct.pack("!H", 1000))
    return 2


def reset(port: int) -> int:
    """Ask, and be gone before the answer."""
    sock = wire.connect(port)
    sock.sendall(wire.call("list") * 4)
    abandon(sock)
    return 0


def abandon(sock: socket.socket) -> None:
    """Close with a reset: what is still on its way is lost."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    sock.close()


def half_closed(port: int) -> int:
    """End our half of the connection without a close frame."""
    with contextlib.closing(wire.connect(port)) as sock:
        wire.ask(sock, wire.call("get", name="nobody"))
        sock.shutdown(socket.SHUT_WR)
        _rest(sock)
    return 1


def unfinished(port: int) -> socket.socket:
    """Return a connection whose handshake stopped half-way."""
    sock = socket.create_connection(("127.0.0.1", port), wire.TIMEOUT_S)
    sock.sendall(wire.HANDSHAKE[: random.randrange(len(wire.HANDSHAKE) - 1)])
    return sock


def slow(port: int, requests: int) -> socket.socket:
    """Return a connection that has asked for many long answers and reads none of them."""
    sock = wire.connect(port)
    sock.sendall(wire.call("list") * requests)
    return sock


def foreign_page(port: int) -> int:
    """Connect as a page of another web site does."""
    head = wire.HANDSHAKE[:-2] + b"Origin: https://example.org\r\n\r\n"
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), wire.TIMEOUT_S)) as sock:
        sock.sendall(head)
        expect(_rest(sock), b"HTTP/1.1 403")
    return 1


def no_request(port: int) -> int:
    """Send what is no HTTP."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), wire.TIMEOUT_S)) as sock:
        sock.sendall(b"\x16\x03\x01 no request\r\n\r\n")
        expect(_rest(sock), b"HTTP/1.1 400")
    return 1


def malformed_frame(port: int) -> int:
    """Send a frame with a reserved bit, or one without a mask (RFC 6455, 5.1 and 5.2)."""
    return _fails(port, random.choice((b"\xf1\x80" + wire.MASK, b"\x81\x02{}")), 1002)


def malformed_text(port: int) -> int:
    """Send text that is no UTF-8."""
    return _fails(port, wire.masked_frame(b'{"\xff":1}'), 1007)


def oversized(port: int) -> int:
    """Send a message beyond the limit, at once or in pieces."""
    text = b" " * OVERSIZED_BYTES
    if random.random() < 0.5:
        return _fails(port, wire.masked_frame(text), 1009)
    half = OVERSIZED_BYTES // 2
    pieces = wire.masked_frame(text[:half], is_last=False)
    return _fails(port, pieces + wire.masked_frame(text[half:], wire.CONTINUATION), 1009)


def _fails(port: int, data: bytes, code: int) -> int:
    with contextlib.closing(wire.connect(port)) as sock:
        sock.sendall(data)
        expect(_rest(sock), struct.pack("!H", code))
    return 1


def _rest(sock: socket.socket) -> bytes:
    """Return all that comes until the other side ends the connection."""
    received = bytearray()
    while chunk := sock.recv(65536):
        received += chunk
    return bytes(received)
