# SPDX-License-Identifier: AGPL-3.0-only
"""C47 to C58: what the registry's methods answer and do."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest

from plexus_registry.config.settings import Settings
from support.conversation import Conversation, conversation
from support.serving import Served, serving

DEV = {"name": "dev", "host": "127.0.0.1", "port": 4444}
FULL = {**DEV, "protocol": "wss", "description": "text", "namespace": "ns"}
LATER = 4_000_000_000


def set_clock(served: Served, seconds: int) -> None:
    """Let the registry believe that it is *seconds* after the epoch."""
    registry = served.service.registry
    served.in_loop(lambda: setattr(registry, "_clock", lambda: seconds))


def register(client: Conversation, **params: Any) -> dict[str, Any]:
    """Register a backend and return the entry."""
    content = client.call("registry.register", {**DEV, **params}).content
    assert content["type"] == "backend_registered", content
    backend: dict[str, Any] = content["backend"]
    return backend


def get(client: Conversation, name: str = "dev") -> Any:
    """Return the entry of that name, or None."""
    content = client.call("registry.get", {"name": name}).content
    assert list(content) == ["type", "backend"]
    assert content["type"] == "backend"
    return content["backend"]


def listed(client: Conversation, **params: Any) -> list[str]:
    """Return the names in a listing."""
    content = client.call("registry.list", params).content
    assert content["type"] == "backends"
    return [backend["name"] for backend in content["backends"]]


def test_c47_register_returns_the_new_entry(client: Conversation) -> None:
    """A new entry has a UUID, its defaults, three equal times, and no keys that are null."""
    backend = register(client)
    created = backend["created_at"]
    assert uuid.UUID(backend["id"]).version == 7
    assert backend == {
        "id": backend["id"],
        **DEV,
        "protocol": "ws",
        "source": "manual",
        "is_active": True,
        "registered_at": created,
        "created_at": created,
        "updated_at": created,
    }
    assert get(client) == backend


def test_c47_register_keeps_what_is_given(client: Conversation) -> None:
    """Protocol, description and namespace are taken as they are given."""
    backend = register(client, **FULL)
    assert {key: backend[key] for key in FULL} == FULL


@pytest.mark.parametrize("change", [{"host": "other"}, {"port": 1}, {"protocol": "wss"}])
def test_c48_another_address_under_a_known_name(
    client: Conversation, change: dict[str, Any]
) -> None:
    """A known name keeps its address: an error event tells it, and nothing changes."""
    before = register(client)
    content = client.call("registry.register", {**DEV, **change, "description": "new"}).content
    assert content["type"] == "error"
    assert content["message"].startswith("Failed to register backend:")
    assert "ws://127.0.0.1:4444" in content["message"]
    assert "update" in content["message"]
    assert get(client) == before


def test_c48_same_address_again_refreshes(served: Served, client: Conversation) -> None:
    """The same registration again is taken as a sign of life, and what it adds is kept."""
    before = register(client, description="first")
    set_clock(served, LATER)
    after = register(client, namespace="ns")
    assert after == {**before, "namespace": "ns", "last_seen": LATER, "updated_at": LATER}


def test_c49_list_is_newest_first(client: Conversation) -> None:
    """The latest insertion comes first, also within one second; a refresh moves nothing."""
    for name in ("a", "b", "c"):
        register(client, name=name)
    register(client, name="a")
    assert listed(client) == ["c", "b", "a"]


def test_c49_empty_registry_lists_nothing(client: Conversation) -> None:
    """Without entries the listing is an empty array."""
    for params in ({}, {"active_only": True}, {"active_only": False}):
        content = client.call("registry.list", params).content
        assert content == {"type": "backends", "backends": []}


def test_c49_inactive_entries_are_listed_on_request(client: Conversation) -> None:
    """What was deregistered is listed only with ``active_only`` false."""
    register(client, name="on")
    register(client, name="off")
    client.call("registry.deregister", {"name": "off"})
    assert listed(client) == ["on"]
    assert listed(client, active_only=True) == ["on"]
    assert listed(client, active_only=False) == ["off", "on"]


def test_c49_list_by_pages(client: Conversation) -> None:
    """``limit`` and ``after`` page through the same order; an unknown name is an event."""
    for name in ("a", "b", "c"):
        register(client, name=name)
    assert listed(client, limit=2) == ["c", "b"]
    assert listed(client, limit=2, after="b") == ["a"]
    assert listed(client, after="a") == []
    content = client.call("registry.list", {"after": "nobody"}).content
    assert content["type"] == "error"
    assert content["message"].startswith("Failed to list backends: after: ")


def test_c50_entries_carry_what_clients_need(client: Conversation) -> None:
    """Each entry of a listing has name, host, port, protocol and is_active."""
    register(client)
    register(client, name="full", description="text", version="1")
    client.call("registry.ping", "full")
    client.call("registry.deregister", "dev")
    for backend in client.call("registry.list", {"active_only": False}).content["backends"]:
        assert {"name", "host", "port", "protocol", "is_active"} <= set(backend)
        assert None not in backend.values()


@pytest.mark.parametrize("name", ["nobody", "", "x" * 300, "a b", "\0"])
def test_c51_get_of_an_unknown_name(client: Conversation, name: str) -> None:
    """A name that has no entry gives null under a key that is there."""
    assert get(client, name) is None


def test_c52_update_changes_only_what_is_given(served: Served, client: Conversation) -> None:
    """An update changes the given fields and ``updated_at``, and nothing else."""
    register(client, **FULL)
    client.call("registry.ping", "dev")
    before = get(client)
    set_clock(served, LATER)
    answer = client.call("registry.update", {"name": "dev", "port": 4500, "host": None})
    expected = {**before, "port": 4500, "updated_at": LATER}
    assert answer.content == {"type": "backend_updated", "backend": expected}
    assert get(client) == expected


def test_c52_update_with_an_empty_text_clears(client: Conversation) -> None:
    """An empty description or namespace clears it; null keeps it."""
    register(client, **FULL)
    params = {"name": "dev", "description": "", "namespace": None}
    backend = client.call("registry.update", params).content["backend"]
    assert "description" not in backend
    assert backend["namespace"] == "ns"


@pytest.mark.parametrize("change", [{"port": 0}, {"protocol": "http"}, {"host": ""}])
def test_c52_update_is_validated(client: Conversation, change: dict[str, Any]) -> None:
    """What is not accepted is an error event that names the field, and changes nothing."""
    before = register(client)
    content = client.call("registry.update", {"name": "dev", **change}).content
    [field] = change
    assert content["message"].startswith(f"Failed to update backend: {field}: ")
    assert get(client) == before


@pytest.mark.parametrize("method", ["update", "delete", "deregister"])
def test_c53_unknown_name(client: Conversation, method: str) -> None:
    """Changing what is not there is the error event ``Backend not found: NAME``."""
    content = client.call(f"registry.{method}", {"name": "nobody", "host": "h"}).content
    assert content == {"type": "error", "message": "Backend not found: nobody"}


def test_c53_delete_removes(client: Conversation) -> None:
    """A deleted entry is gone, and its name is free for another address."""
    register(client)
    answer = client.call("registry.delete", {"name": "dev"})
    assert answer.content == {"type": "backend_deleted", "name": "dev"}
    assert get(client) is None
    register(client, port=1)


def test_c54_ping_sets_last_seen(served: Served, client: Conversation) -> None:
    """A ping sets ``last_seen`` and leaves ``updated_at`` alone."""
    before = register(client)
    set_clock(served, LATER)
    answer = client.call("registry.ping", {"name": "dev"})
    assert answer.content == {
        "type": "ping",
        "name": "dev",
        "success": True,
        "message": "Backend health check updated",
    }
    assert get(client) == {**before, "last_seen": LATER}


def test_c54_ping_activates(client: Conversation) -> None:
    """A ping makes an entry active again that was deregistered."""
    register(client)
    client.call("registry.deregister", "dev")
    assert get(client)["is_active"] is False
    client.call("registry.ping", "dev")
    assert get(client)["is_active"] is True


def test_c54_ping_of_an_unknown_name(client: Conversation) -> None:
    """A ping of nobody is a ``ping`` without success, not an error."""
    assert client.call("registry.ping", {"name": "nobody"}).content == {
        "type": "ping",
        "name": "nobody",
        "success": False,
        "message": "Backend not found: nobody",
    }


def write_and_reload(served: Served, client: Conversation, text: str) -> dict[str, Any]:
    """Write ``backends.toml`` and ask for a reload in one go, ahead of the file watch."""
    path = served.service.settings.config

    def write() -> None:
        path.write_text(text, encoding="utf-8")
        client.send({"jsonrpc": "2.0", "id": "reload", "method": "registry.reload"})

    served.in_loop(write)
    content: dict[str, Any] = client.answer().content
    return content


TWO = """
[[backend]]
name = "one"
host = "one.example"
port = 1

[[backend]]
name = "two"
host = "two.example"
port = 2
protocol = "wss"
"""


def test_c55_reload_counts_new_entries(served: Served, client: Conversation) -> None:
    """A reload tells how many entries are new; a second one finds none."""
    first = write_and_reload(served, client, TWO)
    assert first == {"type": "reloaded", "count": 2, "updated": 0, "removed": 0, "unchanged": 0}
    second = client.call("registry.reload").content
    assert second == {"type": "reloaded", "count": 0, "updated": 0, "removed": 0, "unchanged": 2}
    assert get(client, "two")["source"] == "file"


def test_c55_reload_without_a_file(client: Conversation) -> None:
    """A file that is not there declares nothing."""
    content = client.call("registry.reload").content
    assert content["type"] == "reloaded"
    assert content["count"] == 0


@pytest.mark.parametrize("broken", ["[[backend]\n", '[[backend]]\nname = "x"\n', "x\ny"])
def test_c55_broken_file_changes_nothing(served: Served, client: Conversation, broken: str) -> None:
    """A broken file is an error event; the entries stay and the server goes on."""
    write_and_reload(served, client, TWO)
    content = write_and_reload(served, client, broken)
    assert content["type"] == "error"
    assert content["message"].startswith("Failed to parse TOML config: ")
    assert "backends.toml:" in content["message"]
    assert listed(client) == ["two", "one"]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("register", {**DEV, "port": 0}),
        ("register", {**DEV, "name": ""}),
        ("register", {**DEV, "host": "a b"}),
        ("register", {**DEV, "protocol": "http"}),
        ("register", {**DEV, "description": "x" * 5000}),
        ("update", {"name": "nobody"}),
        ("delete", {"name": "nobody"}),
        ("deregister", {"name": "nobody"}),
        ("ping", {"name": "nobody"}),
        ("list", {"after": "nobody"}),
    ],
)
@pytest.mark.parametrize("is_direct", [False, True], ids=["routed", "direct"])
def test_c56_failures_of_operations_are_data(
    client: Conversation, method: str, params: dict[str, Any], is_direct: bool
) -> None:
    """An operation that fails answers with data and ``done``, not with an ``error`` item."""
    ask = client.request if is_direct else client.call
    content = ask(f"registry.{method}", params).content
    assert content["type"] == ("ping" if method == "ping" else "error")
    assert content["message"]


def test_c57_entries_survive_a_restart(settings: Settings) -> None:
    """What was registered is there after a restart, letter by letter and in its order."""
    with serving(settings) as served, conversation(served.url) as client:
        for name in ("a", "b", "c"):
            register(client, **{**FULL, "name": name})
        client.call("registry.ping", "a")
        client.call("registry.deregister", "b")
        before = client.call("registry.list", {"active_only": False}).content
    with serving(settings) as served, conversation(served.url) as client:
        assert client.call("registry.list", {"active_only": False}).content == before


@pytest.mark.parametrize("is_same_address", [False, True], ids=["other-ports", "same-address"])
def test_c58_concurrent_registers_of_one_name(served: Served, is_same_address: bool) -> None:
    """Of many who claim a name at once, one makes the entry; nobody makes a second."""
    contents: list[dict[str, Any]] = []
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        with conversation(served.url) as client:
            barrier.wait()
            port = 4444 if is_same_address else 4444 + number
            answer = client.call("registry.register", {**DEV, "port": port})
            contents.append(answer.content)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = {it["backend"]["id"] for it in contents if it["type"] == "backend_registered"}
    assert len(ids) == 1
    refused = [it for it in contents if it["type"] == "error"]
    assert len(refused) == (0 if is_same_address else 7)
    with conversation(served.url) as client:
        assert {get(client)["id"]} == ids
        assert listed(client) == ["dev"]
