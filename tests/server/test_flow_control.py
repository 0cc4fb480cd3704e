# SPDX-License-Identifier: AGPL-3.0-only
"""Flow control and fairness: what one client does is that client's affair."""

from __future__ import annotations

import json
import select
import threading
import time
from pathlib import Path
from typing import Any

from plexus_registry.server.connection import PENDING_MAX, READ_BYTES, UNSENT_MAX_BYTES, Connection
from support.conversation import Conversation, conversation
from support.daemon import daemon
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


def sending(raw: RawSocket, data: bytes) -> threading.Thread:
    """Send in a thread, which waits as long as the server does not read."""

    def send() -> None:
        raw.socket.settimeout(None)
        raw.send(data)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def count_until(raw: RawSocket, text: bytes, count: int) -> None:
    """Read until *text* has come *count* times."""
    tail = b""
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


def test_long_batch_leaves_time_for_others(tmp_path: Path) -> None:
    """While a batch of half a million entries is read, another client gets its answers.

    In a process of its own, so that the clients' threads do not take the server's time.
    """
    with daemon(tmp_path) as running:
        port = int(running.url.rpartition(":")[2])
        with raw_websocket(port) as raw, raw_websocket(port) as other:
            waits = []
            begin = time.monotonic()
            raw.send(text_frame(b"[" + b"1," * 520_000 + b"1]"))
            while not select.select([raw.socket], [], [], 0)[0]:
                asked = time.monotonic()
                other.send(text_frame(info()))
                read_json(other, 3)
                waits.append(time.monotonic() - asked)
            assert max(waits) < (time.monotonic() - begin) / 3
            assert len(raw.read_frame().json) == 520_001
        assert running.stop() == 0


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


def test_reads_that_wait_for_the_disk_are_bounded(served: Served) -> None:
    """A client gets no more calls started than `PENDING_MAX` while the disk is busy."""
    registry = served.service.registry
    release = threading.Event()
    with raw_websocket(served.port) as raw, conversation(served.url) as other:
        served.in_loop(lambda: registry._offload_commit(release.wait, lambda outcome: None))
        try:
            count = 3 * PENDING_MAX
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
            wait_until(lambda: session.pending >= PENDING_MAX, "the limit")
            for _ in range(20):
                other.expect_silence()
                assert session.pending == PENDING_MAX
        finally:
            release.set()
        count_until(raw, b'"type":"done"', count)
        thread.join()
        assert served.in_loop(lambda: len(registry.catalog)) == count


class CountingTransport:
    """Passes everything on to a transport and keeps what was written."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Keep the write and pass it on."""
        self.writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def counting(served: Served, raw: RawSocket) -> CountingTransport:
    """Put a counter between the server's side of a socket and its transport."""
    connection: Any = connection_of(served, raw)

    def put_in() -> CountingTransport:
        connection.transport = CountingTransport(connection.transport)
        counter: CountingTransport = connection.transport
        return counter

    return served.in_loop(put_in)


def read_json(raw: RawSocket, count: int) -> list[Any]:
    """Read *count* text frames."""
    return [raw.read_frame().json for _ in range(count)]


def test_one_write_for_one_answer(served: Served) -> None:
    """The three frames of an answer leave in one write, after a commit as without one."""
    with raw_websocket(served.port) as raw:
        counter = counting(served, raw)
        for method in ("registry.list", "registry.register", "registry.reload", "nope"):
            params = {"name": "dev", "host": "h", "port": 1}
            raw.send(text_frame({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
            read_json(raw, 1 if method == "nope" else 3)
            assert len(counter.writes) == 1, method
            counter.writes.clear()


def test_one_write_for_all_that_one_read_brought(served: Served) -> None:
    """A hundred requests in one packet are answered in one write, and so is a batch."""
    with raw_websocket(served.port) as raw:
        counter = counting(served, raw)
        raw.send(b"".join(text_frame(info(number)) for number in range(100)))
        read_json(raw, 300)
        assert len(counter.writes) == 1
        raw.send(text_frame([info(number) for number in range(50)]))
        read_json(raw, 101)
        assert len(counter.writes) == 2


def test_writes_of_one_commit_are_answered_in_one_write(served: Served) -> None:
    """Those who wait for the same commit get their answers together: two writes for fifty."""
    with raw_websocket(served.port) as raw:
        counter = counting(served, raw)
        requests = [
            {
                "jsonrpc": "2.0",
                "id": number,
                "method": "registry.register",
                "params": {"name": f"b{number}", "host": "h", "port": 1},
            }
            for number in range(50)
        ]
        raw.send(b"".join(map(text_frame, requests)))
        read_json(raw, 150)
        assert len(counter.writes) <= 2


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
