# SPDX-License-Identifier: AGPL-3.0-only
"""Log lines that clients can cause at will, and that must not fill the log for that."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

PAUSE_S: Final = 10.0
INTERVAL_S: Final = 60.0
KINDS_MAX: Final = 256
"""How many kinds are remembered; past it the one that was logged first is forgotten."""
PLACES_BURST: Final = 60
PLACES_PER_S: Final = 1
"""How many lines are told by the place of their clients: in `INTERVAL_S` far fewer than
`KINDS_MAX`, so that whoever has many networks does not have others forgotten."""


class Allowance:
    """Lets many lines pass at once and then some each second, and tells how many it left out.

    Once it is used up it stays shut for `PAUSE_S`, so that a flood is told about now and then
    rather than with each line that passes.

    Args:
        logger: Where the count goes, at level WARNING, before the next line that passes.
        what: What the lines are about, in the plural.
        burst: How many pass at once.
        per_s: How many more pass each second.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        logger: logging.Logger,
        what: str,
        *,
        burst: float,
        per_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._what = what
        self._burst = burst
        self._per_s = per_s
        self._clock = clock
        self._left = burst
        self._at = clock()
        self._unsaid = 0

    def take(self) -> bool:
        """Tell whether another line may be logged now; one that may not is counted."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < (max(1.0, self._per_s * PAUSE_S) if self._unsaid else 1.0):
            self._unsaid += 1
            return False
        self.tell_left_out()
        self._left -= 1
        return True

    def tell_left_out(self) -> None:
        """Log how many were left out and not told of yet."""
        if self._unsaid:
            message = "too many %s to log each of them, left out=%d"
            self._logger.warning(message, self._what, self._unsaid, stacklevel=3)
            self._unsaid = 0


class Notices:
    """Logs each kind of line a few times in `INTERVAL_S`, and tells how many it kept to itself.

    Args:
        logger: Where lines go.
        burst: How often a kind is logged in `INTERVAL_S`.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        logger: logging.Logger,
        *,
        burst: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._burst = burst
        self._clock = clock
        # Since when, how often since then, and how often of that it was kept back.
        self._kinds: dict[tuple[str, str], tuple[float, int, int]] = {}
        self._places = Allowance(
            logger, "lines on clients", burst=PLACES_BURST, per_s=PLACES_PER_S, clock=clock
        )

    def warning(self, message: str, *values: object, place: str = "") -> None:
        """Log at level WARNING, unless enough lines of this kind were logged just before.

        Args:
            message: Constant, with ``%`` for *values*; it is the kind.
            values: What is different each time.
            place: Where the client is: each place has a kind of its own, so that one does not
                hide another. There are limits on all of them together.
        """
        self._say(logging.WARNING, message, values, (message, place), {})

    def log(
        self,
        level: int,
        message: str,
        *values: object,
        kind: str = "",
        exc_info: BaseException | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """Log at any level, unless enough lines of this kind were logged just before.

        Args:
            level: Of `logging`.
            message: Constant, with ``%`` for *values*.
            values: What is different each time.
            kind: What counts as the same; the message unless given.
            exc_info: As for `logging.Logger.log`.
            extra: As for `logging.Logger.log`.
        """
        more = {"exc_info": exc_info, "extra": extra}
        self._say(level, message, values, (kind or message, ""), more)

    def tell_left_out(self) -> None:
        """Log what was kept back and not told of yet, for nothing more comes."""
        for kind, (_, _, unsaid) in self._kinds.items():
            self._tell_left_out(kind, unsaid)
        self._kinds.clear()
        self._places.tell_left_out()

    def _tell_left_out(self, kind: tuple[str, str], unsaid: int) -> None:
        if unsaid:
            start = kind[0].partition("=")[0].partition("%")[0]
            what = (start.rpartition(" ")[0] if start != kind[0] else "") or kind[0]
            place = f" place={kind[1]}" if kind[1] else ""
            message = "as before, and not logged each time: %s times=%d%s"
            self._logger.warning(message, what, unsaid, place, stacklevel=4)

    def _say(
        self,
        level: int,
        message: str,
        values: tuple[object, ...],
        kind: tuple[str, str],
        more: dict[str, Any],
    ) -> None:
        now = self._clock()
        since, count, unsaid = self._kinds.get(kind, (now, 0, 0))
        if now - since >= INTERVAL_S:
            since, count = now, 0
        if count >= self._burst:
            self._kinds[kind] = (since, count, unsaid + 1)
            return
        if kind[1] and not self._places.take():
            return
        self._kinds.pop(kind, None)
        self._kinds[kind] = (since, count + 1, 0)
        if len(self._kinds) > KINDS_MAX:
            first = next(iter(self._kinds))
            self._tell_left_out(first, self._kinds.pop(first)[2])
        if unsaid:
            message, values = f"{message} (and %d times more before)", (*values, unsaid)
        self._logger.log(level, message, *values, stacklevel=3, **more)
