# SPDX-License-Identifier: AGPL-3.0-only
"""Log lines that clients can cause at will, and that must not fill the log for that."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

INTERVAL_S: Final = 60.0


class Notices:
    """Logs each kind of message once in `INTERVAL_S`, and tells how many it kept to itself.

    Args:
        logger: Where lines go.
        clock: Returns the time in seconds.
    """

    def __init__(
        self, logger: logging.Logger, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}

    def warning(self, message: str, *values: object) -> None:
        """Log at level WARNING, unless a line of this kind was logged just before.

        Args:
            message: Constant, with ``%`` for *values*; it is the kind.
            values: What is different each time.
        """
        now = self._clock()
        logged_at, unsaid = self._kinds.get(message, (now - INTERVAL_S, 0))
        if now - logged_at < INTERVAL_S:
            self._kinds[message] = (logged_at, unsaid + 1)
            return
        self._kinds[message] = (now, 0)
        if unsaid:
            self._logger.warning(f"{message} (and %d times more before)", *values, unsaid)
        else:
            self._logger.warning(message, *values)
