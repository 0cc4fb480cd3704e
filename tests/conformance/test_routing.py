# SPDX-License-Identifier: AGPL-3.0-only
"""C32 to C46: names and parameters, routed through the hub and called directly."""

from __future__ import annotations

from typing import Any

import pytest

from support.conversation import Conversation

DEV = {"name": "dev", "host": "127.0.0.1", "port": 4444}


def names(client: Conversation) -> list[str]:
    """Return the names of all entries."""
    backends = client.call("registry.list", {"active_only": False}).content["backends"]
    return [backend["name"] for backend in backends]


def without(key: str) -> dict[str, Any]:
    """Return parameters of a register that lack one."""
    return {name: value for name, value in DEV.items() if name != key}


def refusal(client: Conversation, method: str, *params: Any) -> tuple[str, str]:
    """Call through the hub what must be refused; return message and code."""
    error = client.call(method, *params).error
    assert error["type"] == "error"
    return error["message"], error["code"]


@pytest.mark.parametrize("method", ["list", "", "registry"])
def test_c32_method_without_a_dot(client: Conversation, method: str) -> None:
    """A routed name without a dot is an error item with code "-32602"."""
    message = f"Invalid params: Invalid method format: {method}"
    assert refusal(client, method) == (message, "-32602")


@pytest.mark.parametrize("namespace", ["nope", "", "Registry", "registry_hub"])
def test_c33_unknown_activation(client: Conversation, namespace: str) -> None:
    """A namespace that nobody has is an error item that names it, with code "-32601"."""
    message = f"Activation not found: {namespace}"
    assert refusal(client, f"{namespace}.list") == (message, "-32601")


@pytest.mark.parametrize(
    ("method", "shown"),
    [
        ("registry.nope", "registry.nope"),
        ("registry.", "registry."),
        ("registry.list.nope", "registry.list.nope"),
        ("registry-hub.nope", "registry-hub.nope"),
        ("registry-hub.registry.nope", "registry.nope"),
        ("registry.nope.schema", "registry.nope"),
    ],
)
def test_c34_unknown_method(client: Conversation, method: str, shown: str) -> None:
    """A method that its namespace lacks is an error item that names it, with code "-32601"."""
    assert refusal(client, method) == (f"Method not found: {shown}", "-32601")


def test_c34_long_names_are_shown_bounded(client: Conversation) -> None:
    """A message repeats only so much of what a peer made up."""
    message, code = refusal(client, "registry." + "x" * 100_000)
    assert code == "-32601"
    assert len(message) < 200


@pytest.mark.parametrize(
    "params", [{"params": {}}, {}, {"method": 5}, {"method": None}, [], [5], "registry.list", 7]
)
def test_c35_call_without_method(client: Conversation, params: Any) -> None:
    """``call`` without a usable method is a JSON-RPC error -32602 with data."""
    error = client.request("registry-hub.call", params).error
    assert (error["code"], error["message"]) == (-32602, "Invalid params")
    assert isinstance(error["data"], str)
    client.expect_silence()


def test_c35_call_without_params(client: Conversation) -> None:
    """``call`` with no params at all is a JSON-RPC error, with the request's id."""
    answer = client.request("registry-hub.call")
    assert answer.error["code"] == -32602
    assert answer.response["id"] == 1


def test_c36_call_with_positional_params(client: Conversation) -> None:
    """``call`` takes method and params as an array too; params may be missing."""
    client.call("registry.register", DEV)
    client.call("registry.deregister", "dev")
    for params, count in (
        (["registry.list", {"active_only": True}], 0),
        (["registry.list", {"active_only": False}], 1),
        (["registry.list"], 0),
    ):
        answer = client.request("registry-hub.call", params)
        assert len(answer.content["backends"]) == count


@pytest.mark.parametrize("missing", ["name", "host", "port"])
def test_c37_missing_parameter(client: Conversation, missing: str) -> None:
    """A required parameter that is missing is an error item that names it."""
    expected = (f"Invalid params: missing field: {missing}", "-32602")
    assert refusal(client, "registry.register", without(missing)) == expected


def test_c37_first_missing_parameter_is_reported(client: Conversation) -> None:
    """Where several are missing, the first one in the order name, host, port is told."""
    for given, missing in (({}, "name"), ({"name": "dev"}, "host"), ({"port": 1}, "name")):
        message, _ = refusal(client, "registry.register", given)
        assert message == f"Invalid params: missing field: {missing}"


@pytest.mark.parametrize("port", [70000, 65536, -1, 1.5, 4444.0, "4444", "abc", True, None, [1]])
@pytest.mark.parametrize("method", ["registry.register", "registry.update"])
def test_c38_port_of_another_type(client: Conversation, method: str, port: Any) -> None:
    """A port that is no integer from 0 to 65535 is an error item; nothing is stored."""
    client.call("registry.register", {**DEV, "name": "held"})
    params = {**DEV, "name": "held" if "update" in method else "new", "port": port}
    if port is None and "update" in method:
        assert client.call(method, params).content["backend"]["port"] == DEV["port"]
    else:
        message, code = refusal(client, method, params)
        assert message.startswith("Invalid params: invalid ")
        assert message.endswith("expected u16 for port")
        assert code == "-32602"
    assert names(client) == ["held"]
    assert client.call("registry.get", "held").content["backend"]["port"] == DEV["port"]


@pytest.mark.parametrize("port", [1, 80, 32768, 65535])
def test_c39_every_port_is_parsed(client: Conversation, port: int) -> None:
    """Integers up to 65535 are ports."""
    content = client.call("registry.register", {**DEV, "port": port}).content
    assert content["backend"]["port"] == port


def test_c39_port_0_is_refused_by_validation(client: Conversation) -> None:
    """Port 0 is well-formed but no port to connect to: an event, not an error item."""
    content = client.call("registry.register", {**DEV, "port": 0}).content
    assert content["type"] == "error"
    assert content["message"].startswith("Failed to register backend: port: 0 is not accepted")


@pytest.mark.parametrize(
    "extra",
    [
        {"version": "1.2.3", "metadata": {"pid": 7}, "source": "manual", "foo": 1},
        {"version": 7, "metadata": "text", "source": 7, "foo": None},
        {"version": {"major": 1}, "metadata": [1, [2.5]], "source": None, "foo": {"name": "x"}},
        {"version": None, "metadata": None, "source": "nonsense", "": ""},
        {"version": True, "metadata": True, "source": ["auto"]},
        {"version": 10**30, "metadata": {"n": 10**30}},
        {"version": "x" * 1000, "metadata": {"text": "x" * 100_000}},
        {"version": "\0", "metadata": {"text": "\0"}},
    ],
)
@pytest.mark.parametrize("is_direct", [False, True], ids=["routed", "direct"])
def test_c40_unknown_parameters_never_fail(
    client: Conversation, extra: dict[str, Any], is_direct: bool
) -> None:
    """What hubs of other versions send beside the known parameters does no harm."""
    ask = client.request if is_direct else client.call
    content = ask("registry.register", {**DEV, **extra}).content
    assert content["type"] == "backend_registered"
    assert content["backend"]["source"] == "manual"


def test_c40_version_and_metadata_are_kept(client: Conversation) -> None:
    """Version and metadata are stored, metadata as JSON text."""
    extra = {"version": "1.2.3", "metadata": {"pid": 7, "hash": "ä"}, "source": "auto"}
    backend = client.call("registry.register", {**DEV, **extra}).content["backend"]
    assert backend["version"] == "1.2.3"
    assert backend["metadata"] == '{"pid":7,"hash":"ä"}'
    assert backend["source"] == "auto"


@pytest.mark.parametrize("field", ["version", "metadata"])
def test_c40_what_cannot_be_stored_is_left_out(client: Conversation, field: str) -> None:
    """The entry is made without it, and the answer shows that; the other field is kept."""
    extra = {"version": "1.2.3", "metadata": "text"} | {field: "x" * 100_000}
    backend = client.call("registry.register", {**DEV, **extra}).content["backend"]
    assert {name for name in extra if backend.get(name) is not None} == set(extra) - {field}
    assert client.call("registry.get", "dev").content["backend"] == backend


@pytest.mark.parametrize("field", ["protocol", "description", "namespace"])
def test_c41_null_equals_absence(client: Conversation, field: str) -> None:
    """An explicit null for an optional parameter means that it was not given."""
    explicit = client.call("registry.register", {**DEV, field: None}).content["backend"]
    absent = client.call("registry.register", {**DEV, "name": "other"}).content["backend"]
    assert set(explicit) == set(absent)
    assert explicit["protocol"] == "ws"


def test_c41_null_active_only_equals_absence(client: Conversation) -> None:
    """``active_only`` null, like absence, lists active entries only."""
    client.call("registry.register", DEV)
    client.call("registry.deregister", "dev")
    for params in ({"active_only": None}, {}, None):
        assert client.call("registry.list", params).content["backends"] == []


@pytest.mark.parametrize("params", [(), (None,), ([],), ("dev",), (["dev"],), (7,)])
@pytest.mark.parametrize("method", ["registry.register", "registry.update"])
def test_c42_several_parameters_need_an_object(
    client: Conversation, method: str, params: tuple[Any, ...]
) -> None:
    """Routed calls of methods with several parameters take an object and nothing else."""
    assert refusal(client, method, *params) == ("Invalid params: expected object", "-32602")


def test_c43_bare_value_stands_for_the_only_parameter(client: Conversation) -> None:
    """Methods with one parameter take the bare value instead of an object."""
    client.call("registry.register", DEV)
    bare, named = (client.call("registry.get", form) for form in ("dev", {"name": "dev"}))
    assert bare.content == named.content
    assert bare.content["backend"]["name"] == "dev"
    assert client.call("registry.ping", "dev").content["success"] is True
    assert client.call("registry.list", True).content["backends"]
    assert client.call("registry.deregister", "dev").content["name"] == "dev"
    assert client.call("registry.delete", "dev").content["name"] == "dev"


@pytest.mark.parametrize("params", [(), (None,), (7,), ([],), ({},)])
def test_c43_bare_value_of_another_type(client: Conversation, params: tuple[Any, ...]) -> None:
    """A bare value that is no string, or none at all, is an error item."""
    message, code = refusal(client, "registry.get", *params)
    assert message.startswith("Invalid params: ")
    assert code == "-32602"


@pytest.mark.parametrize("method", ["registry.list", "registry_list"])
def test_c44_direct_list(client: Conversation, method: str) -> None:
    """Both spellings of a direct call answer with data and one ``done``."""
    answer = client.request(method, {"active_only": True})
    data, done = answer.items
    assert data["content_type"] == "registry.list"
    assert data["content"] == {"type": "backends", "backends": []}
    assert done["type"] == "done"
    client.expect_silence()


@pytest.mark.parametrize(
    "params",
    [
        {"active_only": False},
        {"activeOnly": False},
        [False],
        [False, None, None, "surplus"],
        {"active_only": False, "unknown": 1},
    ],
)
@pytest.mark.parametrize("method", ["registry.list", "registry_list"])
def test_c45_direct_params_in_every_form(client: Conversation, method: str, params: Any) -> None:
    """Direct calls take parameters by name in snake or camel case, and by place."""
    client.request("registry.register", ["dev", "127.0.0.1", 4444, "wss", None])
    client.request("registry_deregister", ["dev"])
    [backend] = client.request(method, params).content["backends"]
    assert (backend["name"], backend["protocol"]) == ("dev", "wss")


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("registry.get", ()),
        ("registry_get", ([],)),
        ("registry_get", (None,)),
        ("registry_get", ("dev",)),
        ("registry_get", ({"name": None},)),
        ("registry_get", ([7],)),
        ("registry_list", (True,)),
        ("registry_list", ([7],)),
        ("registry_register", ({"name": "dev"},)),
        ("registry_register", (["dev", "h"],)),
        ("registry_register", (["dev", "h", 70000],)),
        ("registry.register", ({"name": "dev", "host": "h", "port": "4444"},)),
        ("registry.update", ({"host": "h"},)),
    ],
)
def test_c45_bad_direct_params(client: Conversation, method: str, params: tuple[Any, ...]) -> None:
    """Direct params that do not fit are a JSON-RPC error with string data; nothing starts."""
    error = client.request(method, *params).error
    assert (error["code"], error["message"]) == (-32602, "Invalid params")
    assert isinstance(error["data"], str)
    assert error["data"]
    assert names(client) == []


def test_c45_missing_place_is_told_as_in_rust(client: Conversation) -> None:
    """Too few values by place give the data ``No more params``."""
    error = client.request("registry_get", []).error
    assert error == {"code": -32602, "message": "Invalid params", "data": "No more params"}


def test_c46_activation_through_the_hubs_name(client: Conversation) -> None:
    """``registry-hub.registry.list`` reaches the same method as ``registry.list``."""
    client.call("registry.register", DEV)
    through_hub = client.call("registry-hub.registry.list").content
    assert through_hub == client.call("registry.list").content
    assert through_hub["backends"][0]["name"] == "dev"


def test_c46_hubs_name_repeated_very_often(client: Conversation) -> None:
    """However often the hub's name stands before it, a name is one that nobody knows."""
    for name, shown in (("nope", "registry-hub.nope"), ("registry.nope", "registry.nope")):
        method = "registry-hub." * 2000 + name
        assert refusal(client, method) == (f"Method not found: {shown}", "-32601")
    assert names(client) == []
