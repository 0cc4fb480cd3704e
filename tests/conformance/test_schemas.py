# SPDX-License-Identifier: AGPL-3.0-only
"""C59 to C65: the documents that describe the methods."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plexus_registry.config.settings import Settings
from plexus_registry.protocol.schema import hash_of
from support.conversation import Conversation, conversation
from support.serving import serving

DATA = Path(__file__).parent / "data"
REQUIRED = {
    "register": ["name", "host", "port"],
    "list": [],
    "get": ["name"],
    "update": ["name"],
    "delete": ["name"],
    "ping": ["name"],
    "deregister": ["name"],
}
HASHED = ("name", "description", "params", "returns", "streaming", "bidirectional")


def schema(client: Conversation, of: str = "registry", **params: Any) -> dict[str, Any]:
    """Return the schema of an activation, asked for through the hub."""
    content: dict[str, Any] = client.call(f"{of}.schema", params).content
    return content


def all_methods(client: Conversation) -> list[dict[str, Any]]:
    """Return every MethodSchema that is published."""
    return [*schema(client, "registry-hub")["methods"], *schema(client)["methods"]]


def nodes(document: Any) -> Iterator[dict[str, Any]]:
    """Go over all objects inside a document."""
    if isinstance(document, dict):
        yield document
    values = document.values() if isinstance(document, dict) else document
    for value in values if isinstance(document, dict | list) else ():
        yield from nodes(value)


def test_c59_hub_schema(client: Conversation) -> None:
    """The hub describes itself and its child, directly and through a call alike."""
    direct = client.request("registry-hub.schema").content
    assert direct == schema(client, "registry-hub")
    for key in ("namespace", "version", "description", "hash"):
        assert isinstance(direct[key], str)
    assert [method["name"] for method in direct["methods"]] == ["call", "hash", "hashes", "schema"]
    [child] = direct["children"]
    assert set(child) == {"namespace", "description", "hash"}
    assert child["namespace"] == "registry"


def test_c60_registry_schema(client: Conversation) -> None:
    """The activation is a leaf, so it has no key for children, and it lists its methods."""
    document = schema(client)
    assert document == client.request("registry.schema").content
    assert "children" not in document
    assert "children_hash" not in document
    assert [method["name"] for method in document["methods"]] == [
        "register",
        "list",
        "get",
        "update",
        "delete",
        "ping",
        "deregister",
        "reload",
        "status",
        "schema",
    ]


def hashes_everywhere(client: Conversation) -> list[str]:
    """Collect the hub's hash from every place that tells it."""
    answer = client.call("registry-hub.hash")
    return [
        schema(client, "registry-hub")["hash"],
        answer.content["value"],
        *(item["metadata"]["plexus_hash"] for item in answer.items),
        client.call("registry-hub.hashes").content["hash"],
        client.call("registry.hash").content["value"],
        client.request("registry-hub.hash").content["value"],
        client.request("registry.hash").content["value"],
    ]


def test_c61_hashes_agree(client: Conversation) -> None:
    """A child's hash is that of its own schema, and the hub's hash is the same everywhere."""
    hub, registry = schema(client, "registry-hub"), schema(client)
    assert hub["children"][0]["hash"] == registry["hash"]
    assert hub["hash"] != registry["hash"]
    assert set(hashes_everywhere(client)) == {hub["hash"]}
    assert client.call("registry-hub.hashes").content == {
        "namespace": "registry-hub",
        "self_hash": hub["self_hash"],
        "children_hash": hub["children_hash"],
        "hash": hub["hash"],
        "children": [{"namespace": "registry", "hash": registry["hash"]}],
    }


def test_c61_hashes_are_stable(settings: Settings) -> None:
    """Neither entries nor a restart change a hash."""
    seen = set()
    for _ in range(2):
        with serving(settings) as served, conversation(served.url) as client:
            seen |= set(hashes_everywhere(client))
            client.call("registry.register", {"name": "dev", "host": "h", "port": 1})
            seen |= set(hashes_everywhere(client))
    assert len(seen) == 1


@pytest.mark.parametrize("name", [*REQUIRED, "reload", "status", "schema"])
def test_c62_schema_of_one_method(client: Conversation, name: str) -> None:
    """Asked for one method, the schema is the object of that method, whichever way it goes."""
    [expected] = [method for method in schema(client)["methods"] if method["name"] == name]
    assert schema(client, method=name) == expected
    assert client.request("registry.schema", {"method": name}).content == expected
    assert client.request("registry_schema", [name]).content == expected
    assert client.call(f"registry.{name}.schema").content == expected


def test_c62_schema_of_an_unknown_method(client: Conversation) -> None:
    """An unknown method is an error item through a call, and -32602 with data directly."""
    for activation, shown in (("registry", "registry.nope"), ("registry-hub", "plexus.nope")):
        error = client.call(f"{activation}.schema", {"method": "nope"}).error
        assert (error["message"], error["code"]) == (f"Method not found: {shown}", "-32601")
        error = client.request(f"{activation}.schema", {"method": "nope"}).error
        assert (error["code"], error["message"]) == (-32602, "Invalid params")
        assert "nope" in error["data"]


@pytest.mark.parametrize("params", [None, [], {}, 7, "list", {"method": None}, {"method": 7}])
def test_c62_other_params_ask_for_the_whole(client: Conversation, params: Any) -> None:
    """Params that name no method give the whole document."""
    whole = schema(client, "registry-hub")
    assert client.request("registry-hub.schema", params).content == whole


def test_c63_required_parameters(client: Conversation) -> None:
    """Each method requires exactly the parameters that it cannot do without."""
    methods = {method["name"]: method for method in schema(client)["methods"]}
    for name, required in REQUIRED.items():
        assert methods[name]["params"].get("required", []) == required
    assert "params" not in methods["reload"]
    assert "params" not in methods["status"]
    assert "params" not in methods["schema"]
    assert "returns" not in methods["schema"]


def test_c63_defaults_change_nothing(client: Conversation) -> None:
    """Synapse sends every default along, so those of ``update`` are all null."""
    properties = schema(client, method="update")["params"]["properties"]
    defaults = {name: it.get("default", "none") for name, it in properties.items()}
    assert defaults.pop("name") == "none"
    assert set(defaults.values()) == {None}
    register = schema(client, method="register")["params"]["properties"]
    assert {it["default"] for it in register.values() if "default" in it} == {None, "ws"}


def test_c63_references_resolve_in_their_own_object(client: Conversation) -> None:
    """Each ``$ref`` leads to a definition inside the same params or returns."""
    found = 0
    for method in all_methods(client):
        for document in (method.get("params", {}), method.get("returns", {})):
            for node in nodes(document):
                if "$ref" in node:
                    prefix, _, name = node["$ref"].rpartition("/")
                    assert prefix == "#/$defs"
                    assert name in document["$defs"]
                    found += 1
    assert found > 10


def test_c64_flags_of_every_method(client: Conversation) -> None:
    """Each method says whether it streams, and has the role of a plain call."""
    for method in all_methods(client):
        assert method["streaming"] is (method["name"] == "call")
        assert method["bidirectional"] is False
        assert method["role"] == {"kind": "rpc"}
        assert len(method["description"].split()) <= 15


def specified() -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the documents of section 6.4, the event put in where it belongs: hub, registry."""
    event = json.loads((DATA / "registry-event.json").read_text())
    hub = json.loads((DATA / "hub-schema.json").read_text())
    registry = json.loads((DATA / "registry-schema.json").read_text())
    for method in registry["methods"]:
        if method.get("returns") == "@RegistryEvent":
            method["returns"] = copy.deepcopy(event)
    return hub, registry


def rehash(plugin: dict[str, Any]) -> None:
    """Compute the hashes of a PluginSchema anew, by the rules of section 6.2."""
    for method in plugin["methods"]:
        method["hash"] = hash_of({key: method[key] for key in HASHED if key in method})
    hashes = [plugin["self_hash"]] = [hash_of([it["hash"] for it in plugin["methods"]])]
    if "children" in plugin:
        plugin["children_hash"] = hash_of([child["hash"] for child in plugin["children"]])
        hashes.append(plugin["children_hash"])
    plugin["hash"] = hash_of(hashes)


def test_c65_specified_hashes_are_reproduced() -> None:
    """The way hashes are computed gives every hash of the specification's own documents."""
    hub, registry = specified()
    for document in (hub, registry):
        rehashed = copy.deepcopy(document)
        rehash(rehashed)
        assert rehashed == document
    assert hub["children"][0]["hash"] == registry["hash"]


def changed_on_purpose() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the specified documents with all that was changed on purpose, and nothing else."""
    hub, registry = specified()
    methods = {method["name"]: method for method in registry["methods"]}

    # Version, metadata and source are accepted and stored (section 10, item 6).
    methods["register"]["params"]["properties"] |= {
        "version": {
            "description": "Version of the backend",
            "type": ["string", "null"],
            "default": None,
        },
        "metadata": {"description": "Any JSON, stored as text", "default": None},
        "source": {
            "description": "auto if a hub announces itself",
            "type": ["string", "null"],
            "default": None,
        },
    }
    # So that an import can change and clear what a registration may set.
    methods["update"]["params"]["properties"] |= {
        "version": {
            "description": "New version of the backend",
            "type": ["string", "null"],
            "default": None,
        },
        "metadata": {"description": "Any JSON, stored as text", "default": None},
    }
    # A large registry is listed in pages.
    methods["list"]["params"]["properties"] |= {
        "limit": {
            "description": "How many at the most",
            "type": ["integer", "null"],
            "format": "uint32",
            "minimum": 0,
            "maximum": 2**32 - 1,
            "default": None,
        },
        "after": {
            "description": "Begin behind the backend of this name",
            "type": ["string", "null"],
            "default": None,
        },
    }
    # A hub says good-bye (section 10, item 6).
    deregister = copy.deepcopy(methods["delete"])
    deregister["name"] = "deregister"
    deregister["description"] = "Say that a backend has stopped; its entry stays, inactive"
    registry["methods"].insert(-2, deregister)
    for method in registry["methods"][:-1]:
        variants = method["returns"]["oneOf"]
        variants.insert(
            3,
            {
                "description": "Entry inactive from now on",
                "type": "object",
                "properties": {
                    "type": {"type": "string", "const": "backend_deregistered"},
                    "name": {"type": "string"},
                },
                "required": ["type", "name"],
            },
        )
        # A reload follows the file, and counts what it did (section 10, item 11).
        [reloaded] = [it for it in variants if it["properties"]["type"]["const"] == "reloaded"]
        for name in ("updated", "removed", "unchanged"):
            reloaded["properties"][name] = dict(reloaded["properties"]["count"])
            reloaded["required"].append(name)

    # How the registry is doing can be asked, and is another type.
    status = json.loads((DATA / "status-schema.json").read_text())
    registry["methods"].insert(-1, status)

    rehash(registry)
    hub["children"][0]["hash"] = registry["hash"]
    rehash(hub)
    return hub, registry


def canonical(document: object) -> str:
    """Serialise in the one way that makes equal documents equal texts."""
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False)


def test_c65_published_documents_are_the_specified_ones(client: Conversation) -> None:
    """What is published differs from the specification by the changes listed here alone."""
    hub, registry = changed_on_purpose()
    assert canonical(schema(client)) == canonical(registry)
    assert canonical(schema(client, "registry-hub")) == canonical(hub)
