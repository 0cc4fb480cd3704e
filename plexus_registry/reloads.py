# SPDX-License-Identifier: AGPL-3.0-only
"""How reloads went: the last one is told until there is another, or a saved file mends its fault.

What mends a fault need not declare anything new: a key that follows its certificate a moment
later, a mode, a token's line. Then nothing is applied, and yet what was told is no longer so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from plexus_registry.errors import AccessFault, ConfigError
from plexus_registry.eventlog import log_mended, log_reload_failed
from plexus_registry.notices import Notices
from plexus_registry.rules import Event, Failed, Reloaded
from plexus_registry.tally import Tally


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """How the last reload went.

    Attributes:
        at: Unix seconds.
        event: `Reloaded`, or `Failed` with the reason.
    """

    at: int
    event: Event


@dataclass(frozen=True, slots=True)
class Standing:
    """What a reading found that has nothing new, while something that was told is still wrong.

    Attributes:
        fault: All that is; None if it is not known what.
    """

    fault: ConfigError | None


class Reloads:
    """Keeps the report of the last reload.

    Args:
        tally: Where they are counted.
        notices: Bounds the lines about failures.
        now: Returns Unix seconds.

    Attributes:
        last: None before the first.
    """

    def __init__(self, tally: Tally, notices: Notices, now: Callable[[], int]) -> None:
        self.last: ReloadReport | None = None
        self._tally = tally
        self._notices = notices
        self._now = now
        self._is_unread = False  # it failed, and not for what was to be written

    def report(self, event: Event) -> None:
        """Take down how a reload went."""
        self._is_unread = False
        self.last = ReloadReport(self._now(), event)
        self._tally.count_reload(has_failed=isinstance(event, Failed))

    def refuse(self, reason: Exception, *, peer: str) -> Failed:
        """Take down, log and return that a reading failed."""
        log_reload_failed(reason, peer=peer, notices=self._notices)
        event = _failed(reason)
        self.report(event)
        self._is_unread = True
        return event

    def note_nothing_new(self, left: Standing | None, *, declared: int, peer: str) -> None:
        """Tell what became of the fault of the last reading, now that one found nothing new.

        Args:
            left: What is still wrong; None if nothing is.
            declared: How many names are declared, and stay as they are.
            peer: Who asked.
        """
        if not self._is_unread or self.last is None:
            return
        if left is None:
            log_mended(peer=peer)
            self.report(Reloaded(count=0, updated=0, removed=0, unchanged=declared))
        elif left.fault is not None and self.last.event != _failed(left.fault):
            self.refuse(left.fault, peer=peer)


def _failed(reason: Exception) -> Failed:
    is_told = isinstance(reason, ConfigError)
    is_toml = is_told and not isinstance(reason, AccessFault)
    what = "Failed to parse TOML config" if is_toml else "Failed to reload"
    return Failed(f"{what}: {reason if is_told else 'internal error, see the log'}")
