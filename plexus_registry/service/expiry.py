# SPDX-License-Identifier: AGPL-3.0-only
"""Tells the log in good time that the certificate in use is about to expire, and when it has."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from plexus_registry.notices import Notices

logger = logging.getLogger(__name__)

DAY_S: Final = 86400.0
AHEAD_S: Final = (14 * DAY_S, 3 * DAY_S, DAY_S, 0.0)
"""How long before the end something is logged."""
LOOK_INTERVAL_S: Final = 3600.0
"""Timers run by a clock that stands still while the machine sleeps, and nobody sets."""


class Timer(Protocol):
    """What can be called off, as `asyncio.TimerHandle`."""

    def cancel(self) -> object:
        """Call it off."""


class Expiry:
    """Follows one certificate after another to its end.

    Args:
        path: Of the certificate, for the log.
        later: Calls a function after seconds, as `asyncio.loop.call_later`.
        clock: Returns the time in Unix seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        later: Callable[[float, Callable[[], None]], Timer],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._later = later
        self._clock = clock
        self._notices = Notices(logger)
        self._expires_at = 0.0
        self._told = 0
        self._timer: Timer | None = None

    def follow(self, expires_at: float) -> None:
        """Begin with a certificate in the place of the former; *expires_at* in Unix seconds."""
        self.stop()
        self._expires_at = expires_at
        self._told = 0
        self._look()

    def remind(self) -> None:
        """Say that the certificate in use has expired, if it has; for who has just reloaded."""
        if self._timer is not None and self._clock() >= self._expires_at:
            self._say_expired()

    def stop(self) -> None:
        """Follow none."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        left_s = self._expires_at - self._clock()
        due = sum(left_s <= ahead_s for ahead_s in AHEAD_S)
        if due > self._told:
            if left_s <= 0:
                self._say_expired()
            else:
                logger.warning(
                    "TLS certificate expires soon path=%s expires=%s, put a renewed one in its"
                    " place: clients will refuse this one",
                    self._path,
                    date_of(self._expires_at),
                )
        self._told = due
        next_s = min((left_s - ahead_s for ahead_s in AHEAD_S[due:]), default=LOOK_INTERVAL_S)
        self._timer = self._later(min(next_s, LOOK_INTERVAL_S), self._look)

    def _say_expired(self) -> None:
        self._notices.log(
            logging.ERROR,
            "TLS certificate has expired and is served on path=%s expired=%s, put a renewed one in"
            " its place: clients refuse this one",
            self._path,
            date_of(self._expires_at),
        )


def date_of(at: float) -> str:
    """Return a time, in Unix seconds, as date and time in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
