# SPDX-License-Identifier: AGPL-3.0-only
"""How long to wait before the next attempt."""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_S = 0.1


class Backoff:
    """Exponential back-off with full jitter: many clients of one registry spread out by chance.

    After "Exponential Backoff And Jitter" by Marc Brooker, AWS Architecture Blog, 2015.

    Args:
        max_s: No delay is longer.
        uniform: Draws a number between two; replaced in tests.
    """

    def __init__(
        self, max_s: float, *, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._max_s = max_s
        self._uniform = uniform
        self._bound_s = min(FIRST_S, max_s)

    def next(self) -> float:
        """Return the next delay in seconds: from 0 to a bound that doubles each time."""
        delay_s = self._uniform(0.0, self._bound_s)
        self._bound_s = min(2 * self._bound_s, self._max_s)
        return delay_s

    def reset(self) -> None:
        """Begin anew, after an attempt that was good."""
        self._bound_s = min(FIRST_S, self._max_s)
