# SPDX-License-Identifier: AGPL-3.0-only
"""The method table: names, ways to reach them, and what is refused."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import msgspec
import pytest

from plexus_registry.protocol.arguments import subscription_named_in
from plexus_registry.protocol.hub import DEFAULT_MAX_NESTED_CALLS
from plexus_registry.protocol.jsonrpc import METHOD_NOT_FOUND, RpcError
from support.sessions import Desk, register, request

REGISTRY_METHODS = (
    "register",
    "list",
    "get",
    "update",
    "delete",
    "ping",
    "deregister",
    "reload",
    "status",
)


def raw(value: object) -> msgspec.Raw:
    """Encode params as the framing hands them on."""
    return msgspec.Raw(json.dumps(value).encode())


def call(method: str, *params: Any) -> dict[str, Any]:
    """Return a request that goes through the hub."""
    arguments: dict[str, Any] = {"method": method}
    if params:
        (arguments["params"],) = params
    return request(1, "registry-hub.call", arguments)


def items(messages: list[Any]) -> list[Any]:
    """Return the items of the one stream among messages."""
    return [message["params"]["result"] for message in messages[1:]]


def test_names_that_exist() -> None:
    """The names of section 2, with both spellings of direct ones, and no others nearby."""
    hub = Desk().hub
    params = {
        "registry-hub.call": {"method": "registry.list"},
        **{
            f"registry{separator}{name}": {"name": "n", "host": "h", "port": 1}
            for name in REGISTRY_METHODS
            for separator in "._"
        },
    }
    names = [
        "_info",
        *(f"registry-hub.{name}" for name in ("call", "hash", "hashes", "schema")),
        *(f"registry{sep}{name}" for name in (*REGISTRY_METHODS, "schema", "hash") for sep in "._"),
    ]
    for name in names:
        assert hub.prepare(name, raw(params.get(name))).stream is not None, name
    for name in ("list", "registry", "registry-hub", "registry-hub_call", "hub.call", "_info_", ""):
        with pytest.raises(RpcError) as refused:
            hub.prepare(name, raw(None))
        assert refused.value.code == METHOD_NOT_FOUND


def test_unsubscribe_names() -> None:
    """Every subscription has a name to end it, and only those are such names."""
    hub = Desk().hub
    for name in ("_info_unsub", "registry-hub.call_unsub", "registry-hub.schema_unsub"):
        assert hub.is_unsubscribe(name)
    for name in (*REGISTRY_METHODS, "schema", "hash"):
        assert hub.is_unsubscribe(f"registry_unsubscribe_{name}")
        assert hub.is_unsubscribe(f"registry.unsubscribe_{name}")
    for name in ("_info", "registry-hub.respond_unsub", "registry_unsubscribe_nope", "unsub"):
        assert not hub.is_unsubscribe(name)


def test_hub_goes_by_its_namespace() -> None:
    """Another namespace renames the hub's methods, and nothing answers to the old name."""
    desk = Desk(namespace="directory")
    assert desk.hub.prepare("directory.hash", raw(None)).stream is not None
    with pytest.raises(RpcError):
        desk.hub.prepare("registry-hub.hash", raw(None))
    messages = desk.ask(request(1, "directory.call", {"method": "directory.registry.list"}))
    assert items(messages)[0]["content"] == {"type": "backends", "backends": []}
    messages = desk.ask(request(1, "directory.call", {"method": "registry-hub.hash"}))
    assert items(messages)[0]["message"] == "Activation not found: registry-hub"
    assert items(messages)[0]["metadata"]["provenance"] == ["directory"]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ([7], 7),
        (["7"], 7),
        ({"subscription": 7}, 7),
        ({"subscription": "7"}, 7),
        ([], None),
        ([7, 7], None),
        ([True], None),
        ([7.0], None),
        ([None], None),
        (["-7"], None),
        (["７"], 7),
        (["9" * 5000], None),
        ({}, None),
        (7, None),
        ("7", None),
        (None, None),
    ],
)
def test_subscription_named_in_params(params: object, expected: int | None) -> None:
    """An id is taken from an array of one or an object, as a number or its text."""
    assert subscription_named_in(raw(params)) == expected


@pytest.mark.parametrize("depth", range(1, DEFAULT_MAX_NESTED_CALLS + 2))
def test_calls_nested_in_calls(depth: int) -> None:
    """The hub can be called through itself, each level wrapping the items, up to a depth."""
    desk = Desk()
    nested: dict[str, Any] = {"method": "registry.list"}
    for _ in range(depth):
        nested = {"method": "registry-hub.call", "params": nested}
    messages = desk.ask(request(1, "registry-hub.call", nested))
    if depth > DEFAULT_MAX_NESTED_CALLS:
        [error] = items(messages)
        assert (error["type"], error["code"]) == ("error", "-32602")
        return
    item = items(messages)[0]
    for _ in range(depth):
        assert item["content_type"] == "plexus.call"
        item = item["content"]
    assert item["content_type"] == "registry.list"


def test_depth_of_nested_calls_costs_no_copies_of_the_answer() -> None:
    """A listing takes as much memory eight calls deep as it takes one call deep."""
    desk = Desk()
    for number in range(512):
        desk.ask(register(number, f"b{number}", description="x" * 1024))

    def peak(depth: int) -> int:
        nested: dict[str, Any] = {"method": "registry.list"}
        for _ in range(depth):
            nested = {"method": "registry-hub.call", "params": nested}
        tracemalloc.start()
        try:
            desk.receive(request(1, "registry-hub.call", nested))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            desk.sent()

    peak(1)  # what is cached then was not before
    assert peak(DEFAULT_MAX_NESTED_CALLS) < 1.2 * peak(1)


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        (None, "expected an object with method and params"),
        ({}, "missing field: method"),
        ([], "expected an object with method and params"),
        ([7], "expected an object with method and params"),
        ({"method": 1}, "invalid type: integer `1`, expected a string for method"),
        ("x", "expected an object with method and params"),
    ],
)
def test_nested_call_without_a_method(params: object, problem: str) -> None:
    """It is an error item of the outer call, in the words in which an outer one is refused."""
    [answer] = Desk().ask(request(1, "registry-hub.call", params))
    assert answer["error"] == {"code": -32602, "message": "Invalid params", "data": problem}
    [error] = items(Desk().ask(call("registry-hub.call", params)))
    assert error["code"] == "-32602"
    assert error["message"] == f"Invalid params: {problem}"


def test_nested_call_by_place() -> None:
    """A nested call takes method and params by place as the outer one does."""
    answers = items(Desk().ask(call("registry-hub.call", ["registry.list", {}])))
    assert answers[0]["content"]["content_type"] == "registry.list"


def test_hub_named_again_and_again_is_one_hub() -> None:
    """However often the hub stands before a name, it is looked up without running out of stack."""
    desk = Desk()
    method = "registry-hub." * 2000 + "x"
    for asked in (call(method), call("registry-hub.call", {"method": method})):
        [error] = items(desk.ask(asked))
        assert (error["type"], error["code"]) == ("error", "-32601")
        assert error["message"] == "Method not found: registry-hub.x"
    assert len(items(desk.ask(call("registry.list")))) == 2


def test_fault_inside_a_nested_call() -> None:
    """What the inner call cannot do ends the outer one with the same error item."""
    [error] = items(Desk().ask(call("registry-hub.call", {"method": "nope.nope"})))
    assert error["message"] == "Activation not found: nope"


def test_params_that_nobody_can_hold() -> None:
    """A number beyond all types is a fault of that call alone, and told as what it is."""
    desk = Desk()
    fault = "cannot be read, expected numbers within 64-bit floating point"
    message = '{"jsonrpc":"2.0","id":1,"method":"%s","params":%s}'
    for method, params in (
        ("registry.get", '{"name":1e999}'),
        ("registry-hub.call", '{"method":1e999}'),
        ("registry-hub.respond", '{"request_id":1e999}'),
    ):
        [answer] = desk.ask(message % (method, params))
        assert (answer["error"]["code"], answer["error"]["data"]) == (-32602, fault)
    nested = '{"method":"registry-hub.call","params":%s}'
    routed = '{"method":"registry.get","params":{"name":1e999}}'
    for params in (routed, nested % routed, nested % '{"method":1e999}', nested % "[1e999]"):
        [error] = items(desk.ask(message % ("registry-hub.call", params)))
        assert (error["code"], error["message"]) == ("-32602", f"Invalid params: {fault}")
    assert len(desk.ask(message % ("registry.reload", "1e999"))) == 3


@pytest.mark.parametrize("field", ["version", "metadata", "source"])
def test_deep_nesting_in_what_is_stored(field: str, caplog: pytest.LogCaptureFixture) -> None:
    """Parameters kept as JSON text are nested as deep as any setting allows: no internal error."""
    desk = Desk(max_nesting=512)
    for depth in (10, *range(500, 511), 512, 5000):
        nested = "[" * depth + "]" * depth
        params = '{"name":"d%d","host":"h","port":1,"%s":%s}' % (depth, field, nested)  # noqa: UP031
        routed = '{"method":"registry.register","params":%s}' % params  # noqa: UP031
        for method, given in (("registry.register", params), ("registry-hub.call", routed)):
            answers = desk.ask(
                '{"jsonrpc":"2.0","id":1,"method":"%s","params":%s}' % (method, given)  # noqa: UP031
            )
            assert answers
            assert desk.session.pending == 0
    assert not caplog.records


def test_registry_methods_reach_the_registry() -> None:
    """Every method of the table does its work, from registering to forgetting."""
    desk = Desk()
    desk.ask(register(1, "dev"))
    contents = [
        items(desk.ask(call(f"registry.{name}", {"name": "dev", "port": 7})))[0]["content"]["type"]
        for name in ("get", "list", "update", "ping", "deregister", "delete", "reload")
    ]
    assert contents == [
        "backend",
        "backends",
        "backend_updated",
        "ping",
        "backend_deregistered",
        "backend_deleted",
        "reloaded",
    ]
