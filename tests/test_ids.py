# SPDX-License-Identifier: AGPL-3.0-only
"""Ids of entries: valid, distinct, in the order of time."""

from __future__ import annotations

import time
import uuid

from plexus_registry.ids import uuid7


def test_ids_are_uuids_of_version_7_that_hold_the_time() -> None:
    """As RFC 9562 writes them: lower case, with dashes, the time in front."""
    before = time.time_ns() // 1_000_000
    ids = [uuid7() for _ in range(1000)]
    after = time.time_ns() // 1_000_000
    for text in ids:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert before <= parsed.int >> 80 <= after


def test_ids_are_distinct() -> None:
    """Also within one millisecond."""
    assert len({uuid7() for _ in range(10_000)}) == 10_000


def test_later_ids_sort_behind_earlier_ones() -> None:
    """So that an index grows at its end."""
    first = uuid7()
    time.sleep(0.002)
    assert first < uuid7()
