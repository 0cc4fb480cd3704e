# SPDX-License-Identifier: AGPL-3.0-only
"""Tells when the declared files may have changed: inotify, and a poll where that cannot be had.

The watch owns the one inotify instance. It reads no file: `chain.signature` tells it that files
differ, and whoever it calls decides by the digest of what they hold.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from plexus_registry.config import chain
from plexus_registry.config.inotify import Inotify, InotifyError

logger = logging.getLogger(__name__)

DEBOUNCE_S = 0.2
MAX_DEBOUNCES = 5
"""After so many times the debounce, files that still change are reported as they are."""

INOTIFY = "inotify"
POLL = "poll"
POLL_INTERVAL_S = 30.0
_MAX_ROUNDS = 10


class Watch:
    """Watch on the main file *path* and its drop-ins.

    Events start a burst. While it lasts, nothing is read from inotify: the files are looked at
    once per debounce until they stand still, so neighbours in the same directory that are written
    all the time, a database for instance, can neither delay a report nor cost more than a few
    calls of stat() per debounce (the kernel merges equal events that wait to be read). A burst in
    which no declared file changed is not reported.

    Every poll interval the files are looked at as well, for what inotify does not tell: a mount
    over a file or directory, or a file system that changes on another machine. Where inotify
    cannot be had, `on_change` is called every poll interval, until it can be had again.

    Args:
        path: The main file.
        on_change: Called in the event loop when declared files may have changed, with what told
            so: `INOTIFY` or `POLL`.
        loop: The event loop, from whose thread all calls come.
        also: Other files to watch like them.
        debounce_s: How long the files have to stand still before a change is reported.
        poll_interval_s: See above.
    """

    def __init__(
        self,
        path: Path,
        on_change: Callable[[str], None],
        *,
        loop: asyncio.AbstractEventLoop,
        also: Sequence[Path] = (),
        debounce_s: float = DEBOUNCE_S,
        poll_interval_s: float = POLL_INTERVAL_S,
    ) -> None:
        self._path = path
        self._also = also
        self._on_change = on_change
        self._loop = loop
        self._debounce_s = debounce_s
        self._poll_interval_s = poll_interval_s
        self._inotify: Inotify | None = None
        self._has_warned = False
        self._has_overflowed = False
        self._is_settled = True
        self._reported: chain.Signature = ()
        self._seen: chain.Signature = ()
        self._burst_timer: asyncio.TimerHandle | None = None
        self._burst_ends_at = 0.0
        self._poll_timer: asyncio.TimerHandle | None = None

    @property
    def is_polling(self) -> bool:
        """Tell whether the watch runs without inotify."""
        return self._poll_timer is not None and self._inotify is None

    def start(self) -> None:
        """Begin to watch. Start first and read the files then, so that no change is missed."""
        if self._poll_timer is not None:
            return
        self._arm()
        self._note_reported(self._signature())
        self._listen()
        self._poll_timer = self._loop.call_later(self._poll_interval_s, self._poll)

    def note_reading(self) -> None:
        """Take note that the files are going to be read now, whoever asked for it.

        Otherwise a change that is undone at once would look as if nothing had changed since the
        last report, though what was read meanwhile is not what is there.
        """
        if self._poll_timer is not None:
            self._note_reported(self._signature())

    def stop(self) -> None:
        """End the watch; may be called at any time, any number of times."""
        for timer in (self._poll_timer, self._burst_timer):
            if timer is not None:
                timer.cancel()
        self._poll_timer = self._burst_timer = None
        self._disarm()
        self._has_warned = False

    def _arm(self) -> None:
        """Watch the directories that matter now."""
        try:
            if self._inotify is None:
                self._inotify = Inotify()
            self._watch_directories(self._inotify)
        except InotifyError as error:
            self._disarm()
            self._warn(error)
        else:
            if self._has_warned:
                self._has_warned = False
                logger.info("watching declared backends with inotify again path=%s", self._path)

    def _watch_directories(self, inotify: Inotify) -> None:
        """Set watches until they fit what is there: a directory may change before its watch is.

        What changes after that comes as an event, and what changed before is seen by whoever
        looks at the files after this.
        """
        directories = chain.directories(self._path, self._also)
        for _ in range(_MAX_ROUNDS):
            is_complete = inotify.watch(directories)
            found, directories = directories, chain.directories(self._path, self._also)
            if is_complete and found == directories:
                return
        raise InotifyError(f"the directories of {self._path} change all the time")

    def _warn(self, error: InotifyError) -> None:
        level = logging.DEBUG if self._has_warned else logging.WARNING
        self._has_warned = True
        logger.log(
            level,
            "cannot watch declared backends, reading them every %g s path=%s reason=%s%s",
            self._poll_interval_s,
            self._path,
            error,
            f": {error.advice}" if error.advice else "",
        )

    def _disarm(self) -> None:
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    def _listen(self) -> None:
        if self._inotify is not None:
            self._loop.add_reader(self._inotify.fileno(), self._begin_burst, INOTIFY)

    def _begin_burst(self, cause: str) -> None:
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fileno())
        self._burst_ends_at = self._loop.time() + MAX_DEBOUNCES * self._debounce_s
        self._seen = self._look()
        self._continue_later(cause)

    def _continue_later(self, cause: str) -> None:
        self._burst_timer = self._loop.call_later(self._debounce_s, self._continue_burst, cause)

    def _continue_burst(self, cause: str) -> None:
        now = self._look()
        if now != self._seen and self._loop.time() < self._burst_ends_at:
            self._seen = now
            self._continue_later(cause)
            return
        self._burst_timer = None
        self._listen()
        self._report_if_changed(now, cause)

    def _look(self) -> chain.Signature:
        """Take the waiting events, watch what has to be watched now, then look at the files."""
        if self._inotify is not None:
            self._has_overflowed |= self._inotify.drain()
            self._arm()
        return self._signature()

    def _signature(self) -> chain.Signature:
        return chain.signature(self._path, self._also)

    def _report_if_changed(self, now: chain.Signature, cause: str) -> None:
        if now != self._reported or self._has_overflowed or not self._is_settled:
            self._note_reported(now)
            self._on_change(cause)

    def _note_reported(self, files: chain.Signature) -> None:
        """Note that whoever reads the files from now on finds what *files* shows, or newer."""
        self._reported = files
        self._has_overflowed = False
        self._is_settled = chain.is_settled(files, now_ns=time.time_ns())

    def _poll(self) -> None:
        self._poll_timer = self._loop.call_later(self._poll_interval_s, self._poll)
        if self._burst_timer is not None:
            return
        if self._inotify is not None:
            self._begin_burst(POLL)
            return
        self._arm()
        self._note_reported(self._signature())
        self._listen()
        self._on_change(POLL)
