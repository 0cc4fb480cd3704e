# SPDX-License-Identifier: AGPL-3.0-only
"""The methods that are published, with their parameters: the table behind routing and schema."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Final

from plexus_registry.backend import DEFAULT_PROTOCOL
from plexus_registry.protocol.parameters import (
    ANY,
    BOOLEAN,
    LENIENT_STRING,
    PROTOCOL,
    STRING,
    U16,
    U32,
    Parameter,
)

ACTIVATION: Final = "registry"
"""Namespace of the one activation behind the hub."""


class Right(enum.Enum):
    """Who may call a method."""

    READ = "read"
    """Whoever can connect."""
    WRITE = "write"
    """Whoever the policy on writing allows to, see `plexus_registry.access`."""


@dataclass(frozen=True, slots=True)
class Method:
    """One published method.

    Attributes:
        name: Without its namespace.
        description: For the published schema; at most 15 words.
        parameters: In the order of their declaration.
        takes_bare_value: Routed params that are no object stand for the first parameter.
        is_write: Its effect is in the order of submission, whenever its answer comes.
        right: Who may call it.
    """

    name: str
    description: str
    parameters: tuple[Parameter, ...] = ()
    takes_bare_value: bool = False
    is_write: bool = False
    right: Right = Right.READ


_NAME = Parameter("name", STRING, "Backend name", required=True)

REGISTRY_METHODS: Final = (
    Method(
        "register",
        "Add a backend to the directory",
        (
            Parameter("name", STRING, "Unique backend name", required=True),
            Parameter("host", STRING, "Host name or address", required=True),
            Parameter("port", U16, "TCP port", required=True),
            Parameter("protocol", PROTOCOL, "ws or wss", default=DEFAULT_PROTOCOL),
            Parameter("description", STRING, "Human-readable text"),
            Parameter("namespace", STRING, "Routing namespace"),
            Parameter("version", LENIENT_STRING, "Version of the backend"),
            Parameter("metadata", ANY, "Any JSON, stored as text"),
            Parameter("source", LENIENT_STRING, "auto if a hub announces itself"),
        ),
        is_write=True,
        right=Right.WRITE,
    ),
    Method(
        "list",
        "List known backends",
        (
            Parameter("active_only", BOOLEAN, "Only active backends", default=True),
            Parameter("limit", U32, "How many at the most"),
            Parameter("after", STRING, "Begin behind the backend of this name"),
        ),
        takes_bare_value=True,
    ),
    Method("get", "Look up one backend by name", (_NAME,), takes_bare_value=True),
    Method(
        "update",
        "Change fields of a known backend",
        (
            _NAME,
            Parameter("host", STRING, "New host"),
            Parameter("port", U16, "New TCP port"),
            Parameter("protocol", PROTOCOL, "ws or wss"),
            Parameter("description", STRING, "New text"),
            Parameter("namespace", STRING, "New routing namespace"),
            Parameter("version", STRING, "New version of the backend"),
            Parameter("metadata", ANY, "Any JSON, stored as text"),
        ),
        is_write=True,
        right=Right.WRITE,
    ),
    Method(
        "delete",
        "Forget a backend",
        (_NAME,),
        takes_bare_value=True,
        is_write=True,
        right=Right.WRITE,
    ),
    Method(
        "ping",
        "Record that a backend is alive",
        (_NAME,),
        takes_bare_value=True,
        is_write=True,
        right=Right.WRITE,
    ),
    Method(
        "deregister",
        "Say that a backend has stopped; its entry stays, inactive",
        (_NAME,),
        takes_bare_value=True,
        is_write=True,
        right=Right.WRITE,
    ),
    Method("reload", "Read the configuration file again", right=Right.WRITE),
    Method("status", "Tell how the registry is doing"),
)

SCHEMA_METHOD: Final = Method("schema", "Describe this plugin, or only the method named in params")

HUB_METHODS: Final = (
    Method(
        "call",
        "Call a method of an activation",
        (
            Parameter("method", STRING, "Full name: namespace.method", required=True),
            Parameter("params", ANY, "Parameters of that method"),
        ),
    ),
    Method("hash", "Hash of the whole schema tree"),
    Method("hashes", "Hashes of the hub and its children"),
)

_UNSIGNED: dict[str, Any] = {"type": "integer", "format": "uint", "minimum": 0}
_UNIX_SECONDS: dict[str, Any] = {"type": "integer", "format": "int64"}


def _event(kind: str, description: str, required: tuple[str, ...], **properties: Any) -> Any:
    return {
        "description": description,
        "type": "object",
        "properties": {"type": {"type": "string", "const": kind}, **properties},
        "required": ["type", *required],
    }


def _optional(description: str, **schema: Any) -> dict[str, Any]:
    return {"description": description, **schema, "type": [schema["type"], "null"]}


_BACKEND: Final = {"$ref": "#/$defs/BackendInfo"}
_TEXT: dict[str, Any] = {"type": "string"}

REGISTRY_EVENT: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "RegistryEvent",
    "description": "Answer of every registry method",
    "oneOf": [
        _event("backend_registered", "Entry created or refreshed", ("backend",), backend=_BACKEND),
        _event("backend_updated", "Entry changed", ("backend",), backend=_BACKEND),
        _event("backend_deleted", "Entry removed", ("name",), name=_TEXT),
        _event("backend_deregistered", "Entry inactive from now on", ("name",), name=_TEXT),
        _event(
            "backends",
            "Entries, newest first",
            ("backends",),
            backends={"type": "array", "items": _BACKEND},
        ),
        _event(
            "backend", "The entry, or null", (), backend={"anyOf": [_BACKEND, {"type": "null"}]}
        ),
        _event(
            "ping",
            "Ping answer",
            ("name", "success", "message"),
            name=_TEXT,
            success={"type": "boolean"},
            message=_TEXT,
        ),
        _event(
            "reloaded",
            "Configuration read again",
            ("count", "updated", "removed", "unchanged"),
            count=_UNSIGNED,
            updated=_UNSIGNED,
            removed=_UNSIGNED,
            unchanged=_UNSIGNED,
        ),
        _event("error", "Operation failed", ("message",), message=_TEXT),
    ],
    "$defs": {
        "BackendInfo": {
            "description": "One backend entry",
            "type": "object",
            "properties": {
                "id": {"description": "UUID of the entry", "type": "string"},
                "name": {"description": "Unique name", "type": "string"},
                "host": {"description": "Host name or address", "type": "string"},
                "port": {"description": "TCP port", **U16.schema},
                "protocol": {"description": "URL scheme: ws or wss", "type": "string"},
                "description": _optional("Free text", type="string"),
                "namespace": _optional("Routing namespace", type="string"),
                "version": _optional("Version reported by the backend", type="string"),
                "metadata": _optional("JSON document stored as text", type="string"),
                "source": {
                    "description": "How the entry came to be",
                    "$ref": "#/$defs/BackendSource",
                },
                "is_active": {"description": "Active flag", "type": "boolean"},
                "registered_at": {"description": "Unix seconds", **_UNIX_SECONDS},
                "last_seen": _optional("Unix seconds of the last ping", **_UNIX_SECONDS),
                "created_at": {"description": "Unix seconds", **_UNIX_SECONDS},
                "updated_at": {"description": "Unix seconds", **_UNIX_SECONDS},
            },
            "required": [
                "id",
                "name",
                "host",
                "port",
                "protocol",
                "source",
                "is_active",
                "registered_at",
                "created_at",
                "updated_at",
            ],
        },
        "BackendSource": {
            "description": "Origin of an entry",
            "type": "string",
            "enum": ["auto", "file", "manual", "env"],
        },
    },
}
"""What registry methods return. Kept whole for each: Synapse tells types by their title."""

_COUNT: dict[str, Any] = {"type": "integer", "format": "uint64", "minimum": 0}


def _object(description: str, required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {
        "description": description,
        "type": "object",
        "properties": properties,
        "required": [*required],
    }


_FLAG: dict[str, Any] = {"type": "boolean"}

REGISTRY_STATUS: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "RegistryStatus",
    "description": "How the registry is doing",
    "oneOf": [
        _event(
            "status",
            "How the registry is doing",
            (
                *("version", "started_at", "uptime_s", "revision"),
                *("entries", "reload", "store", "connections"),
            ),
            version={"description": "Version of the program", **_TEXT},
            started_at={"description": "Unix seconds", **_UNIX_SECONDS},
            uptime_s={"description": "Seconds", "type": "number", "format": "double"},
            revision={"description": "Another one after every change of an entry", **_COUNT},
            entries={"$ref": "#/$defs/StatusEntries"},
            reload={"anyOf": [{"$ref": "#/$defs/StatusReload"}, {"type": "null"}]},
            store={"$ref": "#/$defs/StatusStore"},
            connections={"$ref": "#/$defs/StatusConnections"},
        )
    ],
    "$defs": {
        "StatusEntries": _object(
            "How many entries there are",
            ("total", "active", "inactive", "by_source"),
            total=_COUNT,
            active=_COUNT,
            inactive=_COUNT,
            by_source={"$ref": "#/$defs/StatusSources"},
        ),
        "StatusSources": _object(
            "How many entries there are of each source",
            ("auto", "file", "env", "manual"),
            auto=_COUNT,
            file=_COUNT,
            env=_COUNT,
            manual=_COUNT,
        ),
        "StatusReload": _object(
            "How the last reload went; the counts only if it was done",
            ("at", "ok", "message"),
            at={"description": "Unix seconds", **_UNIX_SECONDS},
            ok=_FLAG,
            message=_optional("Why it failed", **_TEXT),
            added=_COUNT,
            updated=_COUNT,
            removed=_COUNT,
            unchanged=_COUNT,
        ),
        "StatusStore": _object(
            "Whether changes can be written, as far as the last one tells",
            ("ok", "bytes", "last_failure", "last_failure_at"),
            ok=_FLAG,
            bytes={"description": "Database and its log on disk", **_COUNT},
            last_failure=_optional("Why a change could not be written last", **_TEXT),
            last_failure_at=_optional("Unix seconds of that", **_UNIX_SECONDS),
        ),
        "StatusConnections": _object(
            "Clients that are connected, and how many may be",
            ("open", "max"),
            open=_COUNT,
            max=_COUNT,
        ),
    },
}
"""What ``status`` returns: a title of its own, as it is another type."""

HASH_EVENT: Final[dict[str, Any]] = {
    "title": "HashEvent",
    "oneOf": [
        {
            "type": "object",
            "properties": {"event": {"type": "string", "const": "hash"}, "value": _TEXT},
            "required": ["event", "value"],
        }
    ],
}

PLUGIN_HASHES: Final[dict[str, Any]] = {
    "title": "PluginHashes",
    "type": "object",
    "properties": {
        "namespace": _TEXT,
        "self_hash": _TEXT,
        "children_hash": {"type": ["string", "null"]},
        "hash": _TEXT,
        "children": {"type": ["array", "null"], "items": {"$ref": "#/$defs/ChildHashes"}},
    },
    "required": ["namespace", "self_hash", "hash"],
    "$defs": {
        "ChildHashes": {
            "type": "object",
            "properties": {"namespace": _TEXT, "hash": _TEXT},
            "required": ["namespace", "hash"],
        }
    },
}

RETURNS: Final[dict[str, Any]] = {
    **{method.name: REGISTRY_EVENT for method in REGISTRY_METHODS},
    "status": REGISTRY_STATUS,
    "hash": HASH_EVENT,
    "hashes": PLUGIN_HASHES,
}
"""JSON Schema of what a method returns, by its name; `call` and `schema` publish none."""
