# SPDX-License-Identifier: AGPL-3.0-only
"""Flow control and fairness: what one client does is that client's affair."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import Any

import pytest

from plexus_registry.server.connection import READ_BYTES, UNSENT_MAX_BYTES, Connection
from plexus_registry.server.listener import DEFAULT_MAX_PENDING_CALLS
from support.conversation import Conversation, conversation
from support.rawsocket import RawSocket, close_frame, raw_websocket, text_frame
from support.serving import Served
from support.timing import wait_until

# Of asyncio's transports, unless set otherwise.
HIGH_WATER = 64 * 1024
SMALL = {"receive_buffer": 4096}


def info(id: object = 1) -> dict[str, Any]:
    """Return the smallest request."""
    return {"jsonrpc": "2.0", "id": id, "method": "_info"}


def fill(client: Conversation, count: int, description: str = "") -> None:
    """Register *count* backends with a long description."""
    for number in range(count):
        params = {"name": f"b{number}", "host": "h", "port": 1, "description": description}
        client.send(
            {"jsonrpc": "2.0", "id": number, "method": "registry.register", "params": params}
        )
    for _ in range(count):
        assert client.answer().content["type"] == "backend_registered"


def connection_of(served: Served, raw: RawSocket) -> Connection:
    """Return the server's side of a socket."""
    host, port = raw.socket.getsockname()[:2]
    return served.in_loop(
        lambda: next(it for it in served.server.connections if it.peer == f"{host}:{port}")
    )


def read_json(raw: RawSocket, count: int) -> list[Any]:
    """Read *count* text frames."""
    return [raw.read_frame().json for _ in range(count)]


def sending(raw: RawSocket, data: bytes) -> threading.Thread:
    """Send in a thread, which waits as long as the server does not read."""

    def send() -> None:
        raw.socket.settimeout(None)
        raw.send(data)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def count_until(raw: RawSocket, text: bytes, count: int, tail: bytes = b"") -> None:
    """Read until *text* has come *count* times, behind *tail*."""
    while count > 0:
        received = raw.socket.recv(2**20)
        assert received, "the server closed"
        tail += received
        count -= tail.count(text)
        tail = tail[max(tail.rfind(text) + len(text), len(tail) - len(text) + 1) :]
    assert count == 0


def test_client_that_does_not_read(served: Served) -> None:
    """100,000 requests whose answers nobody reads cost little memory and no one else's time."""
    count = 100_000
    with raw_websocket(served.port, **SMALL) as raw, conversation(served.url) as other:
        connection = connection_of(served, raw)
        thread = sending(raw, text_frame(info()) * count)
        wait_until(lambda: connection._is_write_paused, "the server to stop reading")
        for _ in range(50):
            other.expect_silence()
            buffered, inbox = served.in_loop(
                lambda: (
                    connection.transport.get_write_buffer_size(),
                    sum(map(len, connection._inbox)),
                )
            )
            assert buffered <= HIGH_WATER + UNSENT_MAX_BYTES + 4096
            assert inbox <= READ_BYTES
        assert thread.is_alive(), "the server read on"
        count_until(raw, b'"type":"done"', count)
        thread.join()


def test_large_answers_that_nobody_reads(served: Served) -> None:
    """A batch of a thousand long listings is answered as fast as it is read, not faster."""
    count, size = 1000, 200_000
    with raw_websocket(served.port, **SMALL) as raw, conversation(served.url) as other:
        fill(other, 200, "x" * 800)
        connection = connection_of(served, raw)
        batch = [{"jsonrpc": "2.0", "id": id, "method": "registry.list"} for id in range(count)]
        raw.send(text_frame(batch))
        wait_until(lambda: connection._is_write_paused, "the server to stop")
        for _ in range(20):
            other.expect_silence()
            buffered = served.in_loop(connection.transport.get_write_buffer_size)
            assert buffered <= HIGH_WATER + UNSENT_MAX_BYTES + 2 * size
        count_until(raw, b'"type":"done"', count)


def test_client_that_leaves_without_reading(served: Served) -> None:
    """What a client sent before it left is carried out, though its answers have nowhere to go."""
    with raw_websocket(served.port, **SMALL) as raw, conversation(served.url) as other:
        fill(other, 50, "x" * 800)
        connection = connection_of(served, raw)
        listings = [{"jsonrpc": "2.0", "id": id, "method": "registry.list"} for id in range(200)]
        last = {
            "jsonrpc": "2.0",
            "id": "last",
            "method": "registry.register",
            "params": {"name": "last", "host": "h", "port": 1},
        }
        raw.send(text_frame([*listings, last]) + text_frame({**last, "id": "very last"}))
        wait_until(lambda: connection._is_write_paused, "the server to stop")
        raw.reset()
        catalog = served.service.registry.catalog
        wait_until(lambda: served.in_loop(lambda: catalog.get("last")), "the entry")
        other.expect_silence()


def test_nothing_is_read_for_a_client_that_has_left(served: Served) -> None:
    """The listings that it asked for are not made any more: everybody else would wait for them."""
    with raw_websocket(served.port, **SMALL) as raw, conversation(served.url) as other:
        fill(other, 50, "x" * 800)
        connection = connection_of(served, raw)
        count = served.in_loop(lambda: served.server.hub.counts.of("list"))
        listings = [{"jsonrpc": "2.0", "id": id, "method": "registry.list"} for id in range(500)]
        params = {"name": "last", "host": "h", "port": 1}
        last = {"jsonrpc": "2.0", "id": 1, "method": "registry.register", "params": params}
        raw.send(b"".join(map(text_frame, [listings, listings[0], last])))
        wait_until(lambda: connection._is_write_paused, "the server to stop")
        made = served.in_loop(lambda: count.answers)
        raw.reset()
        catalog = served.service.registry.catalog
        wait_until(lambda: served.in_loop(lambda: catalog.get("last")), "the entry")
        # The kernel may have taken some more before the client left.
        assert served.in_loop(lambda: count.answers) - made < 100


def cuts(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log's lines about clients that do not read."""
    return [it.message for it in caplog.records if "client does not read" in it.message]


def no_connection(served: Served) -> bool:
    """Tell whether the server has no connection."""
    return not served.in_loop(lambda: served.server.connections)


def test_client_that_does_not_read_is_cut_off(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """Who takes nothing for long is dropped, with one line in the log that names the client."""
    served.in_loop(lambda: setattr(served.server, "slow_reader_timeout_s", 0.1))
    with raw_websocket(served.port, **SMALL) as raw, conversation(served.url) as other:
        peer = connection_of(served, raw).peer
        thread = sending_until_cut(raw, text_frame(info()) * 100_000)
        wait_until(
            lambda: len(served.in_loop(lambda: list(served.server.connections))) == 1, "the cut"
        )
        thread.join()
        other.expect_silence()
    [line] = cuts(caplog)
    assert peer in line


def sending_until_cut(raw: RawSocket, data: bytes) -> threading.Thread:
    """Send in a thread; the server may end the connection meanwhile."""

    def send() -> None:
        raw.socket.settimeout(None)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            raw.send(data)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_client_that_reads_slowly_is_served(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """Who takes something before each look at the clock keeps the connection, however slow."""
    count = 50_000
    with raw_websocket(served.port, **SMALL) as raw:
        connection = connection_of(served, raw)
        thread = sending(raw, text_frame(info()) * count)
        wait_until(lambda: connection._is_write_paused, "the server to stop reading")
        for _ in range(5):
            before = served.in_loop(lambda: connection._outflow.unread_bytes)
            while served.in_loop(lambda: connection._outflow.unread_bytes) >= before:
                raw.unread += raw.socket.recv(1024)
            served.in_loop(connection._check_outflow)
        assert not connection.transport.is_closing()
        seen = raw.unread.count(b'"type":"done"')
        rest = raw.unread[raw.unread.rfind(b'"type":"done"') + 1 :]
        raw.unread.clear()
        count_until(raw, b'"type":"done"', count - seen, bytes(rest))
        thread.join()
    assert cuts(caplog) == []


@pytest.mark.parametrize("ending", ["close", "half"])
def test_client_that_ends_and_does_not_read_is_cut_off(
    served: Served, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a close frame nor the end of its half lets a client keep a connection for ever."""
    with raw_websocket(served.port, **SMALL) as raw:
        with conversation(served.url) as other:
            fill(other, 100, "x" * 1000)
        served.in_loop(lambda: setattr(served.server, "close_timeout_s", 3600.0))
        served.in_loop(lambda: setattr(served.server, "slow_reader_timeout_s", 1e9))
        connection = connection_of(served, raw)
        requests = [{"jsonrpc": "2.0", "id": id, "method": "registry.list"} for id in range(100)]
        last = close_frame() if ending == "close" else b""
        raw.send(b"".join(map(text_frame, requests)) + last)
        wait_until(lambda: connection._is_write_paused, "a full buffer")
        if ending == "half":
            raw.socket.shutdown(socket.SHUT_WR)
            # As if it had come with the last request, before reading paused.
            served.in_loop(connection.transport.resume_reading)

        def is_over() -> bool:
            served.let_pass(3600.0)
            return no_connection(served)

        wait_until(is_over, "no connection")
    assert cuts(caplog) == []


def test_close_waits_for_the_disk(served: Served) -> None:
    """What was asked before a close frame is answered, though the disk takes its time."""
    release = threading.Event()
    with raw_websocket(served.port) as raw:
        served.in_loop(lambda: setattr(served.server, "close_timeout_s", 3600.0))
        registry = served.service.registry
        served.in_loop(lambda: registry._offload_commit(release.wait, lambda outcome: None))
        try:
            params = {"name": "dev", "host": "h", "port": 1}
            request = {"jsonrpc": "2.0", "id": 1, "method": "registry.register", "params": params}
            raw.send(text_frame(request) + close_frame())
            connection = connection_of(served, raw)
            wait_until(lambda: connection._farewell, "the close frame")
            for _ in range(3):
                served.in_loop(connection._check_outflow)
        finally:
            release.set()
        assert read_json(raw, 3)[0]["id"] == 1
        assert raw.read_frame().close_code == 1000


def test_reads_that_wait_for_the_disk_are_bounded(served: Served) -> None:
    """A client gets no more calls started than `max_pending_calls` while the disk is busy."""
    registry = served.service.registry
    release = threading.Event()
    with raw_websocket(served.port) as raw, conversation(served.url) as other:
        served.in_loop(lambda: registry._offload_commit(release.wait, lambda outcome: None))
        try:
            count = 3 * DEFAULT_MAX_PENDING_CALLS
            requests = [
                {
                    "jsonrpc": "2.0",
                    "id": number,
                    "method": "registry.register",
                    "params": {"name": f"b{number}", "host": "h", "port": 1},
                }
                for number in range(count)
            ]
            thread = sending(raw, b"".join(map(text_frame, requests)))
            session = connection_of(served, raw)._session
            assert session is not None
            wait_until(lambda: session.pending >= DEFAULT_MAX_PENDING_CALLS, "the limit")
            for _ in range(20):
                other.expect_silence()
                assert session.pending == DEFAULT_MAX_PENDING_CALLS
        finally:
            release.set()
        count_until(raw, b'"type":"done"', count)
        thread.join()
        assert served.in_loop(lambda: len(registry.catalog)) == count


def test_many_clients_at_once(served: Served) -> None:
    """Two hundred clients that come, ask, and go in different ways leave nothing behind."""

    def come_and_go(number: int) -> None:
        with raw_websocket(served.port) as raw:
            raw.send(text_frame(info(number)))
            assert json.loads(raw.read_frame().data)["id"] == number
            if number % 3 == 0:
                raw.send(close_frame())
                raw.read_to_end()
            elif number % 3 == 1:
                raw.reset()

    def work(first: int) -> None:
        for number in range(first, first + 25):
            come_and_go(number)

    threads = [threading.Thread(target=work, args=(number * 25,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: not served.in_loop(lambda: served.server.connections), "no connection")
