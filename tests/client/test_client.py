# SPDX-License-Identifier: AGPL-3.0-only
"""What the methods of a client return and raise, against a real registry and against others."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import plexus_registry.client
from plexus_registry import Service, Settings
from plexus_registry.access import Policy
from plexus_registry.client import (
    Backend,
    BackendNotFound,
    Client,
    InvalidValue,
    OutcomeUnknown,
    Refused,
    Reload,
    Source,
    Unreachable,
)
from plexus_registry.client.connection import Connection
from support.certificates import Authority
from support.clocks import put_forward
from support.puppet import Peer, in_loop, puppet, refused
from support.serving import Served, serving
from support.timing import TIMEOUT_S

SHORT_S = 0.2
"""What is waited for in vain."""


# --- a registry -----------------------------------------------------------------------------------


@in_loop
async def test_methods_return_what_they_did(served: Served) -> None:
    """As typed values, and errors where something else was meant."""
    async with Client(served.url) as registry:
        dev = await registry.register(
            "dev", "::1", 4444, description="Mine", version="1", metadata={"pid": 7}
        )
        assert isinstance(dev, Backend)
        assert (dev.url, dev.source, dev.is_active) == ("ws://[::1]:4444", Source.MANUAL, True)
        assert (dev.description, dev.version, dev.metadata) == ("Mine", "1", '{"pid":7}')
        assert await registry.get("dev") == dev
        assert await registry.get("nobody") is None
        assert await registry.resolve("dev") == "ws://[::1]:4444"

        changed = await registry.update("dev", port=4450, protocol="wss", description="")
        assert (changed.url, changed.description) == ("wss://[::1]:4450", None)
        with pytest.raises(Refused, match="max_description_size"):  # which another may have raised
            await registry.update("dev", description="x" * 2000)
        changed = await registry.update("dev", version="2", metadata="")
        assert (changed.version, changed.metadata) == ("2", None)
        await registry.ping("dev")
        assert [one.last_seen is not None for one in await registry.list()] == [True]

        await registry.deregister("dev")
        assert await registry.list() == []
        assert [one.is_active for one in await registry.list(active_only=False)] == [False]
        assert await registry.reload() == Reload(added=0, updated=0, removed=0, unchanged=0)
        status = await registry.status()
        assert (status.entries.total, status.entries.inactive) == (1, 1)
        await registry.delete("dev")
        assert await registry.list(active_only=False) == []


@pytest.mark.parametrize(
    "ask",
    [
        lambda registry: registry.resolve("nobody"),
        lambda registry: registry.update("nobody", port=1),
        lambda registry: registry.delete("nobody"),
        lambda registry: registry.ping("nobody"),
        lambda registry: registry.deregister("nobody"),
    ],
)
def test_name_without_entry_is_an_error_of_its_own(
    served: Served, ask: Callable[[Client], Awaitable[object]]
) -> None:
    """Which is a refusal, and says which name."""

    async def run() -> None:
        async with Client(served.url) as registry:
            with pytest.raises(BackendNotFound, match=r"^Backend not found: nobody$"):
                await ask(registry)

    asyncio.run(run())


@in_loop
async def test_refusal_has_the_registrys_words(served: Served) -> None:
    """And the connection goes on."""
    async with Client(served.url) as registry:
        await registry.register("a", "h", 1)
        with pytest.raises(Refused, match="already registered at ws://h:1; use update"):
            await registry.register("a", "h", 2)
        assert await registry.resolve("a") == "ws://h:1"


@in_loop
async def test_announced_source_leaves_an_entry_by_hand_alone(served: Served) -> None:
    """What is returned is the entry that stands."""
    async with Client(served.url) as registry:
        by_hand = await registry.register("a", "h", 1)
        stands = await registry.register("a", "h", 2, source=Source.AUTO)
        assert (stands.id, stands.port, stands.source) == (by_hand.id, 1, Source.MANUAL)


@in_loop
async def test_pages_together_are_the_list(served: Served) -> None:
    """Each at most as long as asked for, whether the last one is full or not."""
    async with Client(served.url) as registry:
        for number in range(6):
            await registry.register(f"n{number}", "h", 1)
        listed = await registry.list()
        for size in (1, 3, 4, 6, 100):
            pages = [page async for page in registry.pages(size=size)]
            assert all(len(page) <= size for page in pages)
            assert [one for page in pages for one in page] == listed


@in_loop
async def test_pages_go_on_when_the_last_of_one_is_deleted(served: Served) -> None:
    """Its neighbours lead to the next page."""
    async with Client(served.url) as registry:
        for number in range(6):
            await registry.register(f"n{number}", "h", 1)
        seen = []
        async for page in registry.pages(size=3):
            seen += [one.name for one in page]
            if len(seen) == 3:
                await registry.delete(seen[-1])
                await registry.delete(seen[-2])
        assert seen == ["n5", "n4", "n3", "n2", "n1", "n0"]


@in_loop
async def test_pages_go_on_when_all_of_one_are_deleted(served: Served) -> None:
    """From the page before, or from the front; nothing is seen twice."""
    async with Client(served.url) as registry:
        for number in range(9):
            await registry.register(f"n{number}", "h", 1)
        seen = []
        async for page in registry.pages(size=2):
            seen += [one.name for one in page]
            if len(seen) != 4:
                for one in page:
                    await registry.delete(one.name)
    assert seen == [f"n{number}" for number in range(8, -1, -1)]


@in_loop
async def test_what_is_too_much_for_one_answer_comes_in_smaller_pages(settings: Settings) -> None:
    """`list` and `pages` ask for fewer until the registry gives them; who sets it so is obeyed."""
    with serving(dataclasses.replace(settings, max_answer_size=64 * 1024)) as served:
        async with Client(served.url) as registry:
            for number in range(200):
                await registry.register(f"n{number}", "h", 1, description="x" * 1000)
            listed = [one.name for one in await registry.list()]
            pages = [page async for page in registry.pages()]
    assert listed == [f"n{number}" for number in range(199, -1, -1)]
    assert [one.name for page in pages for one in page] == listed
    assert len(pages) > 1


@in_loop
async def test_many_calls_share_one_connection(served: Served) -> None:
    """Side by side, each with its own answer."""
    async with Client(served.url) as registry:
        await asyncio.gather(*(registry.register(f"n{n}", "h", n) for n in range(1, 101)))
        urls = await asyncio.gather(*(registry.resolve(f"n{n}") for n in range(1, 101)))
        assert urls == [f"ws://h:{n}" for n in range(1, 101)]
        assert (await registry.status()).connections.open == 1


@in_loop
async def test_token_comes_from_the_argument_or_the_environment(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is unknown is told to all who call, at once."""
    with serving(dataclasses.replace(settings, write_access=Policy.TOKEN)) as served:
        monkeypatch.setenv("PLEXUS_REGISTRY_TOKEN", "plexus_wrong\n")
        async with Client(served.url) as registry:
            for _ in range(2):
                with pytest.raises(Refused, match="token"):
                    await registry.list()
        async with Client(served.url, token="") as registry:
            assert await registry.list() == []


@in_loop
async def test_registry_with_tls_is_trusted_by_its_authority(
    settings: Settings, tmp_path: Path
) -> None:
    """The file is named by a path or by text."""
    authority = Authority(tmp_path)
    with serving(authority.issue().secure(settings)) as served:
        url = served.url.replace("ws:", "wss:")
        for ca_file in (authority.file, str(authority.file)):
            async with Client(url, ca_file=ca_file) as registry:
                assert await registry.list() == []
        (tmp_path / "none.pem").write_text("")
        async with Client(url, ca_file=tmp_path / "none.pem") as registry:
            with pytest.raises(InvalidValue, match="ca_file"):
                await registry.list()


@in_loop
async def test_registry_is_looked_for_before_each_attempt(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As plexus-registryctl looks; a socket that comes later is found."""
    with tempfile.TemporaryDirectory(prefix="plexus-") as folder:
        path = Path(folder) / "plexus-registry" / "registry.sock"
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        monkeypatch.delenv("PLEXUS_REGISTRY_URL", raising=False)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        monkeypatch.setattr("plexus_registry.client.address.DEFAULT_URL", f"ws://127.0.0.1:{port}")
        monkeypatch.setattr(
            "plexus_registry.client.address._SYSTEM_SOCKET", Path(folder) / "nobody"
        )
        async with Client(timeout_s=TIMEOUT_S) as registry:
            listing = asyncio.create_task(registry.list())
            await refused(registry)
            put_forward(asyncio.get_running_loop(), TIMEOUT_S)
            # On a machine that is slow, the next attempt is under way when its time ends.
            with pytest.raises(Unreachable, match=f":{port}: (Connection refused|no answer)"):
                await listing
            path.parent.mkdir()
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(str(path))
                sock.listen()
                async with Service(settings) as service:
                    assert service._server is not None
                    await service._server.listen_on(sock.dup())
                    assert await registry.list(timeout_s=TIMEOUT_S) == []
                    assert registry.url == f"unix:{path}"
                    assert (await registry.connection()).local_host == "127.0.0.1"
        monkeypatch.setenv("PLEXUS_REGISTRY_URL", "nowhere")
        with pytest.raises(InvalidValue, match="url"):
            Client()


# --- what is given --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        (lambda registry: registry.register("a b", "h", 1), "name"),
        (lambda registry: registry.register("a", "-", 1), "host"),
        (lambda registry: registry.register("a", "h", 0), "port"),
        (lambda registry: registry.register("a", "h", 1, protocol="http"), "protocol"),
        (lambda registry: registry.register("a", "h", 1, description="\0"), "description"),
        (lambda registry: registry.register("a", "h", 1, metadata=object()), "metadata"),
        (lambda registry: registry.register("a", "h", 1, source="file"), "source"),
        (lambda registry: registry.update("a", port=65536), "port"),
        (lambda registry: registry.update("a", namespace="\0"), "namespace"),
        (lambda registry: registry.update("a", version="\0"), "version"),
        (lambda registry: registry.update("a", metadata=object()), "metadata"),
        (lambda registry: anext(registry.pages(size=0)), "size"),
        # Half a character, which is what Python makes of bytes that are not UTF-8; and no text.
        (lambda registry: registry.get("\ud800"), "name"),
        (lambda registry: registry.get(object()), "name"),
        (lambda registry: registry.resolve("a\udcff"), "name"),
        (lambda registry: registry.ping("\udcff"), "name"),
        (lambda registry: registry.update("\ud800", port=1), "name"),
        (lambda registry: registry.list(active_only=object()), "active_only"),
    ],
)
def test_argument_that_no_registry_accepts_is_told_at_once(
    ask: Callable[[Any], Awaitable[object]], field: str
) -> None:
    """Nobody is asked: there is no registry here."""

    async def run() -> None:
        with pytest.raises(InvalidValue) as refused:
            await ask(Client("ws://127.0.0.1:1"))
        assert refused.value.field == field
        assert str(refused.value).isascii()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"url": "http://h:1"}, "url"),
        ({"token": "two words"}, "token"),
        ({"token": "line\nline"}, "token"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"max_delay_s": -1}, "max_delay_s"),
    ],
)
def test_client_that_cannot_work_is_not_made(options: dict[str, Any], field: str) -> None:
    """A secret is not shown."""
    with pytest.raises(InvalidValue) as refused:
        Client(**options)
    assert refused.value.field == field
    assert "word" not in str(refused.value).partition("expected")[0]


@in_loop
async def test_request_that_no_registry_takes_is_not_sent(served: Served) -> None:
    """It would end the connection, with everybody's calls in it."""
    async with Client(served.url) as registry:
        with pytest.raises(InvalidValue, match="1048576 bytes"):
            await registry.get("x" * 2**20)
        assert (await registry.connection()).is_open


@in_loop
async def test_client_that_is_not_open_says_so() -> None:
    """Before the block and after it; a call that waits meanwhile ends with it."""
    registry = Client("ws://127.0.0.1:1")
    with pytest.raises(Unreachable, match="the client is not open"):
        await registry.list()
    async with registry:
        waiting = asyncio.create_task(registry.list())
        await asyncio.sleep(0)
    with pytest.raises(Unreachable, match="the client is closed"):
        await waiting
    with pytest.raises(Unreachable, match="the client is closed"):
        await registry.list()


# --- other registries -----------------------------------------------------------------------------


def always(content: object) -> Callable[[Peer], Awaitable[None]]:
    """Answer every call alike."""

    async def behave(peer: Peer) -> None:
        while True:
            await peer.answer(await peer.receive(), content)

    return behave


ASKING: list[Callable[[Client], Awaitable[object]]] = [
    lambda registry: registry.get("a"),
    lambda registry: registry.list(),
    lambda registry: registry.register("a", "h", 1),
    lambda registry: registry.update("a", port=1),
    lambda registry: registry.delete("a"),
    lambda registry: registry.ping("a"),
    lambda registry: registry.deregister("a"),
    lambda registry: registry.reload(),
    lambda registry: registry.status(),
]


@pytest.mark.parametrize("ask", ASKING)
@pytest.mark.parametrize("content", [{"backend": "greeter"}, {"type": "sunshine", "count": 1}, {}])
def test_hub_that_is_no_registry_has_done_nothing(
    ask: Callable[[Client], Awaitable[object]], content: object
) -> None:
    """One that answers everything with who it is, for one, has deleted nothing."""

    async def run() -> None:
        async with puppet(always(content)) as url, Client(url) as registry:
            with pytest.raises(Unreachable, match="is not understood: Expected `"):
                await ask(registry)

    asyncio.run(run())


LEAST = {"name": "a", "host": "h", "port": 1}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (LEAST, {"protocol": "ws", "source": "manual", "is_active": True, "updated_at": 0}),
        ({**LEAST, "description": None, "colour": 7}, {"description": None}),
        ({**LEAST, "source": "file", "is_active": False}, {"source": "file", "is_active": False}),
    ],
)
def test_entry_of_another_registry_is_read_as_far_as_it_goes(
    entry: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Absent and unknown keys do no harm."""

    async def run() -> None:
        async with puppet(always({"type": "backend", "backend": entry})) as url, Client(url) as it:
            found = await it.get("a")
            assert found is not None
            assert found.url == "ws://h:1"
            assert {field: getattr(found, field) for field in expected} == expected

    asyncio.run(run())


@pytest.mark.parametrize(
    "content",
    [
        {"type": "backend"},
        {"type": "backend", "backend": []},
        {"type": "backend", "backend": {"name": "a", "host": "h"}},
        {"type": "backend", "backend": {**LEAST, "port": "1"}},
        {"type": "backend", "backend": {**LEAST, "source": "sky"}},
    ],
)
def test_answer_that_is_not_understood_is_told(content: object) -> None:
    """As what it is, with where."""

    async def run() -> None:
        async with puppet(always(content)) as url, Client(url) as registry:
            with pytest.raises(Unreachable, match=r"its answer to registry\.get is not understood"):
                await registry.get("a")

    asyncio.run(run())


@in_loop
async def test_rust_program_is_understood() -> None:
    """It tells one count of a reload, and gives everything for every page."""
    async with puppet(always({"type": "reloaded", "count": 2})) as url, Client(url) as registry:
        assert await registry.reload() == Reload(added=2)
    entries = [{**LEAST, "name": name} for name in "abc"]
    for size in (1, 3, 4):
        answer = always({"type": "backends", "backends": entries})
        async with puppet(answer) as url, Client(url) as registry:
            pages = [page async for page in registry.pages(size=size)]
        assert [one.name for page in pages for one in page] == ["a", "b", "c"]


@in_loop
async def test_update_without_entry_in_its_answer_is_not_taken_for_done() -> None:
    """An entry must come where one is promised."""
    answer = always({"type": "backend_updated", "backend": None})
    async with puppet(answer) as url, Client(url) as registry:
        with pytest.raises(Unreachable, match="not understood"):
            await registry.update("a", port=1)


# --- waiting --------------------------------------------------------------------------------------


@in_loop
async def test_answer_that_is_too_large_is_not_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would be so each time."""
    asked = []

    async def behave(peer: Peer) -> None:
        request = await peer.receive()
        asked.append(request)
        await peer.answer(request, {"type": "backends", "backends": ["x" * 70_000]})
        await peer.idle()

    monkeypatch.setattr(Client, "dial", lambda _, url: Connection(url, answer_max_bytes=65_536))
    async with puppet(behave) as url, Client(url) as registry:
        with pytest.raises(Unreachable, match="more than 65536 bytes at once"):
            await registry.list()
    assert len(asked) == 1


@in_loop
async def test_slow_call_keeps_no_other_waiting() -> None:
    """A reload is answered after the get that was asked later."""

    async def behave(peer: Peer) -> None:
        reload, method = await peer.receive_call()
        assert method == "registry.reload"
        await peer.answer((await peer.receive_call())[0], {"type": "backend", "backend": LEAST})
        await got.wait()
        await peer.answer(reload, {"type": "reloaded", "count": 0})
        await peer.idle()

    got = asyncio.Event()
    async with puppet(behave) as url, Client(url) as registry:
        reloading = asyncio.create_task(registry.reload())
        await asyncio.sleep(0)  # it is made when its task begins
        assert await registry.resolve("a") == "ws://h:1"
        assert not reloading.done()
        got.set()
        assert await reloading == Reload(added=0)


@in_loop
async def test_answer_that_does_not_come_in_time() -> None:
    """A read has failed; of a change it is not known. The connection is used on."""

    async def behave(peer: Peer) -> None:
        late, _ = await peer.receive_call()
        await peer.receive_call()
        await peer.receive_call()
        await peer.answer(late, {"type": "backend", "backend": LEAST})
        await peer.answer((await peer.receive_call())[0], {"type": "backends", "backends": []})
        await peer.idle()

    async with puppet(behave) as url, Client(url) as registry:
        await registry.connection()
        with pytest.raises(Unreachable, match=r"no answer to registry\.get within 0\.2 s$") as read:
            await registry.get("a", timeout_s=SHORT_S)
        assert not isinstance(read.value, OutcomeUnknown)
        for change in (registry.delete, registry.ping):
            with pytest.raises(OutcomeUnknown, match=r"within 0\.2 s; whether registry\.\w+ was c"):
                await change("a", timeout_s=SHORT_S)
        assert await registry.list() == []


# --- the package ----------------------------------------------------------------------------------


def test_every_public_name_is_there() -> None:
    """And no other is made up."""
    for name in plexus_registry.client.__all__:
        assert getattr(plexus_registry.client, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = plexus_registry.client.nothing_such


def test_hub_that_announces_itself_loads_no_registry() -> None:
    """Nothing at all until a name is used, and then the client only."""
    program = (
        "import sys, plexus_registry.client as client\n"
        "assert not {'asyncio', 'websockets', 'msgspec'} & sys.modules.keys()\n"
        "client.announce, client.Client\n"
        "loaded = [name for name in sys.modules if name.startswith('plexus_registry.')]\n"
        "rooms = {name.split('.')[1] for name in loaded}\n"
        "assert rooms == {'client', 'backend', 'errors'}, rooms\n"
        "assert not {'sqlite3', 'click', 'pyinotify'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], timeout=TIMEOUT_S, check=True)
