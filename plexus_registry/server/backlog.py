# SPDX-License-Identifier: AGPL-3.0-only
"""What waits in this process for clients to go on, bounded over all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol


class Waiting(Protocol):
    """One direction of a connection, as far as it matters here."""

    @property
    def buffered_bytes(self) -> int:
        """How much waits in this process: to be read, or to be a whole message."""

    def cut_for_backlog(self) -> None:
        """End the connection at once: too much waits for too many, and this one is the worst."""


class _Share(NamedTuple):
    since: float
    size: int


class Backlog:
    """Cuts the worst off when more waits than may: who lets the most wait for the longest.

    Only those take part that have more waiting than is worth the count: of output what a transport
    holds before it says so, 64 KiB; of input what `Intake` notes.

    Args:
        max_bytes: How much may wait.
        clock: Returns the time in seconds.
    """

    def __init__(self, max_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_bytes = max_bytes
        self._clock = clock
        self._shares: dict[Waiting, _Share] = {}
        # Never too low: what was drained since the last look counts until there is too much.
        self._total = 0

    def note(self, connection: Waiting) -> None:
        """Take note that something waits, or more than before."""
        share = self._shares.get(connection) or _Share(self._clock(), 0)
        self._set(connection, share)
        if self._total > self.max_bytes:
            for one, known in list(self._shares.items()):
                self._set(one, known)
            while self._total > self.max_bytes and self._shares:
                worst = max(self._shares, key=self._rank)
                self.forget(worst)
                worst.cut_for_backlog()

    def forget(self, connection: Waiting) -> None:
        """Take note that it waits no more, or the connection is closed. Idempotent."""
        share = self._shares.pop(connection, None)
        if share is not None:
            self._total -= share.size

    def _set(self, connection: Waiting, share: _Share) -> None:
        size = connection.buffered_bytes
        self._shares[connection] = share._replace(size=size)
        self._total += size - share.size

    def _rank(self, connection: Waiting) -> tuple[float, int]:
        since, size = self._shares[connection]
        return size * (self._clock() - since), size
