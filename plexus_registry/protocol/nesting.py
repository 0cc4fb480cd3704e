# SPDX-License-Identifier: AGPL-3.0-only
"""How deep the JSON of a message may be nested.

The decoder has a bound of its own, which is none to rely on: from Python 3.14 on it is what is
left of the stack, a hundred thousand levels and more.
"""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import Final

DEFAULT_MAX_NESTING: Final = 128
"""About where the parser of the Rust program, serde_json, ends."""

_STEPS: Final = bytes.maketrans(b"{}[]", b"\x01\xff\x01\xff")
_NO_MARKS: Final = bytes(byte for byte in range(256) if byte not in b'{}[]"')
_PIECE_BYTES: Final = 4096


class NestingLimit:
    """Tells messages that are nested too deep.

    Args:
        max_depth: How many arrays and objects may be within one another, 1 or more.

    Attributes:
        rule: The limit in words, for the client.
        shallow_bytes: JSON of at most so many bytes is within the limit.
    """

    def __init__(self, max_depth: int = DEFAULT_MAX_NESTING) -> None:
        self._max_depth = max_depth
        self.shallow_bytes = 2 * max_depth + 1
        self.rule = f"JSON is nested at most {max_depth} deep (max_nesting)"

    def is_exceeded_by(self, message: bytes) -> bool:
        """Tell whether a message, which is JSON in UTF-8, is nested deeper."""
        if message.count(b"[") + message.count(b"{") <= self._max_depth:
            return False
        if b"\\" in message:  # only within texts (RFC 8259, 7)
            message = message.replace(b"\\\\", b"").replace(b'\\"', b"")
        # Quotes side by side are a text without brackets, or an end and a beginning.
        marks = message.translate(_STEPS, _NO_MARKS).replace(b'""', b"")
        depth, is_within_text = 0, False
        for start in range(0, len(marks), _PIECE_BYTES):
            parts = marks[start : start + _PIECE_BYTES].split(b'"')
            steps = array("b", b"".join(parts[is_within_text::2]))
            levels = list(accumulate(steps, initial=depth))
            if max(levels) > self._max_depth:
                return True
            depth = levels[-1]
            is_within_text ^= len(parts) % 2 == 0
        return False
