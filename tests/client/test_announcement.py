# SPDX-License-Identifier: AGPL-3.0-only
"""Hubs that announce themselves, to registries that are there, away, forgetful or unwilling."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plexus_registry import Service, Settings
from plexus_registry.access import Policy
from plexus_registry.backend import Backend
from plexus_registry.client import (
    Announcement,
    Client,
    InvalidValue,
    Source,
    announce,
    announcement,
)
from plexus_registry.client.connection import _host_of
from support.puppet import Peer, in_loop, puppet
from support.serving import Served, serving
from support.timing import TIMEOUT_S

OFTEN_S = 0.02
"""The interval of pings and retries, where a test waits for the next one."""


def announced(served: Served | str, name: str = "hub", **options: Any) -> Announcement:
    """Return an announcement at a registry."""
    url = served if isinstance(served, str) else served.url
    usual = {"port": 5000, "url": url, "ping_interval_s": OFTEN_S, "retry_s": 3600}
    return announce(name, **{**usual, **options})


def entry_of(served: Served, name: str = "hub") -> Backend | None:
    """Return what the registry has under a name."""
    return served.in_loop(lambda: served.service.registry.catalog.get(name))


async def until(condition: Callable[[], object]) -> None:
    """Wait until something holds; the test's own limit of time ends that."""
    while not condition():
        await asyncio.sleep(0.005)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return what the client has logged so far."""
    caplog.set_level(logging.INFO, "plexus_registry.client")

    def found() -> list[str]:
        return [
            f"{record.levelname} {record.getMessage()}"
            for record in caplog.records
            if record.name == "plexus_registry.client"
        ]

    return found


@in_loop
async def test_hub_is_registered_while_its_block_runs(
    served: Served, lines: Callable[[], list[str]]
) -> None:
    """With all that it says of itself, as a hub does; then its entry is inactive."""
    async with announced(
        served, description="Mine", namespace="n", version="2", metadata={"pid": 7}
    ) as hub:
        states = [hub.is_registered]
        await hub.registered()
        states.append(hub.is_registered)
        entry = entry_of(served)
        assert entry is not None
        assert (entry.url, entry.source, entry.is_active) == (
            "ws://127.0.0.1:5000",
            Source.AUTO,
            True,
        )
        assert (entry.description, entry.namespace, entry.version) == ("Mine", "n", "2")
        assert entry.metadata == '{"pid":7}'
        assert hub.backend == entry
    assert [*states, hub.is_registered] == [False, True, False]
    entry = entry_of(served)
    assert entry is not None
    assert not entry.is_active
    assert lines() == [
        f"INFO hub registered name=hub url=ws://127.0.0.1:5000 registry={served.url}",
        "INFO hub deregistered name=hub",
    ]


@in_loop
async def test_hub_is_pinged(served: Served) -> None:
    """`last_seen` comes with the first ping."""
    async with announced(served):
        await until(lambda: (entry := entry_of(served)) and entry.last_seen is not None)


@in_loop
async def test_hub_whose_entry_was_deleted_is_registered_again(served: Served) -> None:
    """At the next ping."""
    async with announced(served) as hub, Client(served.url) as registry:
        await hub.registered()
        first = hub.backend
        await registry.delete("hub")
        await until(lambda: hub.is_registered and hub.backend is not first)
        entry = entry_of(served)
        assert entry is not None
        assert entry.is_active


@in_loop
async def test_hub_is_registered_again_when_the_registry_lost_its_database(
    settings: Settings, tmp_path: Path
) -> None:
    """As soon as it is back, not at the next ping."""
    hub = None
    async with contextlib.AsyncExitStack() as stack:
        async with Service(settings) as service:
            url = f"ws://{service.addresses[0]}"
            hub = await stack.enter_async_context(announced(url, ping_interval_s=3600))
            await hub.registered()
            first = hub.backend
        await until(lambda: not hub.is_registered)
        empty = dataclasses.replace(
            settings, port=int(url.rpartition(":")[2]), database=tmp_path / "new.db"
        )
        async with Service(empty) as service:
            await hub.registered()
            assert hub.backend != first
            assert service.registry.catalog.get("hub") == hub.backend
            await stack.aclose()
            entry = service.registry.catalog.get("hub")
            assert entry is not None
            assert not entry.is_active


@in_loop
async def test_hub_runs_while_the_registry_is_away(
    settings: Settings, lines: Callable[[], list[str]]
) -> None:
    """It is told once; when the registry comes, the hub is registered."""
    async with Service(settings) as service:
        url = f"ws://{service.addresses[0]}"
    attempts = []
    dial = Client.dial

    def note(client: Client, *given: Any) -> Any:
        attempts.append(given)
        return dial(client, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "dial", note)
        async with announced(url) as hub:
            await until(lambda: len(attempts) >= 3)
            assert not hub.is_registered
            assert lines() == [f"WARNING registry away url={url} reason=Connection refused"]
            async with Service(dataclasses.replace(settings, port=int(url.rpartition(":")[2]))):
                await hub.registered()
        assert "hub not deregistered" in lines()[-1]  # the registry went first


@in_loop
async def test_hub_that_never_met_a_registry_ends_without_a_word(
    lines: Callable[[], list[str]],
) -> None:
    """There is nobody to say good-bye to."""
    async with announced("unix:/nowhere"):
        await until(lines)
    assert len(lines()) == 1


# --- the end --------------------------------------------------------------------------------------


@in_loop
async def test_hub_that_is_cancelled_is_deregistered(served: Served) -> None:
    """And the cancellation goes on."""

    async def run() -> None:
        async with announced(served) as hub:
            await hub.registered()
            ready.set()
            await asyncio.Event().wait()

    ready = asyncio.Event()
    running = asyncio.create_task(run())
    await ready.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    entry = entry_of(served)
    assert entry is not None
    assert not entry.is_active


def test_hub_is_deregistered_when_its_event_loop_ends(served: Served) -> None:
    """All tasks are cancelled then, the client's among them."""
    running = []

    async def hub() -> None:
        async with announced(served) as it:
            await it.registered()
            ready.set()
            await asyncio.Event().wait()

    async def main() -> None:
        running.append(asyncio.create_task(hub()))
        await ready.wait()

    ready = asyncio.Event()
    asyncio.run(main())
    entry = entry_of(served)
    assert entry is not None
    assert not entry.is_active


@in_loop
async def test_fault_of_the_hub_passes_and_the_hub_is_deregistered(served: Served) -> None:
    """The announcement hides no exception."""

    async def run() -> None:
        async with announced(served) as hub:
            await hub.registered()
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        await run()
    entry = entry_of(served)
    assert entry is not None
    assert not entry.is_active


@in_loop
async def test_end_does_not_wait_for_a_registry_that_hangs(
    monkeypatch: pytest.MonkeyPatch, lines: Callable[[], list[str]]
) -> None:
    """The good-bye has its time, and no more."""

    async def hang(peer: Peer) -> None:
        request, method = await peer.receive_call()
        assert method == "registry.get"
        await peer.answer(request, {"type": "backend", "backend": None})
        asked.set()
        await peer.idle()

    asked = asyncio.Event()
    monkeypatch.setattr(announcement, "GOODBYE_S", 0.2)
    async with puppet(hang) as url, announced(url):
        await asked.wait()
        await asyncio.sleep(0.05)
    assert "WARNING hub not deregistered name=hub" in lines()[-1] or "good-bye" in lines()[-1]


# --- several --------------------------------------------------------------------------------------


@in_loop
async def test_hubs_do_not_mind_one_another(served: Served) -> None:
    """Each has its entry; the end of one leaves the other."""
    async with announced(served, "one") as one:
        async with announced(served, "two", port=5001) as two:
            await one.registered()
            await two.registered()
            active = served.in_loop(lambda: [x.name for x in served.service.registry.catalog])
            assert sorted(active) == ["one", "two"]
        states = {name: entry_of(served, name) for name in ("one", "two")}
        assert [entry.is_active for entry in states.values() if entry] == [True, False]


@in_loop
async def test_successor_keeps_the_name_when_its_predecessor_ends(served: Served) -> None:
    """A hub that has moved is registered where it is now before the old one says good-bye."""
    async with contextlib.AsyncExitStack() as stack:
        async with announced(served) as old:
            await old.registered()
            new = await stack.enter_async_context(announced(served, port=5001))
            await new.registered()
        entry = entry_of(served)
        assert entry is not None
        assert (entry.port, entry.is_active) == (5001, True)


@in_loop
async def test_hub_is_back_at_its_next_ping_when_its_double_ends(
    served: Served, lines: Callable[[], list[str]]
) -> None:
    """Two have one name and address, as at a restart with overlap: whoever ends deregisters."""
    async with announced(served) as survivor:
        await survivor.registered()
        async with announced(served) as double:
            await double.registered()
        assert lines()[-1] == "INFO hub deregistered name=hub"
        await until(lambda: (entry := entry_of(served)) and entry.is_active)
        assert survivor.is_registered


# --- refusals -------------------------------------------------------------------------------------


@in_loop
async def test_hub_that_was_displaced_waits_for_its_turn(
    served: Served, lines: Callable[[], list[str]]
) -> None:
    """It neither keeps its successor's entry alive nor takes the name from it, until it is free."""
    async with announced(served, retry_s=OFTEN_S) as first:
        await first.registered()
        async with announced(served, port=5001, ping_interval_s=3600) as second:
            await second.registered()
            await until(lambda: not first.is_registered)
            await until(lambda: any("the name is held by" in line for line in lines()))
            before = entry_of(served)
            await asyncio.sleep(10 * OFTEN_S)
            assert entry_of(served) == before
            assert before is not None
            assert before.port == 5001
            assert not first.is_registered
            assert second.is_registered
        await first.registered()
        entry = entry_of(served)
        assert entry is not None
        assert (entry.port, entry.is_active) == (5000, True)
    assert sum("the name is held by" in line for line in lines()) == 1


@in_loop
async def test_hub_whose_entry_was_changed_by_hand_says_so(
    served: Served, lines: Callable[[], list[str]]
) -> None:
    """It is not registered any more, and does not keep alive what was entered in its place."""
    async with announced(served, retry_s=OFTEN_S) as hub, Client(served.url) as registry:
        await hub.registered()
        await registry.update("hub", port=9999)
        await until(lambda: any("source manual at ws://127.0.0.1:9999" in one for one in lines()))
        assert not hub.is_registered
        await registry.deregister("hub")
        await asyncio.sleep(5 * OFTEN_S)
        entry = entry_of(served)
        assert entry is not None
        assert not entry.is_active
        await registry.delete("hub")
        await hub.registered()


@in_loop
async def test_name_that_is_held_by_hand_is_told_and_tried_again(
    served: Served, lines: Callable[[], list[str]]
) -> None:
    """The entry stands until somebody deletes it; the hub runs on."""
    async with Client(served.url) as registry:
        await registry.register("hub", "elsewhere", 1)
        async with announced(served, retry_s=OFTEN_S) as hub:
            await until(lines)
            assert not hub.is_registered
            assert await registry.resolve("hub") == "ws://elsewhere:1"
            await registry.delete("hub")
            await hub.registered()
    assert lines()[0] == (
        "WARNING hub not announced name=hub reason=the name is held by an entry of source manual at"
        " ws://elsewhere:1; announce another name, or delete that entry"
    )
    assert [line.split(" name=")[0] for line in lines()[1:]] == [
        "INFO hub registered",
        "INFO hub deregistered",
    ]


@in_loop
async def test_hub_leaves_an_entry_that_others_hold_as_it_is(served: Served) -> None:
    """Also at its end."""
    async with Client(served.url) as registry:
        await registry.register("hub", "elsewhere", 1)
        async with announced(served) as hub:
            await until(lambda: hub.backend)
        assert [one.name for one in await registry.list()] == ["hub"]


@in_loop
@pytest.mark.parametrize("is_active", [False, True])
async def test_entry_of_others_gets_no_sign_of_life(served: Served, is_active: bool) -> None:
    """What was entered by hand at another address is as it was, however often a hub announces."""
    async with Client(served.url) as registry:
        await registry.register("hub", "elsewhere", 1)
        if not is_active:
            await registry.deregister("hub")
        before = entry_of(served)
        async with announced(served, retry_s=OFTEN_S) as hub:
            await until(lambda: hub.backend)
            await asyncio.sleep(5 * OFTEN_S)
        assert entry_of(served) == before
        assert before is not None
        assert (before.is_active, before.last_seen) == (is_active, None)


@in_loop
async def test_hub_without_the_right_to_write_is_told_once(
    settings: Settings, lines: Callable[[], list[str]]
) -> None:
    """However often it tries."""
    settings = dataclasses.replace(settings, write_access=Policy.TOKEN)
    with serving(settings) as served:
        refused = []
        register = Client.register

        async def note(client: Client, *given: Any, **named: Any) -> Any:
            refused.append(given)
            return await register(client, *given, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Client, "register", note)
            async with announced(served, retry_s=OFTEN_S, token="") as hub:
                await until(lambda: len(refused) >= 3)
                assert not hub.is_registered
    [line, *rest] = lines()
    assert line.startswith("WARNING hub not announced name=hub reason=Failed to register backend:")
    assert "token" in line
    assert not [one for one in rest if "not announced" in one]


@in_loop
async def test_fault_of_the_client_ends_no_hub(
    served: Served, lines: Callable[[], list[str]]
) -> None:
    """It is logged, and tried again."""
    faults = [ZeroDivisionError()]
    register = Client.register

    async def fail_once(client: Client, *given: Any, **named: Any) -> Any:
        if faults:
            raise faults.pop()
        return await register(client, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "register", fail_once)
        async with announced(served, retry_s=OFTEN_S) as hub:
            await hub.registered()
    assert lines()[0] == "ERROR hub not announced name=hub"


@in_loop
async def test_rust_program_that_has_the_hub_already_is_content() -> None:
    """It refuses the second registration, and knows no good-bye; the entry is the hub's own."""
    entry = {"name": "hub", "host": "127.0.0.1", "port": 5000}
    asked = []

    async def behave(peer: Peer) -> None:
        while True:
            request, method = await peer.receive_call()
            asked.append(method)
            taken = "Failed to register backend: UNIQUE constraint failed: backends.name"
            content = {
                "registry.register": {"type": "error", "message": taken},
                "registry.get": {"type": "backend", "backend": entry},
                "registry.ping": {"type": "ping", "success": True},
                "registry.deregister": {"type": "error", "message": "Method not found"},
            }[method]
            await peer.answer(request, content)

    async with puppet(behave) as url, announced(url) as hub:
        await hub.registered()
        await until(lambda: "registry.ping" in asked)
    assert asked[:3] == ["registry.get", "registry.register", "registry.get"]
    assert asked[-1] == "registry.deregister"


@in_loop
async def test_registry_that_talks_nonsense_is_tried_again(
    lines: Callable[[], list[str]],
) -> None:
    """Each time later; told once."""
    count = 0

    async def behave(peer: Peer) -> None:
        nonlocal count
        while True:
            count += 1
            await peer.answer(await peer.receive(), {"type": "backend_registered"})

    async with puppet(behave) as url, announced(url):
        await until(lambda: count >= 3)
    told = [line for line in lines() if "not announced" in line]
    assert len(told) == 1
    assert "its answer to registry.get is not understood" in told[0]


# --- what is given --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"name": "a b"}, "name"),
        ({"port": 0}, "port"),
        ({"port": True}, "port"),
        ({"host": "0.0.0.0"}, "host"),
        ({"host": "::"}, "host"),
        ({"host": "[::]"}, "host"),
        ({"host": "::0"}, "host"),
        ({"host": "0:0:0:0:0:0:0:0"}, "host"),
        ({"host": "::%eth0"}, "host"),
        ({"host": "::ffff:0.0.0.0"}, "host"),
        ({"host": "-"}, "host"),
        ({"protocol": "http"}, "protocol"),
        ({"description": "\0"}, "description"),
        ({"metadata": "x" * 20_000}, "metadata"),
        ({"url": "http://h"}, "url"),
        ({"token": "a b"}, "token"),
        ({"ping_interval_s": 0}, "ping_interval_s"),
        ({"retry_s": -1}, "retry_s"),
    ],
)
def test_argument_that_no_registry_accepts_is_told_at_once(
    options: dict[str, Any], field: str
) -> None:
    """Not when the registry is asked, which may be later."""
    with pytest.raises(InvalidValue) as refused:
        announce(**{"name": "hub", "port": 1, **options})
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("local_address", "host"),
    [
        (("127.0.0.1", 1), "127.0.0.1"),
        (("127.5.5.5", 1), "127.0.0.1"),
        (("::1", 1, 0, 0), "127.0.0.1"),
        ("", "127.0.0.1"),
        (("192.0.2.7", 1), "192.0.2.7"),
        (("2001:db8::7", 1, 0, 0), "2001:db8::7"),
        (("fe80::7%eth0", 1, 0, 2), "fe80::7%eth0"),
    ],
)
def test_host_is_this_end_of_the_connection(local_address: object, host: str) -> None:
    """But for a registry on this machine."""
    assert _host_of(local_address) == host


@in_loop
async def test_host_that_is_given_is_announced(served: Served) -> None:
    """As it is, but for the brackets of an IPv6 address."""
    async with announced(served, host="[2001:db8::1]", protocol="wss") as hub:
        await asyncio.wait_for(hub.registered(), TIMEOUT_S)
        assert hub.backend is not None
        assert hub.backend.url == "wss://[2001:db8::1]:5000"
