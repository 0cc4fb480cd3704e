# SPDX-License-Identifier: AGPL-3.0-only
"""How much of something a peer may do in a time, for what no honest one does often."""

from __future__ import annotations

import time
from collections.abc import Callable


class Allowance:
    """Counts, and looks at the clock only when the count is used up.

    So a peer that was quiet before may do twice as much for once.

    Args:
        amount: How much is allowed in an interval.
        interval_s: How long that is.
        clock: Returns the time in seconds.
    """

    def __init__(
        self, amount: int, interval_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._amount = amount
        self._interval_s = interval_s
        self._clock = clock
        self._since = clock()
        self._left = amount

    def is_exceeded_by(self, amount: int) -> bool:
        """Count *amount* more; tell whether that is too much."""
        self._left -= amount
        if self._left >= 0:
            return False
        now = self._clock()
        if now - self._since < self._interval_s:
            return True
        self._since = now
        self._left = self._amount - amount
        return self._left < 0
