# SPDX-License-Identifier: AGPL-3.0-only
"""C66 to C68: what the real clients send, in their order, and their neighbours on the port."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from plexus_registry.cli.exits import Exit
from plexus_registry.config.settings import Settings
from plexus_registry.errors import ListenError
from support.conversation import HUB, Answer, Conversation, conversation
from support.daemon import command, environment
from support.serving import Served, serving
from support.timing import TIMEOUT_S

RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "client-frames.jsonl").read_text().splitlines()
]


class Expected(NamedTuple):
    """What a recorded request must get.

    Attributes:
        kind: The ``type`` of the event, ``error`` with a code for an error item, or the content
            type where the content is no event.
        holds: What else must be true of content or error.
        needs: Names that are registered beforehand.
    """

    kind: str
    holds: Callable[[Any], object] = bool
    needs: tuple[str, ...] = ()


def is_backend(name: str, **fields: Any) -> Callable[[Any], bool]:
    """Return a check that content has the entry of that name, with these fields."""
    expected = {"name": name, **fields}
    return lambda content: expected.items() <= content["backend"].items()


def found(name: str) -> Expected:
    """Expect that a name is found."""
    return Expected("backend", is_backend(name), (name,))


def registered(name: str, **fields: Any) -> Expected:
    """Expect that a name is registered."""
    return Expected("backend_registered", is_backend(name, **fields))


def pinged(name: str, *needs: str) -> Expected:
    """Expect the answer to a ping."""
    return Expected(
        "ping", lambda it: (it["name"], it["success"]) == (name, bool(needs)), tuple(needs)
    )


UNKNOWN = Expected("backend", lambda content: content["backend"] is None)
HUB_SCHEMA = Expected("plexus.schema", lambda content: content["children"])
REGISTRY_SCHEMA = Expected("registry.schema", lambda content: content["methods"])

# In the order of the recorded file.
EXPECTED = [
    Expected("_info", lambda content: content["backend"] == HUB),
    Expected("backends", lambda content: len(content["backends"]) == 2, ("b1", "b2")),
    HUB_SCHEMA,
    registered("registry-hub", port=4445, protocol="ws"),
    registered("echo-hub", port=4455),
    found("echo-hub"),
    UNKNOWN,
    found("dead"),
    found("liar"),
    found("off"),
    REGISTRY_SCHEMA,
    Expected("registry.schema", lambda content: content["name"] == "get"),
    Expected("backends", lambda content: len(content["backends"]) == 1, ("b1",)),
    Expected("backends", lambda content: len(content["backends"]) == 1, ("b1",)),
    registered("b1", host="10.0.0.1", port=5001, protocol="ws"),
    registered(
        "b2",
        host="h.example",
        port=5002,
        protocol="wss",
        description="my backend",
        namespace="ns2",
    ),
    registered("b3", host="h3", port=5003),
    Expected(
        "error -32602",
        lambda error: (
            error["message"]
            == 'Invalid params: invalid type: string "notaport", expected u16 for port'
        ),
    ),
    registered("123", host="h", port=5004),
    Expected("backend_updated", is_backend("b2", host="h2.example", port=5012), ("b2",)),
    Expected("error", lambda content: content["message"] == "Backend not found: zzz"),
    pinged("b2", "b2"),
    pinged("zzz"),
    Expected("backend_deleted", lambda content: content["name"] == "b2", ("b2",)),
    Expected("reloaded", lambda content: content["count"] == 0),
    REGISTRY_SCHEMA,
    Expected("plexus.hash", lambda content: content["event"] == "hash"),
    HUB_SCHEMA,
    pinged("b1", "b1"),
    registered("b7", host="h", port=5007),
    registered("ts-be", description="from ts"),
    found("ts-be"),
    Expected("backend_updated", is_backend("ts-be", host="10.1.1.2", port=6002), ("ts-be",)),
    pinged("ts-be", "ts-be"),
    Expected("backend_deleted", lambda content: content["name"] == "ts-be", ("ts-be",)),
    UNKNOWN,
    Expected("error -32601", lambda error: error["message"] == "Method not found: registry.nosuch"),
    registered("probe-be", host="10.9.9.9", port=9999),
    found("probe-be"),
    Expected("registry-hub.schema", lambda content: content["children"]),
    Expected("registry-hub.hash", lambda content: content["event"] == "hash"),
    found("ts-hub"),
    registered("ts-hub", port=4466),
]


def kind_and_subject(answer: Answer) -> tuple[str, Any]:
    """Say what an answer is, and return its content or its error item."""
    first = answer.items[0]
    if first["type"] == "error":
        return f"error {first['code']}", answer.error
    content = answer.content
    return content.get("type", first["content_type"]), content


@pytest.mark.parametrize(
    ("recorded", "expected"),
    list(zip(RECORDED, EXPECTED, strict=True)),
    ids=[f"{number}-{line['case']}" for number, line in enumerate(RECORDED, start=1)],
)
def test_c66_recorded_request_is_answered_right(
    client: Conversation, recorded: dict[str, Any], expected: Expected
) -> None:
    """A request as the real client sent it gets the answer that this client needs."""
    for name in expected.needs:
        client.call("registry.register", {"name": name, "host": "old.example", "port": 1})
    client.send(recorded["frame"])
    answer = client.answer()
    assert answer.response["id"] == recorded["frame"]["id"]
    kind, subject = kind_and_subject(answer)
    assert kind == expected.kind
    assert expected.holds(subject)
    client.expect_silence()


def test_c66_synapse_from_start_to_call(served: Served) -> None:
    """Synapse's way: who are you, announce a backend, list, look up, read schemas, call."""

    def ask(id: int, method: str, /, **params: Any) -> Any:
        # One connection per question, as its pool does when calls overlap; keys in its order.
        with conversation(served.url) as client:
            request = {"id": id, "jsonrpc": "2.0", "method": method, "params": params or None}
            client.send(json.dumps(request))
            return client.answer().content

    hub = ask(1, "_info")["backend"]
    call = f"{hub}.call"
    echo = {"host": "127.0.0.1", "name": "echo-hub", "port": 4455, "protocol": "ws"}
    for _ in range(2):  # it registers on every run
        content = ask(1, call, method="registry.register", params=echo)
        assert content["type"] == "backend_registered"
    [listed] = ask(1, call, method="registry.list", params={})["backends"]
    assert listed["name"] == "echo-hub"
    assert ask(1, call, method="registry.get", params={"name": "echo-hub"})["backend"] == listed
    tree = ask(1, call, method=f"{hub}.schema")
    assert [child["namespace"] for child in tree["children"]] == ["registry"]
    leaf = ask(2, call, method="registry.schema")
    assert leaf["hash"] == tree["children"][0]["hash"]
    method = ask(3, call, method="registry.schema", params={"method": "list"})
    defaults = {
        name: schema["default"]
        for name, schema in method["params"]["properties"].items()
        if "default" in schema
    }
    assert ask(5, call, method="registry.list", params=defaults)["backends"] == [listed]


def test_c66_gamma_probes_lists_and_polls(client: Conversation) -> None:
    """plexus-gamma's way: probe with an empty array, list, read the tree, poll the hash."""
    probe = client.request("_info", [])
    assert {frame["method"] for frame in probe.frames} == {"result"}
    assert type(probe.response["result"]) is int
    assert probe.content["backend"] == HUB
    assert client.call("registry.list", {"active_only": True}).content["backends"] == []
    tree = client.call(f"{HUB}.schema").content
    for _ in range(3):
        assert client.call(f"{HUB}.hash").content["value"] == tree["hash"]


def test_c67_hubs_boot_and_shut_down_twice(served: Served) -> None:
    """A hub that announces itself at boot and says good-bye at its end is confirmed each time."""
    ids = set()
    for port in (4444, 4450):  # the second boot is at another port: the name is the hub's own
        with conversation(served.url) as client:
            hub = client.request("_info").content["backend"]
            announcement = {
                "name": "substrate",
                "host": "127.0.0.1",
                "port": port,
                "protocol": "ws",
                "version": "0.5.3",
                "metadata": {"pid": 4711, "schema_hash": "612a4beea16133be"},
                "source": "auto",
            }
            for _ in range(3):  # as often as it tries
                content = client.request(
                    f"{hub}.call", {"method": "registry.register", "params": announcement}
                ).content
                assert content["type"] == "backend_registered"
                backend = content["backend"]
                assert (backend["port"], backend["source"]) == (port, "auto")
                assert backend["is_active"] is True
                assert json.loads(backend["metadata"]) == announcement["metadata"]
                ids.add(backend["id"])
            good_bye = {"method": "registry.deregister", "params": {"name": "substrate"}}
            assert client.request(f"{hub}.call", good_bye).content == {
                "type": "backend_deregistered",
                "name": "substrate",
            }
            assert client.call("registry.list").content["backends"] == []
    assert len(ids) == 1


def test_c67_announcement_leaves_an_entry_by_hand_alone(client: Conversation) -> None:
    """A hub that announces itself under a name set by hand is confirmed, and changes nothing."""
    by_hand = {"name": "substrate", "host": "plexus.example.com", "port": 4444}
    before = client.call("registry.register", by_hand).content["backend"]
    announced = {**by_hand, "host": "127.0.0.1", "source": "auto"}
    content = client.call("registry.register", announced).content
    assert content["type"] == "backend_registered"
    assert content["backend"] == {**before, "last_seen": content["backend"]["last_seen"]}


def test_c68_taken_port_is_a_clear_error(served: Served, settings: Settings) -> None:
    """Serving on a port that somebody has fails at once and says what to do."""
    # Of its own, so that the address alone is in the way.
    folder = settings.database.parent / "second"
    second = Settings(
        port=served.port,
        database=folder / "registry.db",
        config=folder / "backends.toml",
        auto_register=None,
    )
    with pytest.raises(ListenError, match=f"127.0.0.1:{served.port}.* taken"), serving(second):
        pass


def test_c68_daemon_on_a_taken_port_ends_at_once(served: Served, tmp_path: Path) -> None:
    """The program ends with a status of its own and one line that names the address."""
    ended = subprocess.run(
        command("--port", str(served.port), "--log-level", "error"),
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == Exit.UNAVAILABLE
    [line] = ended.stderr.splitlines()
    assert f"127.0.0.1:{served.port}" in line
    assert "--port" in line
