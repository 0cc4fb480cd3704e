# SPDX-License-Identifier: AGPL-3.0-only
"""Plexus streams: the frames that follow a subscription's answer (wire protocol, section 3).

Every stream here yields its data items and one terminal item: ``done``, or ``error`` alone. A
stream's constant parts are encoded once; an item costs one formatting of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from plexus_registry.protocol.counts import Count

_encode = msgspec.json.Encoder().encode

HUB_NOTIFICATION = "result"
"""Notification method of everything but underscore names. Clients ignore it or want this."""

SUBSCRIPTION_ID_MAX = 2**53 - 1
"""JavaScript's largest safe integer."""


def _escaped(text: str | list[str]) -> bytes:
    """Encode a constant for use in a template of the ``%`` operator."""
    return _encode(text).replace(b"%", b"%%")


class Stream:
    """The items of one method.

    Args:
        notification: The ``method`` of its frames.
        provenance: Which activations the content came through.
        content_type: What the content is.
        plexus_hash: Hash of the hub's schema.
        count: Counts the answers; of no interest unless given.

    Attributes:
        count: As given.
    """

    def __init__(
        self,
        *,
        notification: str,
        provenance: Sequence[str],
        content_type: str,
        plexus_hash: str,
        count: Count | None = None,
    ) -> None:
        self.count = count or Count()
        metadata = b'"metadata":{"provenance":%b,"plexus_hash":%b,"timestamp":%%d}' % (
            _escaped(list(provenance)),
            _escaped(plexus_hash),
        )
        self._data = b'{"type":"data",%b,"content_type":%b,"content":%%b}' % (
            metadata,
            _escaped(content_type),
        )
        self._done = b'{"type":"done",%b}' % metadata
        frame = b'{"jsonrpc":"2.0","method":%b,"params":{"subscription":%%d,"result":' % _escaped(
            notification
        )
        self._data_frame = frame + self._data + b"}}"
        self._done_frame = frame + self._done + b"}}"

    def frames(self, subscription: int, timestamp: int, contents: Sequence[bytes]) -> list[bytes]:
        """Return the notifications of a whole stream.

        Args:
            subscription: Its id.
            timestamp: Unix seconds; one for all items of a stream.
            contents: The JSON of each data item's content.
        """
        frames = [self._data_frame % (subscription, timestamp, content) for content in contents]
        frames.append(self._done_frame % (subscription, timestamp))
        return frames

    def items(self, timestamp: int, contents: Sequence[bytes]) -> list[bytes]:
        """Return the items themselves, as a hub wraps them when it calls itself."""
        items = [self._data % (timestamp, content) for content in contents]
        items.append(self._done % timestamp)
        return items


@dataclass(frozen=True, slots=True)
class CallError(Exception):
    """A call through the hub that cannot be routed or whose parameters do not fit.

    It becomes an ``error`` item of an accepted subscription, not a JSON-RPC error.
    """

    message: str
    code: int


class ErrorStream:
    """A stream that ends at once with an ``error`` item; no ``done`` follows it.

    Args:
        notification: The ``method`` of its frame.
        provenance: Which activations it came through.
        plexus_hash: Hash of the hub's schema.
        count: Counts the answers; of no interest unless given.

    Attributes:
        count: As given.
    """

    def __init__(
        self,
        *,
        notification: str,
        provenance: Sequence[str],
        plexus_hash: str,
        count: Count | None = None,
    ) -> None:
        self.count = count or Count()
        self._frame = (
            b'{"jsonrpc":"2.0","method":%b,"params":{"subscription":%%d,"result":{"type":"error",'
            b'"metadata":{"provenance":%b,"plexus_hash":%b,"timestamp":%%d},%%b,'
            b'"recoverable":false}}}'
        ) % (_escaped(notification), _escaped(list(provenance)), _escaped(plexus_hash))

    def frames(self, subscription: int, timestamp: int, contents: Sequence[bytes]) -> list[bytes]:
        """Return the one notification. *contents* is what `content` made of the error."""
        (content,) = contents
        return [self._frame % (subscription, timestamp, content)]

    @staticmethod
    def content(fault: CallError) -> bytes:
        """Encode message and code; the code is a number in quotes (wire protocol, 3.2)."""
        return b'"message":%b,"code":"%d"' % (_encode(fault.message), fault.code)
