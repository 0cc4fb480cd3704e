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
        if self._unsaid:
            message = "too many %s to log each of them, left out=%d"
            self._logger.warning(message, self._what, self._unsaid, stacklevel=2)
            self._unsaid = 0
        self._left -= 1
        return True


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
        self._kinds: dict[str, tuple[float, int, int]] = {}

    def warning(self, message: str, *values: object) -> None:
        """Log at level WARNING, unless enough lines of this kind were logged just before.

        Args:
            message: Constant, with ``%`` for *values*; it is the kind.
            values: What is different each time.
        """
        self._say(logging.WARNING, message, values, message, {})

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
        self._say(level, message, values, kind or message, {"exc_info": exc_info, "extra": extra})

    def _say(
        self, level: int, message: str, values: tuple[object, ...], kind: str, more: dict[str, Any]
    ) -> None:
        now = self._clock()
        since, count, unsaid = self._kinds.get(kind, (now, 0, 0))
        if now - since >= INTERVAL_S:
            since, count = now, 0
        if count >= self._burst:
            self._kinds[kind] = (since, count, unsaid + 1)
            return
        self._kinds.pop(kind, None)
        self._kinds[kind] = (since, count + 1, 0)
        if len(self._kinds) > KINDS_MAX:
            del self._kinds[next(iter(self._kinds))]
        if unsaid:
            message, values = f"{message} (and %d times more before)", (*values, unsaid)
        self._logger.log(level, message, *values, stacklevel=3, **more)
