# SPDX-License-Identifier: AGPL-3.0-only
"""Frames of a server (RFC 6455): answers as text frames.

All that the registry sends is text frames, unmasked, whole and without extensions (5.2), one for
each message, and none is simpler to encode: a header that depends on the length alone. The
library's way costs more than answering does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_FIN_TEXT: Final = 0x81
_SHORT_MAX: Final = 125
_SHORT: Final = [bytes((_FIN_TEXT, size)) for size in range(_SHORT_MAX + 1)]
_16_BITS: Final = bytes((_FIN_TEXT, 126))
_64_BITS: Final = bytes((_FIN_TEXT, 127))


def text_frames(messages: Iterable[bytes]) -> list[bytes]:
    """Frame each message.

    Args:
        messages: UTF-8 text.

    Returns:
        Headers and messages in turn, to be joined.
    """
    parts = []
    for message in messages:
        size = len(message)
        if size <= _SHORT_MAX:
            parts.append(_SHORT[size])
        elif size <= 0xFFFF:
            parts.append(_16_BITS + size.to_bytes(2, "big"))
        else:
            parts.append(_64_BITS + size.to_bytes(8, "big"))
        parts.append(message)
    return parts
