# SPDX-License-Identifier: AGPL-3.0-only
"""When the next commit waits a little, so that more requests share it.

Clients that ask, wait for their answer and ask again fall into two halves: while the commit of
one half runs, the other half waits for the next, and each commit carries half of what it could.
A wait that is short beside a commit, for those that have just been answered, brings them together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

WORTH_S: Final = 0.001
"""Waits that would be shorter are left out: timers of the event loop are no more precise, and
where commits are that fast there is nothing to gain."""
LONGEST_S: Final = 0.005
LONGEST_PAUSE: Final = 64


class Timer(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """Have it not come."""


Later = Callable[[float, Callable[[], None]], Timer]
"""Calls a function after so many seconds."""


class Gathering:
    """Waits before commits, as long as that pays.

    Clients that do not come back in time, because they have nothing more to ask, make it wait ever
    more seldom: in the end every 64th commit or so waits for nothing.

    Args:
        later: Sets a timer; None for no waits at all.
        is_over: Called when a wait ends because its time is over.
    """

    def __init__(self, later: Later | None, is_over: Callable[[], None]) -> None:
        self._later = later
        self._is_over = is_over
        self._timer: Timer | None = None
        self._wanted = 0
        self._pause = 0  # for how many commits it does not wait
        self._next_pause = 1

    def begin(self, *, answered: int, waiting: int, commit_s: float) -> None:
        """Begin to wait, if it is worth it.

        Args:
            answered: How many requests the last commit carried: so many may come back.
            waiting: How many are there already.
            commit_s: How long that commit took, in seconds.
        """
        patience_s = min(commit_s / 2, LONGEST_S)
        if self._later is None or answered < 2 or patience_s < WORTH_S:
            return
        if self._pause:
            self._pause -= 1
            return
        self._wanted = answered + waiting
        self._timer = self._later(patience_s, self._give_up)

    def holds(self, waiting: int) -> bool:
        """Tell whether the commit is to wait on.

        Args:
            waiting: How many requests are there now.
        """
        if self._timer is not None and waiting >= self._wanted:
            self._cancel()
            self._next_pause = 1
        return self._timer is not None

    def close(self) -> None:
        """Wait no more, now and later."""
        self._cancel()
        self._later = None

    def _give_up(self) -> None:
        self._timer = None
        self._pause = self._next_pause
        self._next_pause = min(2 * self._next_pause, LONGEST_PAUSE)
        self._is_over()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
