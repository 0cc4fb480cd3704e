# SPDX-License-Identifier: AGPL-3.0-only
"""The schema documents that Plexus clients read, and their hashes (wire protocol, section 6).

The hashes depend on what is published alone: not on the entries, not on the hub's name. So they
survive restarts, and clients fetch a schema again only when it changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plexus_registry.protocol.methods import (
    ACTIVATION,
    HUB_METHODS,
    REGISTRY_METHODS,
    RETURNS,
    SCHEMA_METHOD,
    Method,
)
from plexus_registry.protocol.parameters import schema_of

INTERFACE_VERSION = "1.0.0"
"""Version of the published interface, not of the program."""

STREAMING_METHODS = frozenset({"call"})


def hash_of(document: object) -> str:
    """Hash a JSON document: 16 lower-case hex digits of SHA-256 over its canonical text."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _method_schema(method: Method) -> dict[str, Any]:
    hashed: dict[str, Any] = {"name": method.name, "description": method.description}
    if method.parameters:
        hashed["params"] = schema_of(method.parameters)
    if method.name in RETURNS:
        hashed["returns"] = RETURNS[method.name]
    hashed["streaming"] = method.name in STREAMING_METHODS
    hashed["bidirectional"] = False
    return hashed | {
        "hash": hash_of(hashed),
        "http_method": "POST",
        "role": {"kind": "rpc"},
    }


def _plugin_schema(
    namespace: str,
    description: str,
    methods: Sequence[Method],
    children: Sequence[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Describe an activation; *children* makes it a hub (a leaf has no such key at all)."""
    described = [_method_schema(method) for method in (*methods, SCHEMA_METHOD)]
    self_hash = hash_of([method["hash"] for method in described])
    schema = {
        "namespace": namespace,
        "version": INTERFACE_VERSION,
        "description": description,
        "self_hash": self_hash,
        "hash": hash_of([self_hash]),
        "methods": described,
    }
    if children is not None:
        children_hash = hash_of([child["hash"] for child in children])
        schema["children_hash"] = children_hash
        schema["hash"] = hash_of([self_hash, children_hash])
        schema["children"] = [
            {key: child[key] for key in ("namespace", "description", "hash")} for child in children
        ]
    return schema


@dataclass(frozen=True, slots=True)
class Schemas:
    """All documents that a hub of one name publishes.

    Attributes:
        hub: PluginSchema of the hub.
        registry: PluginSchema of the activation.
    """

    hub: dict[str, Any]
    registry: dict[str, Any]

    @property
    def hash(self) -> str:
        """The ``plexus_hash``: it changes when, and only when, a schema changes."""
        hash: str = self.hub["hash"]
        return hash

    @property
    def hashes(self) -> dict[str, Any]:
        """The content of ``hashes``: those of the hub and of its children."""
        keys = ("namespace", "self_hash", "children_hash", "hash")
        children = [
            {key: child[key] for key in ("namespace", "hash")} for child in self.hub["children"]
        ]
        return {key: self.hub[key] for key in keys} | {"children": children}


def describe(hub_namespace: str) -> Schemas:
    """Build the documents of a hub."""
    registry = _plugin_schema(ACTIVATION, "Directory of Plexus backends", REGISTRY_METHODS)
    hub = _plugin_schema(
        hub_namespace, "Hub that routes calls and describes itself", HUB_METHODS, [registry]
    )
    return Schemas(hub, registry)
