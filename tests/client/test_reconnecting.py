# SPDX-License-Identifier: AGPL-3.0-only
"""Registries that go, come back, hang up or talk nonsense, and what becomes of calls meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from plexus_registry import Service, Settings
from plexus_registry.client import Client, OutcomeUnknown, Refused, Unreachable, reconnecting
from plexus_registry.client.backoff import FIRST_S, Backoff
from plexus_registry.client.connection import Connection
from support.clocks import put_forward
from support.daemon import daemon
from support.puppet import Peer, frames_of, in_loop, puppet, refused
from support.timing import TIMEOUT_S

SHORT_S = 0.2
"""What is waited for in vain."""
SOON_S = 0.05
"""The longest delay between attempts, where nobody else is to be spared."""

BACKENDS = {"type": "backends", "backends": []}
ENTRY = {"type": "backend_registered", "backend": {"name": "a", "host": "h", "port": 1}}


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def client(url: str, **options: Any) -> Client:
    """Return a client that tries often."""
    return Client(url, **{"timeout_s": TIMEOUT_S, "max_delay_s": SOON_S, **options})


async def hang_up(peer: Peer) -> None:
    """Go as soon as something is asked."""
    await peer.receive()


async def answer_lists(peer: Peer) -> None:
    """Answer as if every call were a list."""
    while True:
        await peer.answer(await peer.receive(), BACKENDS)


# --- away and back --------------------------------------------------------------------------------


@in_loop
async def test_call_waits_for_a_registry_that_is_away(settings: Settings) -> None:
    """For its time, and then it is told why; if the registry comes, it is answered."""
    port = free_port()
    async with client(f"ws://127.0.0.1:{port}") as registry:
        calls: list[Callable[..., Coroutine[Any, Any, object]]]
        calls = [partial(registry.delete, "a"), registry.connection]
        for call in calls:
            waiting = asyncio.create_task(call(timeout_s=TIMEOUT_S))
            await refused(registry)
            put_forward(asyncio.get_running_loop(), TIMEOUT_S)
            with pytest.raises(Unreachable, match=r"Connection refused; waited \d+ s"):
                await waiting
        listing = asyncio.create_task(registry.list())
        async with Service(dataclasses.replace(settings, port=port)):
            assert await listing == []


@in_loop
async def test_calls_that_waited_are_sent_in_the_order_in_which_they_were_made() -> None:
    """As if the registry had been there."""
    asked = []

    async def note(peer: Peer) -> None:
        while True:
            request = await peer.receive()
            asked.append(request["params"]["params"]["name"])
            await peer.answer(request, {"type": "backend", "backend": None})

    names = [f"n{number}" for number in range(20)]
    async with puppet(note) as url, client(url) as registry:
        await asyncio.gather(*(registry.get(name) for name in names))
    assert asked == names


@in_loop
async def test_client_finds_the_daemon_again_after_it_was_killed(tmp_path: Path) -> None:
    """On the same port; one line tells that it went, and one that it is back."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("plexus_registry.client")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        with daemon(tmp_path, ["--auto-register", "none"]) as first:
            url = first.url
            async with client(url) as registry:
                await registry.register("a", "h", 1)
                first.stop(signal.SIGKILL)
                await (await registry.connection()).wait_closed()
                port = url.rpartition(":")[2]
                with daemon(tmp_path, ["--auto-register", "none", "--port", port]) as second:
                    assert await registry.resolve("a", timeout_s=2 * TIMEOUT_S) == "ws://h:1"
                    assert second.url == url
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    away, back = lines
    assert away.startswith(f"registry away url={url} reason=no close frame")
    assert back == f"registry answers again url={url}"


@in_loop
async def test_calls_go_on_across_a_restart(settings: Settings) -> None:
    """Reads and repeatable changes that are made all the time notice nothing."""
    async with contextlib.AsyncExitStack() as stack:
        service = await stack.enter_async_context(Service(settings))
        port = int(service.addresses[0].rpartition(":")[2])
        registry = await stack.enter_async_context(client(f"ws://127.0.0.1:{port}"))
        await registry.register("a", "h", 1)
        stop = asyncio.Event()

        async def ask() -> int:
            count = 0
            while not stop.is_set():
                await registry.ping("a")
                assert await registry.resolve("a") == "ws://h:1"
                count += 1
            return count

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        await registry.ping("a")
        await service.__aexit__(None, None, None)
        async with Service(dataclasses.replace(settings, port=port)):
            await registry.ping("a")
            stop.set()
            assert all(count > 0 for count in await asyncio.gather(*asking))
        stack.pop_all()
        await registry.__aexit__(None, None, None)


# --- in flight ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "content"),
    [
        (lambda registry: registry.list(), BACKENDS),
        (lambda registry: registry.register("a", "h", 1), ENTRY),
        (lambda registry: registry.ping("a"), {"type": "ping", "success": True}),
        (lambda registry: registry.deregister("a"), {"type": "backend_deregistered"}),
    ],
)
def test_call_that_can_be_repeated_is_sent_again(
    ask: Callable[[Client], Awaitable[object]], content: object
) -> None:
    """When the connection breaks before the answer; the caller notices nothing."""
    requests = []

    async def note(peer: Peer) -> None:
        requests.append((await peer.receive())["params"])

    async def answer(peer: Peer) -> None:
        request = await peer.receive()
        requests.append(request["params"])
        await peer.answer(request, content)
        await peer.idle()

    async def run() -> None:
        async with puppet(note, note, answer) as url, client(url) as registry:
            await ask(registry)

    asyncio.run(run())
    assert len(requests) == 3
    assert requests[0] == requests[1] == requests[2]


@pytest.mark.parametrize(
    "ask",
    [
        lambda registry: registry.update("a", port=1),
        lambda registry: registry.delete("a"),
        lambda registry: registry.reload(),
    ],
)
def test_change_in_flight_is_not_sent_again(ask: Callable[[Client], Awaitable[object]]) -> None:
    """It is told at once that nobody knows; the next call works."""
    methods = []

    async def note(peer: Peer) -> None:
        methods.append((await peer.receive_call())[1])

    async def answer(peer: Peer) -> None:
        request, method = await peer.receive_call()
        methods.append(method)
        await peer.answer(request, BACKENDS)
        await peer.idle()

    async def run() -> None:
        async with puppet(note, answer) as url, client(url) as registry:
            with pytest.raises(OutcomeUnknown, match=r"1000.*; whether registry\.\w+ was carried"):
                await ask(registry)
            assert await registry.list() == []

    asyncio.run(run())
    assert len(methods) == 2
    assert methods[1] == "registry.list"


@in_loop
async def test_change_is_sent_when_the_connection_ended_before_it(settings: Settings) -> None:
    """What was not sent cannot have been carried out."""
    async with Service(settings) as service, client(f"ws://{service.addresses[0]}") as registry:
        await registry.register("a", "h", 1)
        connection = await registry.connection()
        assert connection._websocket is not None
        closing = asyncio.create_task(connection._websocket.close())
        await asyncio.sleep(0)
        assert not connection.is_open
        await registry.delete("a")
        assert await registry.list() == []
        await closing


@in_loop
async def test_change_goes_to_the_next_connection_if_this_one_ends_at_the_last_moment(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the wait for it and the sending."""
    async with Service(settings) as service:
        url = f"ws://{service.addresses[0]}"
        async with client(url) as registry, Connection(url) as ended:
            await registry.register("a", "h", 1)
            await ended.close()
            found = [ended]
            connect = registry._wire.connection

            async def connection() -> Connection:
                return found.pop() if found else await connect()

            monkeypatch.setattr(registry._wire, "connection", connection)
            await registry.delete("a")
            assert not found


@in_loop
async def test_call_in_flight_ends_with_the_client() -> None:
    """And says that of it."""

    async def wait(peer: Peer) -> None:
        await peer.receive()
        asked.set()
        await peer.idle()

    asked = asyncio.Event()
    async with puppet(wait) as url:
        async with client(url) as registry:
            call = asyncio.create_task(registry.delete("a"))
            await asked.wait()
        with pytest.raises(OutcomeUnknown):
            await call


# --- nonsense -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        "no JSON",
        "7",
        "[]",
        "null",
        "{}",
        '{"method":"s"}',
        '{"params":{"subscription":[]}}',
        '{"id":[]}',
        "[" * 100_000,
    ],
)
def test_frame_that_is_none_ends_the_connection_and_not_the_client(frame: str) -> None:
    """A read is asked again of the next; a change fails with the reason."""

    async def talk_nonsense(peer: Peer) -> None:
        await peer.receive()
        await peer.send(frame)
        await peer.idle()

    async def run() -> None:
        behaviours = (talk_nonsense, talk_nonsense, answer_lists)
        async with puppet(*behaviours) as url, client(url) as registry:
            with pytest.raises(OutcomeUnknown, match="what answers is no Plexus hub; whether"):
                await registry.delete("a")
            assert await registry.list() == []

    asyncio.run(run())


@pytest.mark.parametrize(
    "frame",
    [
        {"id": 4711, "result": 1},
        {"id": "1", "result": 1},
        {"id": None, "error": {"code": -32700, "message": "Parse error"}},
        {"method": "result", "params": {"subscription": 4711, "result": {"type": "done"}}},
        {"method": "result", "params": {"subscription": "x", "result": 7}},
        {"id": 4711, "error": 7},
    ],
)
def test_frame_of_somebody_else_is_left_alone(frame: object) -> None:
    """Before an answer, in it, and after its end."""

    async def behave(peer: Peer) -> None:
        for _ in range(2):
            request = await peer.receive()
            response, data, done = frames_of(request, BACKENDS)
            await peer.send(frame, response, frame, data, frame, done, done, frame)
        await peer.idle()

    async def run() -> None:
        async with puppet(behave) as url, client(url) as registry:
            assert await registry.list() == []
            assert await registry.list() == []

    asyncio.run(run())


@in_loop
async def test_progress_is_no_answer() -> None:
    """An item of a kind that has no content is passed over."""

    async def behave(peer: Peer) -> None:
        request = await peer.receive()
        response, data, done = frames_of(request, BACKENDS)
        progress = {"type": "progress", "message": "half"}
        params = {"subscription": response["result"], "result": progress}
        await peer.send(response, {"method": "result", "params": params}, data, done)
        await peer.idle()

    async with puppet(behave) as url, client(url) as registry:
        assert await registry.list() == []


# --- delays ---------------------------------------------------------------------------------------


def test_delays_double_up_to_a_bound_and_are_anything_below_it() -> None:
    """Full jitter: what is drawn is drawn from 0, so that no two clients keep in step."""
    drawn = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return high / 4

    backoff = Backoff(1.0, uniform=uniform)
    delays = [backoff.next() for _ in range(6)]
    assert drawn == [(0.0, bound) for bound in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0)]
    assert delays == [high / 4 for _, high in drawn]
    backoff.reset()
    backoff.next()
    assert drawn[-1] == (0.0, FIRST_S)
    assert Backoff(0.01, uniform=lambda low, high: high).next() == 0.01
    assert all(0 <= Backoff(1.0).next() <= FIRST_S for _ in range(100))


class Recorded(Backoff):
    """Draws the bound, notes it, and waits next to nothing."""

    bounds: list[float]

    def __init__(self, max_s: float) -> None:
        super().__init__(max_s, uniform=lambda _, high: high)

    def next(self) -> float:
        """Note the delay."""
        self.bounds.append(super().next())
        return 0.0

    def reset(self) -> None:
        """Note it as a delay of 0."""
        super().reset()
        self.bounds.append(0.0)


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What clients would wait at the most, one attempt after another."""
    found: list[float] = []
    monkeypatch.setattr(Recorded, "bounds", found, raising=False)
    monkeypatch.setattr(reconnecting, "Backoff", Recorded)
    return found


@in_loop
async def test_registry_that_accepts_and_hangs_up_is_asked_less_and_less(
    bounds: list[float],
) -> None:
    """That it answered `_info` is not enough."""
    async with puppet(*[hang_up] * 8, answer_lists) as url, Client(url) as registry:
        assert await registry.list() == []
    assert bounds == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


@in_loop
async def test_delays_begin_anew_after_a_connection_that_lasted(bounds: list[float]) -> None:
    """Longer than the longest delay."""
    async with (
        puppet(hang_up, hang_up, hang_up, answer_lists) as url,
        Client(url, max_delay_s=1e-9) as registry,
    ):
        assert await registry.list() == []
    assert bounds == [0.0, 1e-9] * 3


def test_refused_client_waits_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not let in before somebody does something; calls are refused at once meanwhile."""
    delays = []

    async def run() -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            body = b"not you"
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\n" + body)
            writer.close()
            await writer.wait_closed()

        async def note(delay_s: float) -> None:
            delays.append(delay_s)
            await asyncio.Event().wait()

        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        async with server:
            monkeypatch.setattr("plexus_registry.client.reconnecting.asyncio.sleep", note)
            async with Client(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}") as registry:
                for _ in range(3):
                    with pytest.raises(Refused, match=r"^not you$"):
                        await registry.list()

    asyncio.run(run())
    assert delays == [reconnecting.REFUSED_RETRY_S]
