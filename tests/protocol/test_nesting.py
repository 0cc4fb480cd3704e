# SPDX-License-Identifier: AGPL-3.0-only
"""How deep the JSON of a message may be nested, whatever the decoder would take."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.protocol.nesting import DEFAULT_MAX_NESTING, NestingLimit
from support.sessions import Desk, request

MISLEADING = st.text(st.sampled_from('[]{}"\\,: \nä'), max_size=8)
"""Texts that look like structure."""
VALUES = st.recursive(
    st.none() | st.integers() | MISLEADING,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(MISLEADING, inner, max_size=4),
    max_leaves=30,
)


def depth_of(value: object) -> int:
    """Return how many arrays and objects are within one another at most."""
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@given(VALUES, st.booleans())
def test_depth_is_counted_outside_of_texts(value: Any, is_ascii: bool) -> None:
    """Exactly, and brackets, quotes and backslashes within texts mean nothing."""
    message = json.dumps(value, ensure_ascii=is_ascii).encode()
    depth = depth_of(value)
    for limit in range(1, depth + 2):
        assert NestingLimit(limit).is_exceeded_by(message) is (depth > limit)


@pytest.mark.parametrize("count", [1, 2046, 2047, 2048, 2049, 9000])
def test_depth_is_counted_across_pieces(count: int) -> None:
    """However much stands before what is deep, and behind it, and whatever is text there."""
    wide = b'[],"[",' * count
    for depth in (DEFAULT_MAX_NESTING, DEFAULT_MAX_NESTING + 1):
        deep = b"[" * (depth - 1) + b"]" * (depth - 1)
        message = b"[%b%b,%b[]]" % (wide, deep, wide)
        assert NestingLimit().is_exceeded_by(message) is (depth > DEFAULT_MAX_NESTING)


def nested(depth: int) -> str:
    """Return a request that is nested so deep."""
    inner = "[" * (depth - 1) + "]" * (depth - 1)
    return f'{{"jsonrpc":"2.0","id":1,"method":"_info","params":{inner}}}'


def test_message_that_is_too_deep_is_refused() -> None:
    """With the number that is accepted, alone and in a batch; one level less is answered."""
    desk = Desk()
    refused = [
        {
            "jsonrpc": "2.0",
            "id": None,
            "error": {
                "code": -32700,
                "message": "Parse error",
                "data": "JSON is nested at most 128 deep (max_nesting)",
            },
        }
    ]
    assert len(desk.ask(nested(DEFAULT_MAX_NESTING))) == 3
    assert desk.ask(nested(DEFAULT_MAX_NESTING + 1)) == refused
    assert len(desk.ask(f"[{nested(DEFAULT_MAX_NESTING - 1)}]")) == 3
    assert desk.ask(f"[{nested(DEFAULT_MAX_NESTING)}]") == refused
    assert len(desk.ask(request(2, "_info"))) == 3


def test_wide_message_is_answered() -> None:
    """Many brackets are no nesting."""
    assert len(Desk().ask(request(1, "_info", [[{}]] * 100_000))) == 3
