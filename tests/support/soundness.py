# SPDX-License-Identifier: AGPL-3.0-only
"""What must hold of all that a session sends and of all that a registry keeps."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from plexus_registry import backend
from plexus_registry.backend import Backend
from plexus_registry.catalog import Catalog

Json = dict[str, Any]


def check_sent(messages: Iterable[bytes]) -> list[Json | list[Json]]:
    """Check that messages are JSON-RPC with whole streams and without internal errors.

    Returns:
        The responses, in their order; those of a batch are a list.
    """
    responses: list[Json | list[Json]] = []
    open_streams: set[int] = set()
    for message in messages:
        decoded = json.loads(message.decode())
        if isinstance(decoded, dict) and "params" in decoded:
            _check_item(decoded, open_streams)
            continue
        assert decoded, "an empty batch"
        for response in decoded if isinstance(decoded, list) else [decoded]:
            _check_response(response, open_streams)
        responses.append(decoded)
    assert not open_streams
    return responses


def _check_item(notification: Json, open_streams: set[int]) -> None:
    assert set(notification) == {"jsonrpc", "method", "params"}
    assert notification["jsonrpc"] == "2.0"
    subscription, item = notification["params"]["subscription"], notification["params"]["result"]
    assert subscription in open_streams
    assert item["type"] in ("data", "done", "error")
    assert item.get("code") != "-32603"
    if item["type"] != "data":
        open_streams.remove(subscription)


def _check_response(response: Json, open_streams: set[int]) -> None:
    assert response["jsonrpc"] == "2.0"
    if "error" in response:
        assert set(response) == {"jsonrpc", "id", "error"}
        assert set(response["error"]) <= {"code", "message", "data"}
        assert response["error"]["code"] != -32603
        assert isinstance(response["error"].get("data", ""), str)
        return
    assert set(response) == {"jsonrpc", "id", "result"}
    if response["result"] is not False and response["result"] is not True:
        assert response["result"] not in open_streams
        open_streams.add(response["result"])


def check_entries(catalog: Catalog, stored: Iterable[Backend]) -> None:
    """Check that each entry is valid, and that the disk, reads and listings say the same of it."""
    entries = list(catalog)
    assert entries == list(stored)
    assert len({entry.name for entry in entries}) == len(entries) == len(catalog)
    for entry in entries:
        for field, check in backend.DECLARED_FIELDS.items():
            assert check(getattr(entry, field)) == getattr(entry, field)
        encoded = catalog.get_json(entry.name)
        assert encoded is not None
        assert msgspec.json.decode(encoded, type=Backend) == entry
    for active_only in (True, False):
        expected = [entry for entry in reversed(entries) if entry.is_active or not active_only]
        listed = catalog.list_json(active_only=active_only)
        assert msgspec.json.decode(listed, type=list[Backend]) == expected
