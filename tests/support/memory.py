# SPDX-License-Identifier: AGPL-3.0-only
"""A store that is a list in memory, entries to put in it, and offloads that need no thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from plexus_registry.backend import Backend, Change, Put, Source
from plexus_registry.errors import StoreError, StoreRejected, StoreUnavailable
from plexus_registry.store.port import Salvage

T = TypeVar("T")


class MemoryStore:
    """Keeps the promises of `plexus_registry.store.port.Store`, power cuts apart.

    Args:
        backends: What it holds, the oldest insertion first.

    Attributes:
        groups: The changes of every commit that succeeded.
        attempts: How many commits were tried.
        rejected: Names whose `Put` cannot be written.
        rebuilt: The reason of every rebuilding.
        closed: Whether it was closed.
    """

    def __init__(self, backends: Iterable[Backend] = ()) -> None:
        self.groups: list[list[Change]] = []
        self.attempts = 0
        self.rejected: set[str] = set()
        self.rebuilt: list[str] = []
        self.closed = False
        self.unreadable_names: frozenset[str] = frozenset()
        self._entries = {backend.name: backend for backend in backends}
        self._faults: deque[Exception] = deque()

    def fail_next(self, error: Exception) -> None:
        """Raise *error* from the next commit; called again, from the one after that too."""
        self._faults.append(error)

    def load(self) -> list[Backend]:
        """Return all entries, the oldest insertion first."""
        self._check_open()
        return list(self._entries.values())

    def commit(self, changes: Sequence[Change]) -> None:
        """Keep all changes, in their order, or none."""
        self._check_open()
        self.attempts += 1
        if self._faults:
            raise self._faults.popleft()
        for change in changes:
            if isinstance(change, Put) and change.name in self.rejected:
                raise StoreRejected(f"backend {change.name} cannot be written, nothing was")
        for change in changes:
            if isinstance(change, Put):
                self._entries[change.name] = change.backend
            else:
                self._entries.pop(change.name, None)
        self.groups.append(list(changes))

    def rebuild(self, entries: Sequence[Backend], reason: str) -> Salvage:
        """Hold *entries* from now on."""
        self._check_open()
        self.attempts += 1
        if self._faults:
            raise self._faults.popleft()
        self._entries = {backend.name: backend for backend in entries}
        self.rebuilt.append(reason)
        return Salvage("aside", reason, len(entries), 0)

    def close(self) -> None:
        """Refuse everything from now on."""
        self.closed = True

    def _check_open(self) -> None:
        if self.closed:
            raise StoreUnavailable("the store is closed")


def disk_full() -> StoreError:
    """Return what a store raises that has no space left."""
    return StoreUnavailable("database registry.db cannot be used: the disk is full")


class InlineOffload:
    """Runs a job, and reports, before it returns."""

    def __call__(self, job: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """Run *job*, then *done* with what it returned or raised."""
        done(outcome_of(job))


class HeldOffload:
    """Holds jobs until they are released, so that a test decides when a disk is done."""

    def __init__(self) -> None:
        self._held: deque[Callable[[], None]] = deque()

    def __len__(self) -> int:
        return len(self._held)

    def __call__(self, job: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """Hold *job*; when released, it runs and *done* gets what it returned or raised."""
        self._held.append(lambda: done(outcome_of(job)))

    def release(self) -> None:
        """Run the oldest job and report. There has to be one."""
        self._held.popleft()()

    def release_all(self) -> None:
        """Run jobs, also those that come meanwhile, until none is left."""
        while self._held:
            self.release()


def outcome_of(job: Callable[[], T]) -> T | Exception:
    """Return what *job* returns or raises."""
    try:
        return job()
    except Exception as error:
        return error


def entry(name: str, *, port: int = 4444, source: Source = Source.MANUAL, **fields: Any) -> Backend:
    """Return an entry that was made at second 100, with *fields* changed."""
    made = Backend(
        id=f"id of {name}",
        name=name,
        host="127.0.0.1",
        port=port,
        protocol="ws",
        source=source,
        is_active=True,
        registered_at=100,
        created_at=100,
        updated_at=100,
    )
    return msgspec.structs.replace(made, **fields)
