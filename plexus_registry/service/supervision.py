# SPDX-License-Identifier: AGPL-3.0-only
"""Keeps the service manager informed about a running service (sd_notify(3))."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from plexus_registry.reloads import ReloadReport
from plexus_registry.rules import Failed, Reloaded
from plexus_registry.service.service import OPENING, Service
from plexus_registry.service.systemd import Notifier

STATUS_INTERVAL_S = 10.0
EXTENSION_S = 30.0
"""How much more time a start is given, again and again, while the database is opened."""
EXTENSIONS_MAX = 60
"""After so many, ten minutes in all, the database does not take long: it hangs."""


class Supervision:
    """Reports readiness, reloads, status, and that both the event loop and the store answer.

    Args:
        service: Not started yet.
        notifier: Where reports go.
        watchdog_interval_s: How often to feed the watchdog; None for no watchdog.
    """

    def __init__(
        self, service: Service, notifier: Notifier, watchdog_interval_s: float | None
    ) -> None:
        self._service = service
        self._notifier = notifier
        self._watchdog_interval_s = watchdog_interval_s
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._is_probing = False
        self._extensions = 0
        self._reloads = 0

    def starting(self) -> None:
        """Ask for patience while the database is opened, which may mean to migrate it."""
        if self._service.phase == OPENING and self._extensions < EXTENSIONS_MAX:
            self._extensions += 1
            self._notifier.status(f"{OPENING} {self._service.settings.database}")
            self._notifier.extend_timeout(EXTENSION_S)
        self._again("starting", EXTENSION_S / 3, self.starting)

    def ready(self) -> None:
        """Say that the service serves, and begin to watch it."""
        self._cancel("starting")
        self._service.on_reload = self._reload_begins
        self._service.on_reloaded = self._reload_ends
        self._show_status()
        self._notifier.ready()
        if self._watchdog_interval_s is not None:
            self._probe()

    def stopping(self) -> None:
        """Say that the service stops; the watchdog is fed until it has."""
        self._cancel("status")
        self._notifier.stopping()
        self._notifier.status("stopping: finishing what was accepted")

    def stopped(self) -> None:
        """Let go of everything."""
        for name in list(self._timers):
            self._cancel(name)

    def _reload_begins(self) -> None:
        self._reloads += 1
        self._notifier.reloading(time.monotonic_ns() // 1000)

    def _reload_ends(self) -> None:
        # Also after a failure: RELOADING=1 must always be followed by READY=1. One reload's files
        # may be read while another's changes are written: ready is who has finished both.
        self._reloads -= 1
        if not self._reloads:
            self._notifier.ready()
        self._show_status()

    def _show_status(self) -> None:
        if self._notifier.is_active:
            self._notifier.status(status_text(self._service))
            self._again("status", STATUS_INTERVAL_S, self._show_status)

    def _probe(self) -> None:
        """Feed the watchdog once the store's thread has answered.

        A hanging event loop does not come here; a hanging store does not answer. Either way the
        watchdog starves.
        """
        assert self._watchdog_interval_s is not None
        if not self._is_probing:
            self._is_probing = True
            self._service.probe_store(self._store_answers)
        self._again("watchdog", self._watchdog_interval_s, self._probe)

    def _store_answers(self) -> None:
        self._is_probing = False
        self._notifier.alive()

    def _again(self, name: str, delay_s: float, function: Callable[[], None]) -> None:
        self._cancel(name)
        self._timers[name] = self._loop.call_later(delay_s, function)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


def status_text(service: Service) -> str:
    """Say in one line what a service holds and how its last reload went."""
    registry = service.registry
    sources = registry.catalog.count_by_source()
    held = ", ".join(f"{count} {source.value}" for source, count in sorted(sources.items()))
    count = len(registry.catalog)
    kind = "backend" if count == 1 else "backends"
    text = f"serving {count} {kind} ({held})" if held else "serving no backends"
    if service.salvage is not None:
        text += f"; the database was DAMAGED and is set aside: {service.salvage.aside}"
    return f"{text}; {_reload_text(registry.last_reload)}" if registry.last_reload else text


def _reload_text(report: ReloadReport) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report.at))
    match report.event:
        case Reloaded(count, updated, removed, _):
            return f"last reload {at}: {count} added, {updated} updated, {removed} removed"
        case Failed(message):
            return f"last reload {at} FAILED: {message}"
        case _:
            raise AssertionError(f"no event of a reload: {report.event}")
