# SPDX-License-Identifier: AGPL-3.0-only
"""Each limit on clients holds as it is set: lower than by default, or higher."""

from __future__ import annotations

import contextlib
import json
import select
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.frames import Opcode

from plexus_registry.backend import TextLimits
from plexus_registry.catalog import CHECKED_AT_ONCE, Catalog
from plexus_registry.config.settings import Settings
from plexus_registry.ids import uuid7
from support.control import ctl
from support.conversation import Conversation, conversation
from support.memory import entry
from support.rawsocket import RawSocket, frame, raw_socket, raw_websocket, text_frame
from support.serving import Served, serving
from support.timing import TIMEOUT_S, wait_until

INFO = '{"jsonrpc":"2.0","id":1,"method":"_info"}'


@pytest.fixture
def start(settings: Settings) -> Iterator[Any]:
    """Start a registry with limits, and a client that is well-behaved beside."""
    with contextlib.ExitStack() as stack:

        def start(**limits: Any) -> tuple[Served, Conversation]:
            served = stack.enter_context(serving(replace(settings, **limits)))
            return served, stack.enter_context(conversation(served.url))

        yield start


def batch(count: int) -> str:
    """Return a batch of so many entries."""
    return f"[{','.join([INFO] * count)}]"


@pytest.mark.parametrize("limit", [2, 2000])
def test_batches_are_as_long_as_they_may_be(start: Any, limit: int) -> None:
    """One entry more is refused with the number that is accepted; the connection goes on."""
    _, client = start(max_batch=limit)
    client.send(batch(limit))
    assert len(client.receive()) == limit
    for _ in range(2 * limit):
        client.receive()
    client.send(batch(limit + 1))
    assert client.receive()["error"]["data"] == f"a batch has at most {limit} entries (max_batch)"
    client.expect_silence()


def test_listings_are_as_large_as_they_may_be(start: Any, tmp_path: Path) -> None:
    """More is an error that says how to page, and costs no more than that; pages go through."""
    served, client = start(max_answer_size=65536)
    for number in range(100):
        fields = {"name": f"b{number:03}", "host": "h", "port": 1, "metadata": "x" * 16_000}
        client.call("registry.register", fields)
    event = client.call("registry.list").content
    assert event["type"] == "error"
    assert "more than 65536 bytes (max_answer_size), ask for fewer" in event["message"]
    page = client.call("registry.list", {"limit": 3, "after": "b050"}).content["backends"]
    assert [backend["name"] for backend in page] == ["b049", "b048", "b047"]
    # No more was encoded than what showed that it is too much.
    catalog = served.service.registry.catalog
    entries = served.in_loop(lambda: list(catalog._entries.values()))
    assert sum(one._json is not None for one in entries) <= CHECKED_AT_ONCE + 3
    listed = ctl(tmp_path, "--url", served.url, "list").stdout.splitlines()
    assert [line.split("\t")[0] for line in listed] == [f"b{number:03}" for number in range(100)]


@pytest.mark.parametrize("character", ['"', "\t", "\u2028", "\U0001f600"])
def test_the_largest_entry_can_be_listed(start: Any, character: str) -> None:
    """Its JSON is not larger than is reckoned with, whatever its texts are made of."""
    limits = TextLimits(description=3000, metadata=20_000)
    served, client = start(
        max_answer_size=limits.entry_bytes,
        max_description_size=limits.description,
        max_metadata_size=limits.metadata,
    )
    fields = {
        "name": "\U0001f600" * 128,
        "host": ".".join(["h" * 62] * 4),
        "port": 65535,
        "protocol": "wss",
        "namespace": character * 256,
        "version": character * 128,
        "description": character * limits.description,
        "metadata": character * limits.metadata,
    }
    for name in (fields["name"], "other"):
        client.call("registry.register", {**fields, "name": name})
    [listed] = client.call("registry.list", {"limit": 1}).content["backends"]
    assert listed["metadata"] == fields["metadata"]
    catalog = served.service.registry.catalog
    encoded = served.in_loop(lambda: catalog.list_json(limit=1, after="other"))
    assert json.loads(encoded)[0]["name"] == fields["name"]
    assert len(encoded) <= limits.entry_bytes


def test_as_many_entries_as_there_may_be_can_be_listed_at_once(settings: Settings) -> None:
    """By default a listing has room for all of them, as hubs register themselves."""
    usual = entry(
        "backend-000001",
        id=uuid7(),
        host="host-1.plexus.example",
        description="Backend number 1 of an installation",
        namespace="space1",
        version="1.4.2",
        registered_at=1_800_000_000,
        last_seen=1_800_000_000,
        created_at=1_800_000_000,
        updated_at=1_800_000_000,
    )
    size = len(Catalog([usual]).list_json())
    assert size > 340
    assert size * settings.max_entries < settings.max_answer_size


@pytest.mark.parametrize("limit", [0, 12])
def test_calls_are_nested_as_deep_as_they_may_be(start: Any, limit: int) -> None:
    """One level more is an error item."""
    _, client = start(max_nested_calls=limit)

    def ask(depth: int) -> Any:
        nested: dict[str, Any] = {"method": "registry.list"}
        for _ in range(depth):
            nested = {"method": "registry-hub.call", "params": nested}
        return client.request("registry-hub.call", nested)

    assert ask(limit).items[-1]["type"] == "done"
    assert f"calls nested deeper than {limit}" in ask(limit + 1).error["message"]


@pytest.mark.parametrize("limit", [16, 512])
def test_json_is_nested_as_deep_as_it_may_be(start: Any, limit: int) -> None:
    """One level more is refused with the number that is accepted; the connection goes on."""
    _, client = start(max_nesting=limit)

    def ask(depth: int) -> str:
        params = "[" * (depth - 1) + "]" * (depth - 1)
        return f'{{"jsonrpc":"2.0","id":1,"method":"_info","params":{params}}}'

    client.send(ask(limit))
    response, _, _ = (client.receive() for _ in range(3))
    assert response["result"]
    client.send(ask(limit + 1))
    expected = f"JSON is nested at most {limit} deep (max_nesting)"
    assert client.receive()["error"]["data"] == expected
    client.expect_silence()


@pytest.mark.parametrize("limit", [3, 5000])
def test_descriptions_are_as_long_as_they_may_be(start: Any, tmp_path: Path, limit: int) -> None:
    """By registering, by updating and by declaring; the message names the number."""
    served, client = start(max_description_size=limit)
    fields = {"name": "a", "host": "h", "port": 1}
    kept = client.call("registry.register", {**fields, "description": "x" * limit}).content
    assert kept["backend"]["description"] == "x" * limit
    longer = {"description": "x" * (limit + 1)}
    for method in ("register", "update"):
        message = client.call(f"registry.{method}", {**fields, **longer}).content["message"]
        assert f"at most {limit} characters" in message
    table = '[[backend]]\nname = "b"\nhost = "h"\nport = 1\ndescription = "{}"\n'
    config = served.service.settings.config
    config.write_text(table.format("x" * limit))
    assert client.call("registry.reload").content["type"] == "reloaded"
    config.write_text(table.format("x" * (limit + 1)))
    assert f"at most {limit} characters" in client.call("registry.reload").content["message"]


@pytest.mark.parametrize("limit", [3, 50_000])
def test_metadata_is_as_long_as_it_may_be(start: Any, limit: int) -> None:
    """Longer ones are left out, for they never fail a registration."""
    _, client = start(max_metadata_size=limit)
    fields = {"name": "a", "host": "h", "port": 1}
    for size, kept in ((limit, "x" * limit), (limit + 1, None)):
        given = {**fields, "name": f"a{size}", "metadata": "x" * size}
        backend = client.call("registry.register", given).content["backend"]
        assert backend.get("metadata") == kept


def test_entries_with_longer_texts_stay_when_the_limit_is_lowered(settings: Settings) -> None:
    """What was accepted once is served, and can be pinged."""
    fields = {"name": "a", "host": "h", "port": 1, "description": "long", "metadata": "longer"}
    with serving(settings) as served, conversation(served.url) as client:
        client.call("registry.register", fields)
    lowered = replace(settings, max_description_size=1, max_metadata_size=1)
    with serving(lowered) as served, conversation(served.url) as client:
        assert client.call("registry.ping", "a").content["success"]
        backend = client.call("registry.get", "a").content["backend"]
    assert (backend["description"], backend["metadata"]) == ("long", "longer")


def test_calls_that_wait_for_the_disk_are_as_many_as_they_may_be(start: Any) -> None:
    """The others of that client begin when those are answered; another client is answered."""
    served, client = start(max_pending_calls=4)
    release = threading.Event()
    registry = served.service.registry
    commit = registry._store.commit

    def wait_and_commit(changes: Any) -> None:
        assert release.wait(TIMEOUT_S)
        commit(changes)

    registry._store.commit = wait_and_commit
    for number in range(12):
        client.send(
            {
                "jsonrpc": "2.0",
                "id": number,
                "method": "registry.register",
                "params": {"name": f"b{number}", "host": "h", "port": 1},
            }
        )
    (attacker,) = served.in_loop(lambda: list(served.server.connections))

    def pending() -> Any:
        return served.in_loop(lambda: attacker._session.pending if attacker._session else -1)

    wait_until(lambda: pending() == 4, "the limit")
    with conversation(served.url) as other:
        assert other.call("registry.list").content["backends"] == []
    assert pending() == 4
    release.set()
    for _ in range(12):
        client.answer()


def test_small_frames_are_as_many_as_they_may_be(start: Any) -> None:
    """More of them close the connection with 1008; as many as that come through."""
    served, client = start(max_small_frames=16)
    fragments = [frame(Opcode.TEXT, INFO.encode(), fin=False)]
    fragments += [frame(Opcode.CONT, fin=False)] * 15
    with raw_websocket(served.port) as raw:
        raw.send(b"".join([*fragments, frame(Opcode.CONT)]))
        assert raw.read_frame().json["id"] == 1
    floods = {"fragments": [*fragments, *fragments[1:] * 4], "pings": [frame(Opcode.PING)] * 17}
    for what, flood in floods.items():
        with raw_websocket(served.port) as raw:
            raw.send(b"".join(flood))
            while (received := raw.read_frame()).opcode is Opcode.PONG:
                pass
            assert received.close_code == 1008, what
    client.expect_silence()


def let_pass_until_told(served: Served, raw: RawSocket, seconds: float) -> None:
    """Let the time pass, once not all of it, until something comes from the server."""

    def count() -> int:
        return len(served.in_loop(lambda: list(served.server.connections)))

    wait_until(lambda: count() == 2, "both connections")
    served.let_pass(seconds - TIMEOUT_S)
    assert count() == 2

    def is_told() -> bool:
        served.let_pass(seconds)
        return bool(select.select([raw.socket], [], [], 0)[0])

    wait_until(is_told, "the end")


def test_a_client_has_no_longer_than_it_may_to_connect(start: Any) -> None:
    """Then its connection ends; one that is connected is not concerned."""
    served, client = start(handshake_timeout=1000)
    with raw_socket(served.port) as raw:
        raw.send(b"GET / HTTP/1.1\r\n")
        let_pass_until_told(served, raw, 1000.0)
        raw.read_to_end()
    client.expect_silence()


def test_a_message_has_to_come_on_in_the_time_that_is_set(start: Any) -> None:
    """One that stops in the middle closes with 1008."""
    served, client = start(slow_sender_timeout=1000)
    with raw_websocket(served.port) as raw:
        raw.send(text_frame(INFO)[:-1])
        let_pass_until_told(served, raw, 1000.0)
        assert raw.read_frame().close_code == 1008
    client.expect_silence()


def test_a_client_that_does_not_read_is_cut_off_in_the_time_that_is_set(start: Any) -> None:
    """Another one is answered all the while."""
    served, client = start(slow_reader_timeout=1000)
    with raw_websocket(served.port, receive_buffer=4096) as raw:

        def flood() -> None:
            raw.socket.settimeout(None)
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                raw.send(text_frame(INFO) * 100_000)

        thread = threading.Thread(target=flood)
        thread.start()

        def is_cut() -> bool:
            served.let_pass(1000.0)
            return not thread.is_alive()

        wait_until(is_cut, "the cut")
    client.expect_silence()
