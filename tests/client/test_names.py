# SPDX-License-Identifier: AGPL-3.0-only
"""Names of hosts: who waits for their addresses, how long, and which address is taken."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plexus_registry.cli.exits import Exit
from plexus_registry.client import names
from plexus_registry.client.connection import Connection
from plexus_registry.config.settings import Settings
from plexus_registry.errors import Unreachable
from support.certificates import Authority
from support.clocks import put_forward
from support.control import MAIN, ctl, environment_of
from support.puppet import in_loop
from support.resolver import ASKED, MUTE, Resolver, muted
from support.serving import Served, serving
from support.timing import TIMEOUT_S

HOST = f"registry{MUTE}"
URL = f"ws://{HOST}:4445"
LONG_S = 3600.0


async def until(condition: Callable[[], object]) -> None:
    """Wait until something holds."""
    while not condition():
        await asyncio.sleep(0.005)


# --- nobody answers for the name ------------------------------------------------------------------


def test_name_that_is_not_resolved_in_time_is_the_reason(resolver: Resolver) -> None:
    """And not that the registry would not answer, whom nobody asked."""

    async def run() -> str:
        opening = asyncio.create_task(Connection(URL, timeout_s=LONG_S).open())
        await until(lambda: resolver.asked)
        put_forward(asyncio.get_running_loop(), LONG_S)
        with pytest.raises(Unreachable) as failed:
            await opening
        return failed.value.reason

    assert asyncio.run(run()) == "its name was not resolved within 3600 s"


def test_command_ends_when_its_time_is_over(tmp_path: Path) -> None:
    """Its process, too, though the resolver never comes back."""
    arguments = ("--url", URL, "--timeout", "0.2", "status")
    ended = ctl(tmp_path, *arguments, program=muted(MAIN[-1]))
    assert ended.returncode == Exit.UNAVAILABLE
    assert "its name was not resolved within 0.2 s" in ended.stderr.splitlines()[-1]


def test_completion_ends_when_its_time_is_over(tmp_path: Path) -> None:
    """Whoever typed has nothing offered, and goes on."""
    ended = ctl(
        tmp_path,
        program=muted(MAIN[-1]),
        PLEXUS_REGISTRY_URL=URL,
        _PLEXUS_REGISTRYCTL_COMPLETE="bash_complete",
        COMP_WORDS="plexus-registryctl get p",
        COMP_CWORD="2",
    )
    assert ended.stdout.strip() == ""


@contextlib.contextmanager
def running(home: Path, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program whose resolver hangs, from when it has been asked; kill it if it stays."""
    with subprocess.Popen(
        [*muted(program), *arguments],
        env=environment_of(home),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == f"{ASKED}\n"
            yield process
        finally:
            process.kill()


def test_command_ends_when_it_is_interrupted(tmp_path: Path) -> None:
    """Ctrl-C is not left waiting for the resolver."""
    minding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    arguments = ("--url", URL, "--timeout", str(LONG_S), "status")
    with running(tmp_path, minding + MAIN[-1], *arguments) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == -signal.SIGINT


def test_hub_ends_when_its_block_does(tmp_path: Path) -> None:
    """A hub under `announce`, all of its process."""
    hub = f"""
import asyncio
from plexus_registry.client import announce
async def main():
    async with announce("hub", port=1, url={URL!r}, timeout_s={LONG_S}):
        await asyncio.to_thread(input)
asyncio.run(main())
"""
    with running(tmp_path, hub) as process:
        process.communicate("\n", timeout=TIMEOUT_S)
        assert process.returncode == 0


# --- look-ups -------------------------------------------------------------------------------------


@in_loop
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "fe80::1%1", "127.1"])
async def test_address_is_not_looked_up(resolver: Resolver, host: str) -> None:
    """It needs no thread."""
    [place] = await names.resolve(host, 7)
    assert place.address[1] == 7
    assert resolver.asked == []


@in_loop
async def test_look_up_is_shared_and_outlives_who_gives_up(resolver: Resolver) -> None:
    """Those that ask for a host while it is looked up wait for the same thread."""
    first, second = (asyncio.create_task(names.resolve(HOST, port)) for port in (1, 2))
    await until(lambda: resolver.asked)
    first.cancel()
    await asyncio.wait([first])
    resolver.give_up()
    assert [place.address for place in await second] == [("127.0.0.1", 2)]
    assert resolver.asked == [HOST]


@in_loop
async def test_look_up_that_is_old_keeps_nobody_from_a_new_one(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server that it asks may be gone, and another there."""
    monkeypatch.setattr(names, "SHARED_S", 0.0)
    waiting = [asyncio.create_task(names.resolve(HOST, 1)) for _ in range(2)]
    await until(lambda: len(resolver.asked) == 2)
    resolver.give_up()
    await asyncio.gather(*waiting)


@in_loop
async def test_room_is_waited_for(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks about many hosts has a bound on threads; one that ends makes room."""
    monkeypatch.setattr(names, "RUNNING_MAX", 1)
    await names.room()
    given_up = asyncio.create_task(names.resolve(HOST, 1))
    await until(lambda: resolver.asked)
    given_up.cancel()
    waiting = asyncio.create_task(names.room())
    await asyncio.sleep(0.2)
    assert not waiting.done()
    resolver.give_up()
    await waiting


@in_loop
async def test_answer_for_a_loop_that_has_ended_is_dropped(resolver: Resolver) -> None:
    """Nobody is there any more, and nothing is said about it."""

    async def give_up() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await names.resolve(HOST, 1)

    await asyncio.to_thread(asyncio.run, give_up())
    resolver.give_up()


@in_loop
async def test_thread_that_cannot_be_had_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with few of them."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(Unreachable) as failed:
        await Connection(URL).open()
    assert failed.value.reason == "its name could not be looked up: can't start new thread"


# --- the addresses of a name ----------------------------------------------------------------------


@in_loop
async def test_every_address_of_a_name_is_tried() -> None:
    """In their order, until one accepts; `localhost` is ::1 as well as 127.0.0.1."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as listening, contextlib.suppress(OSError):
            listening.bind((host, 0))
            listening.listen()
            address = listening.getsockname()
            places = await names.resolve("localhost", address[1])
            if address not in [place.address for place in places]:
                continue  # a machine without IPv6
            with await names.connected(places) as sock:
                assert sock.getpeername() == address


@in_loop
async def test_reason_is_that_of_each_address() -> None:
    """Once, where it is the same."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    places = [*await names.resolve("127.0.0.1", port), *await names.resolve("127.0.0.2", port)]
    with pytest.raises(names.NotConnected) as failed:
        await names.connected(places)
    assert [type(fault) for fault in failed.value.faults] == [ConnectionRefusedError] * 2
    with pytest.raises(Unreachable) as told:
        await Connection(f"ws://localhost:{port}").open()
    assert told.value.reason.endswith("Connection refused")
    assert told.value.reason.count("Connection refused") == 1


@in_loop
async def test_name_is_told_to_the_registry(served: Served) -> None:
    """It is what the `Host` header says, not the address behind it."""
    async with Connection(f"ws://localhost:{served.port}") as registry:
        assert registry._websocket is not None
        assert registry._websocket.request is not None
        assert registry._websocket.request.headers["Host"] == f"localhost:{served.port}"
        assert registry.local_host == "127.0.0.1"


def test_name_is_what_the_certificate_has_to_say(settings: Settings, tmp_path: Path) -> None:
    """And not the address behind it."""
    authority = Authority(tmp_path)
    issued = authority.issue(hosts=["localhost"])

    async def open_and_close(host: str, port: int) -> None:
        async with Connection(f"wss://{host}:{port}", ca_file=authority.file):
            pass

    with serving(issued.secure(settings)) as served:
        asyncio.run(open_and_close("localhost", served.port))
        with pytest.raises(Unreachable, match="certificate is not accepted"):
            asyncio.run(open_and_close("127.0.0.1", served.port))
