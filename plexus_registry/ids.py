# SPDX-License-Identifier: AGPL-3.0-only
"""Ids of entries."""

from __future__ import annotations

import random
import time


def uuid7() -> str:
    """Return a new UUID of version 7 (RFC 9562, 5.7): milliseconds, then 74 random bits.

    Ids that are made one after another are neighbours in an index, so that a commit of many
    touches few pages of the store, however many entries there are.
    """
    milliseconds = time.time_ns() // 1_000_000
    digits = (
        f"{milliseconds & 0xFFFF_FFFF_FFFF:012x}"
        f"7{random.getrandbits(12):03x}"
        f"{0b10 << 62 | random.getrandbits(62):016x}"
    )
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
