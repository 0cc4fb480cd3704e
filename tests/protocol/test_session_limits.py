# SPDX-License-Identifier: AGPL-3.0-only
"""What one message may cost: a batch has a limit, and what it gathers is counted."""

from __future__ import annotations

import tracemalloc

import pytest

from plexus_registry.protocol.batch import DEFAULT_MAX_BATCH
from support.sessions import Desk, request


@pytest.mark.parametrize("entry", [1, {}, {"a": [[1, "],"], {"b": ","}]}, request(1, "_info", [])])
def test_batch_has_a_limit(entry: object) -> None:
    """A batch of as many entries as allowed is answered; one entry more gets one error instead."""
    desk = Desk()
    array, *_ = desk.ask([entry] * DEFAULT_MAX_BATCH)
    assert len(array) == DEFAULT_MAX_BATCH
    assert desk.ask([entry] * (DEFAULT_MAX_BATCH + 1)) == [
        {
            "jsonrpc": "2.0",
            "id": None,
            "error": {
                "code": -32600,
                "message": "Invalid request",
                "data": "a batch has at most 1024 entries (max_batch)",
            },
        }
    ]
    assert not desk.session.is_busy
    assert len(desk.ask(request(2, "_info"))) == 3


def test_only_entries_count_for_the_limit() -> None:
    """Commas inside of a request or of an entry are no entries; broken arrays stay parse errors."""
    desk = Desk()
    many = list(range(2 * DEFAULT_MAX_BATCH))
    assert len(desk.ask(request(1, "_info", many))) == 3
    assert len(desk.ask([request(1, "_info", many)])) == 3
    [answer] = desk.ask("[" + "1," * 500 + "," * 1000 + "1]")
    assert answer["error"]["code"] == -32700


def test_long_batch_takes_no_memory() -> None:
    """A megabyte of entries is refused without a look at each."""
    desk = Desk()
    message = b"[" + b"1," * 2**19 + b"1]"
    tracemalloc.start()
    try:
        desk.receive(message)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(message)
    assert len(desk.sent()) == 1


def test_unsent_bytes_count_what_a_batch_gathers() -> None:
    """The array of a batch counts as it grows, also when what stood before it is taken."""
    desk = Desk()
    desk.receive([5] * 100)
    for _ in range(50):
        desk.session.advance()
    assert desk.session.unsent_bytes > 50 * 50
    assert desk.sent() == []
    assert desk.session.unsent_bytes > 50 * 50
    desk.advance()
    assert len(desk.sent()) == 1
    assert desk.session.unsent_bytes == 0
