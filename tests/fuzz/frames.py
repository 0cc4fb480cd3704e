# SPDX-License-Identifier: AGPL-3.0-only
"""Bytes behind a handshake: WebSocket frames, sound and not, in pieces of any size.

The first byte says how many bytes a piece has; if it is odd, the rest is sent as it is, else it is
made into frames with the right mask and size, so that the depths are reached. A second, simple
reading of RFC 6455 says what arrives; a session without a socket says how that is answered.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from websockets.frames import Opcode

from fuzz.wire import MAX_MESSAGE_SIZE, SEED, converse, frames_in
from support.rawsocket import frame, head_of
from support.sessions import Desk
from support.soundness import check_entries, check_sent

PIECES_MAX = 64
CONTROL_MAX_BYTES = 125
FAULTS = (1002, 1007, 1009)
CLOSE_CODES = (*range(1000, 1004), *range(1007, 1015), *range(3000, 5000))
"""Those that may be sent: RFC 6455, 7.4, and the registry of IANA."""


def one_input(data: bytes) -> None:
    """What arrives whole is answered as by a session; a fault ends the connection, no more."""
    if not data:
        return
    sent = data[1:] if data[0] & 1 else b"".join(frames_from(data[1:]))
    size = max(data[0] + 1, -(-len(sent) // PIECES_MAX))
    pieces = [sent[at : at + size] for at in range(0, len(sent), size)]
    desk = Desk()
    answer = converse(desk.hub, [head_of(), *pieces])
    head, end, rest = answer.partition(b"\r\n\r\n")
    assert end
    assert head.startswith(b"HTTP/1.1 101 ")
    received = list(frames_in(rest))
    check_entries(desk.registry.catalog, desk.store.load())

    expected = read(sent)
    texts = [one.data for one in received if one.opcode is Opcode.TEXT]
    pongs = [one.data for one in received if one.opcode is Opcode.PONG]
    closes = [one for one in received if one.opcode is Opcode.CLOSE]
    answers = answers_to(expected.messages)
    if expected.is_faulty:
        assert texts == answers[: len(texts)]
        assert pongs == expected.pings[: len(pongs)]
        assert all(one.close_code in FAULTS or one.data in expected.closes for one in closes)
        return
    assert texts == answers
    assert pongs == expected.pings
    assert [one.data for one in closes] == expected.closes
    check_sent(texts)


def frames_from(data: bytes) -> Iterator[bytes]:
    """Make frames of any bytes: one for flags and opcode, one for the size, then the payload."""
    at = 0
    while at < len(data):
        first, size = data[at], data[at + 1] if at + 1 < len(data) else 0
        payload = data[at + 2 : at + 2 + size]
        at += 2 + size
        yield frame(first & 0x0F, payload, fin=bool(first & 0x80), reserved=first >> 4 & 0x07)


@dataclass
class Read:
    """What a server makes of the bytes of a client.

    Attributes:
        messages: Whole ones, text and binary.
        pings: What came with each.
        closes: What the client's close frame carries, which is echoed; at the most one.
        is_faulty: Whether a frame, also one that is not complete, breaks the protocol.
    """

    messages: list[bytes] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    closes: list[bytes] = field(default_factory=list)
    is_faulty: bool = False


def read(data: bytes) -> Read:
    """Read a client's frames up to the end, the close frame, or the first fault."""
    found = Read()
    message: bytearray | None = None
    is_text = False
    while len(data) >= 2:
        first, second = data[:2]
        is_final, opcode, size = bool(first & 0x80), first & 0x0F, second & 0x7F
        is_control = opcode >= Opcode.CLOSE
        if (
            first & 0x70
            or opcode not in list(Opcode)
            or not second & 0x80
            or (is_control and (not is_final or size > CONTROL_MAX_BYTES))
            or (not is_control and (message is None) is (opcode == Opcode.CONT))
        ):
            found.is_faulty = True
            return found
        extended = {126: 2, 127: 8}.get(size, 0)
        if len(data) < 2 + extended:
            return found
        if extended:
            size = int.from_bytes(data[2 : 2 + extended], "big")
        if not is_control and len(message or b"") + size > MAX_MESSAGE_SIZE:
            found.is_faulty = True
            return found
        start = 6 + extended
        if len(data) < start + size:
            return found
        mask = data[start - 4 : start]
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data[start : start + size]))
        data = data[start + size :]
        if opcode == Opcode.CLOSE:
            if message is None and is_close_sound(payload):
                found.closes.append(payload)
            else:
                found.is_faulty = True
            return found
        if opcode == Opcode.PING:
            found.pings.append(payload)
        elif not is_control:
            is_text = opcode == Opcode.TEXT if message is None else is_text
            message = (message or bytearray()) + payload
            if is_final:
                # What follows a text that is none has no answer, but may be seen before it.
                found.is_faulty |= is_text and not is_utf8(message)
                if not found.is_faulty:
                    found.messages.append(bytes(message))
                message = None
    return found


def is_close_sound(payload: bytes) -> bool:
    """Tell whether a close frame may carry this (RFC 6455, 5.5.1)."""
    if not payload:
        return True
    code = int.from_bytes(payload[:2], "big")
    return len(payload) >= 2 and code in CLOSE_CODES and is_utf8(payload[2:])


def is_utf8(data: bytes | bytearray) -> bool:
    """Tell whether this is text."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def answers_to(messages: list[bytes]) -> list[bytes]:
    """Return what a session sends that gets these messages."""
    random.seed(SEED)
    desk = Desk()
    for message in messages:
        desk.receive(message)
        desk.advance()
    return desk.session.messages_to_send()
