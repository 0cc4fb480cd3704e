# SPDX-License-Identifier: AGPL-3.0-only
"""How many entries a batch may have."""

from __future__ import annotations

from typing import Final

import msgspec

from plexus_registry.protocol.jsonrpc import MALFORMED, NULL

DEFAULT_MAX_BATCH: Final = 1024
"""An answer is at least thirty times as long as the shortest entry, and nobody else can be served
while an array is taken apart."""


class BatchLimit:
    """Tells arrays that are too long without a look at what is beyond.

    Args:
        max_entries: How many there may be, 1 or more.
    """

    def __init__(self, max_entries: int = DEFAULT_MAX_BATCH) -> None:
        self.max_entries = max_entries
        entry = msgspec.Raw(NULL)
        self._decode = msgspec.json.Decoder(
            msgspec.defstruct(
                "Entries",
                [(f"entry_{number}", msgspec.Raw, entry) for number in range(max_entries)],
                array_like=True,
                forbid_unknown_fields=True,
            )
        ).decode

    def is_exceeded_by(self, message: bytes) -> bool:
        """Tell whether a message is an array with more entries."""
        if message.count(b",") < self.max_entries:
            return False
        try:
            self._decode(message)
        except msgspec.ValidationError:
            return message.lstrip().startswith(b"[")
        except MALFORMED:
            pass
        return False
