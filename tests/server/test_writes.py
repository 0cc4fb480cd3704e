# SPDX-License-Identifier: AGPL-3.0-only
"""Writes: what belongs together leaves together, and in a fair order."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from plexus_registry.backend import Put
from plexus_registry.protocol.batch import DEFAULT_MAX_BATCH
from plexus_registry.server.connection import Connection
from support.memory import entry
from support.rawsocket import RawSocket, raw_websocket, text_frame
from support.serving import Served


def info(id: object = 1) -> dict[str, Any]:
    """Return the smallest request."""
    return {"jsonrpc": "2.0", "id": id, "method": "_info"}


def connection_of(served: Served, raw: RawSocket) -> Connection:
    """Return the server's side of a socket."""
    host, port = raw.socket.getsockname()[:2]
    return served.in_loop(
        lambda: next(it for it in served.server.connections if it.peer == f"{host}:{port}")
    )


class CountingTransport:
    """Passes everything on to a transport and keeps what was written.

    Args:
        transport: The transport.
        writes: Where to keep it, in a list of its own unless given.
    """

    def __init__(self, transport: Any, writes: list[bytes] | None) -> None:
        self._transport = transport
        self.writes = [] if writes is None else writes

    def write(self, data: bytes) -> None:
        """Keep the write and pass it on."""
        self.writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def counting(
    served: Served, raw: RawSocket, writes: list[bytes] | None = None
) -> CountingTransport:
    """Put a counter between the server's side of a socket and its transport."""
    connection: Any = connection_of(served, raw)

    def put_in() -> CountingTransport:
        counter = CountingTransport(connection.transport, writes)
        connection._outflow._transport = counter
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


def test_long_batches_leave_time_for_others(served: Served) -> None:
    """A request that came together with long batches is answered before them."""
    count, writes = 7, list[bytes]()
    release = threading.Event()
    with raw_websocket(served.port) as raw, raw_websocket(served.port) as other:
        counting(served, raw, writes)
        counting(served, other, writes)
        served.loop.call_soon_threadsafe(release.wait)
        try:
            raw.send(text_frame(b"[" + b",".join([b"1"] * DEFAULT_MAX_BATCH) + b"]") * count)
            other.send(text_frame(info("other")))
        finally:
            release.set()
        assert read_json(other, 3)[0]["id"] == "other"
        assert [len(array) for array in read_json(raw, count)] == [DEFAULT_MAX_BATCH] * count
        assert b'"other"' in writes[0]
        assert len(writes) > count


def test_long_listings_leave_time_for_others(served: Served) -> None:
    """A batch of reads that take long each is answered a few at a time, with others in between."""
    count, writes = 50, list[bytes]()
    idle = [entry(f"b{number}", is_active=False) for number in range(30_000)]
    served.in_loop(lambda: served.service.registry.catalog.apply(map(Put, idle)))
    # There is none to list, and all have to be looked at for that.
    ask = {"method": "registry.list", "params": {"limit": 1}}
    batch = [{"jsonrpc": "2.0", "id": id, **ask} for id in range(count)]
    release = threading.Event()
    with raw_websocket(served.port) as raw, raw_websocket(served.port) as other:
        counting(served, raw, writes)
        counting(served, other, writes)
        served.loop.call_soon_threadsafe(release.wait)
        try:
            raw.send(text_frame(batch))
            other.send(text_frame(info("other")))
        finally:
            release.set()
        assert read_json(other, 3)[0]["id"] == "other"
        assert len(read_json(raw, 1 + 2 * count)[0]) == count
    before, _, _ = b"".join(writes).partition(b'"other"')
    assert before.count(b'"done"') < count / 2


@pytest.fixture
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no time pass in a turn, so that none is cut short where the machine is slow."""
    monkeypatch.setattr("plexus_registry.server.connection.perf_counter_ns", lambda: 0)


@pytest.mark.usefixtures("no_time")
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


@pytest.mark.usefixtures("no_time")
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
