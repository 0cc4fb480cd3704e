# SPDX-License-Identifier: AGPL-3.0-only
"""Attackers that only connect: too many, too slowly, or with something else than was asked for."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from http import HTTPStatus

from websockets.frames import CloseCode, Opcode

from support.attacks import (
    ATTACKER,
    HANDSHAKE_TIMEOUT_S,
    MAX_CONNECTIONS,
    MAX_PER_ADDRESS,
    Arena,
    Outcome,
    rounds,
)
from support.rawsocket import RawSocket, frame, head_of, raw_socket, raw_websocket
from support.timing import TIMEOUT_S, wait_until

CUT = 0


def ask_to_come_in(raw: RawSocket) -> int:
    """Ask for a WebSocket and return the status; `CUT` if the connection was cut instead."""
    try:
        raw.send(head_of())
        return raw.read_response().status
    except (AssertionError, ConnectionResetError, BrokenPipeError):
        return CUT


def told(statuses: list[int]) -> str:
    """Say what became of connections."""
    counts = Counter(statuses)
    return f"{counts[101]} connections, {counts[429]} times 429, {counts[CUT]} cut off"


def test_connections_of_one_address(arena: Arena) -> None:
    """It gets as many as are allowed, and others come in as before."""
    with (
        arena.attack("connections of one address", "max_connections_per_address") as got,
        contextlib.ExitStack() as stack,
    ):
        statuses = [
            ask_to_come_in(stack.enter_context(raw_socket(arena.port, source=ATTACKER)))
            for _ in range(3 * MAX_PER_ADDRESS)
        ]
        assert statuses[:MAX_PER_ADDRESS] == [101] * MAX_PER_ADDRESS
        assert set(statuses[MAX_PER_ADDRESS:]) == {429, CUT}
        with raw_websocket(arena.port, source="127.0.0.4"):
            pass
        got.append(f"of {len(statuses)}: {told(statuses)}")


def test_connections_of_many_addresses(arena: Arena) -> None:
    """Together they get as many as are allowed; who is connected stays so."""
    with (
        arena.attack("connections of many addresses", "max_connections") as got,
        contextlib.ExitStack() as stack,
    ):
        statuses = [
            ask_to_come_in(
                stack.enter_context(raw_socket(arena.port, source=f"127.0.1.{number % 50}"))
            )
            for number in range(2 * MAX_CONNECTIONS)
        ]
        assert statuses.count(101) == MAX_CONNECTIONS - 1
        assert set(statuses) == {101, 429}
        got.append(f"of {len(statuses)}: {told(statuses)}")


def dribble(arena: Arena, data: bytes, got: Outcome, what: str) -> None:
    """Send a byte now and then on as many connections as are allowed, until they are cut."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(raw_socket(arena.port, source=ATTACKER))
            for _ in range(MAX_PER_ADDRESS)
        ]
        began = time.monotonic()
        sent = 0
        open_sockets = set(sockets)
        while open_sockets and time.monotonic() - began < TIMEOUT_S:
            for raw in list(open_sockets):
                try:
                    raw.send(data[sent : sent + 1])
                except OSError:
                    open_sockets.remove(raw)
            sent += 1
            time.sleep(0.02)
        assert not open_sockets
        assert sent < len(data)
        got.append(f"{len(sockets)} connections cut off after {HANDSHAKE_TIMEOUT_S} s{what}")


def test_slow_request(arena: Arena) -> None:
    """A request that comes byte by byte does not hold its connection for longer than any other."""
    with arena.attack("slow HTTP requests", "handshake time") as got:
        dribble(arena, head_of(headers={"X": "x" * 8000}), got, ", each byte in time")


def test_slow_handshake_of_tls(secure_arena: Arena) -> None:
    """The same for TLS, which comes before the request."""
    with secure_arena.attack("slow TLS handshakes", "handshake time") as got:
        hello = b"\x16\x03\x01\x20\x00\x01\x00\x1f\xfc\x03\x03"
        dribble(secure_arena, hello + b"\0" * 8000, got, ", each byte in time")


def test_handshakes_of_tls_without_end(secure_arena: Arena) -> None:
    """Broken handshakes, and bytes that are no TLS, are refused and told once."""
    with secure_arena.attack("broken TLS handshakes", "none") as got:
        for number in got.rounds():
            with raw_socket(secure_arena.port, source=f"127.0.2.{number % 250}") as raw:
                raw.send(head_of() if number % 2 else b"\x16\x03\x01\x00\x05garbage")
                raw.read_to_end()
        got.append(f"{got.count} of {got.count} refused")


def test_compression(arena: Arena) -> None:
    """Nothing is ever decompressed: the offer is passed over, a compressed frame is a fault."""
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
    bomb = frame(Opcode.TEXT, b"\xec\xc1\x01\x01" + b"\0" * 60_000, reserved=0b100)
    with arena.attack("compression bombs", "compression is off") as got:
        for _ in got.rounds():
            with raw_socket(arena.port, source=ATTACKER) as raw:
                raw.send(head_of(headers=offer))
                response = raw.read_response()
                assert response.status == 101
                assert "sec-websocket-extensions" not in response.headers
                raw.send(bomb)
                assert raw.read_frame().close_code == CloseCode.PROTOCOL_ERROR
        got.append(f"{got.count} of {got.count} connections closed with 1002")


def test_message_that_is_announced_as_endless(arena: Arena) -> None:
    """What a frame says of its length is enough to refuse it."""
    head = b"\x81\xff" + b"\x7f" + b"\xff" * 7 + b"\0" * 4
    with arena.attack("announced sizes", "max_message_size") as got:
        for _ in got.rounds():
            with raw_websocket(arena.port, source=ATTACKER) as raw:
                raw.send(head)
                assert raw.read_frame().close_code == CloseCode.MESSAGE_TOO_BIG
        got.append(f"{got.count} of {got.count} connections closed with 1009, for 14 bytes each")


def test_connections_that_come_and_go(arena: Arena) -> None:
    """Hundreds a second, each cut in the middle, leave nothing behind."""

    counts: list[int] = []

    def come_and_go(source: str) -> None:
        for number in rounds():
            with raw_socket(arena.port, source=source) as raw:
                raw.send(head_of()[: number * 5 % 200])
                raw.reset()
        counts.append(number)

    def is_welcome() -> bool:
        with raw_socket(arena.port, source=ATTACKER) as raw:
            raw.send(head_of())
            return raw.read_response().status == HTTPStatus.SWITCHING_PROTOCOLS

    with arena.attack("connections that come and go", "none") as got:
        threads = [
            threading.Thread(target=come_and_go, args=(f"127.0.3.{number}",)) for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        got.append(f"{sum(counts)} connections, each for as long as it stayed")
        wait_until(is_welcome, "room for one more, once the last that went are noticed")
