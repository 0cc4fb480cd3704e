# SPDX-License-Identifier: AGPL-3.0-only
"""The schema documents: what goes into their hashes and what does not."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import pytest

from plexus_registry.protocol import methods
from plexus_registry.protocol.schema import describe, hash_of


def test_hash_is_that_of_the_canonical_text() -> None:
    """A hash is 16 hex digits of SHA-256 over JSON with sorted keys and no blanks, in UTF-8."""
    expected = hashlib.sha256('{"a":["ä",null],"b":1}'.encode()).hexdigest()[:16]
    assert hash_of({"b": 1, "a": ["ä", None]}) == expected
    assert re.fullmatch("[0-9a-f]{16}", expected)


@pytest.mark.parametrize("namespace", ["registry-hub", "directory", "ä%b"])
def test_hashes_do_not_depend_on_the_hubs_name(namespace: str) -> None:
    """The name is in the document and not in its hashes."""
    schemas = describe(namespace)
    assert schemas.hub["namespace"] == namespace
    assert schemas.hashes["namespace"] == namespace
    assert schemas.hash == describe("registry-hub").hash == schemas.hub["hash"]


def test_a_changed_method_changes_every_hash_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One word in one method changes its hash, its activation's and the hub's; no other's."""
    before = describe("hub")
    first, *rest = methods.REGISTRY_METHODS
    changed = (replace(first, description="Other words"), *rest)
    monkeypatch.setattr("plexus_registry.protocol.schema.REGISTRY_METHODS", changed)
    after = describe("hub")
    assert after.hash != before.hash
    assert after.registry["hash"] != before.registry["hash"]
    assert after.hub["self_hash"] == before.hub["self_hash"]
    hashes = [
        [method["hash"] for method in schemas.registry["methods"]] for schemas in (before, after)
    ]
    assert [old == new for old, new in zip(*hashes, strict=True)] == [
        False,
        *[True] * len(rest),
        True,
    ]


def test_hashes_of_methods_differ() -> None:
    """No two methods, and no two activations, share a hash."""
    schemas = describe("hub")
    described = [*schemas.hub["methods"][:-1], *schemas.registry["methods"]]
    hashes = [method["hash"] for method in described]
    hashes += [schemas.hub["hash"], schemas.registry["hash"]]
    assert len(set(hashes)) == len(hashes)


def test_each_published_method_has_a_handler_and_returns() -> None:
    """Every method of the registry says what it returns: the union of events, or the status."""
    for method in methods.REGISTRY_METHODS:
        is_status = method.name == "status"
        expected = methods.REGISTRY_STATUS if is_status else methods.REGISTRY_EVENT
        assert methods.RETURNS[method.name] is expected
        assert len(method.description.split()) <= 15
