# SPDX-License-Identifier: AGPL-3.0-only
"""The in-memory view that answers every read: entries, their order, their encoded JSON.

Pure and not thread-safe: one thread (the event loop's) reads and changes it. It holds only what
is on disk already; `Overlay` shows it with changes that are not.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol

import msgspec

from plexus_registry.backend import Backend, Change, Put, Remove, Source
from plexus_registry.errors import AnswerTooLarge, InvalidValue

_encode = msgspec.json.Encoder().encode

CHECKED_AT_ONCE = 16
"""How many entries of a listing are encoded before their size is looked at."""


class View(Protocol):
    """What the rules need to see of the entries."""

    def get(self, name: str) -> Backend | None:
        """Return the entry of that name, or None."""

    def __iter__(self) -> Iterator[Backend]:
        """Go over all entries, the oldest insertion first."""


class _Entry:
    """A backend with its place in the order and, once it was asked for, its JSON."""

    __slots__ = ("_json", "backend", "position")

    def __init__(self, backend: Backend, position: int) -> None:
        self.backend = backend
        self.position = position
        self._json: bytes | None = None

    @property
    def json(self) -> bytes:
        if self._json is None:
            self._json = _encode(self.backend)
        return self._json


class Catalog:
    """All entries by name, in insertion order.

    An entry keeps its place when it is replaced; one that was removed and comes back is new. The
    place, not the clock, decides the order of a listing: a clock that steps cannot change it.

    Attributes:
        revision: Another number after every change, also of times alone.
    """

    def __init__(self, backends: Iterable[Backend] = ()) -> None:
        # A dict keeps insertion order and a replaced value keeps its place (language reference,
        # 3.3.7): it is the order. What is derived from it is dropped at every change.
        self._entries: dict[str, _Entry] = {}
        self._next_position = 0
        self.revision = 0
        self._active: Counter[Source] = Counter()
        self._inactive: Counter[Source] = Counter()
        self._newest_first: list[_Entry] | None = None
        self._listings: dict[bool, bytes] = {}
        self.apply(map(Put, backends))

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Backend]:
        return (entry.backend for entry in self._entries.values())

    def get(self, name: str) -> Backend | None:
        """Return the entry of that name, or None."""
        entry = self._entries.get(name)
        return entry.backend if entry else None

    def get_json(self, name: str) -> bytes | None:
        """Return the entry of that name as a JSON object, or None."""
        entry = self._entries.get(name)
        return entry.json if entry else None

    def apply(self, changes: Iterable[Change]) -> None:
        """Make the changes visible, in their order."""
        for change in changes:
            held = self._entries.get(change.name)
            if held:
                self._counts_with(held.backend)[held.backend.source] -= 1
            if isinstance(change, Remove):
                self._entries.pop(change.name, None)
                continue
            self._counts_with(change.backend)[change.backend.source] += 1
            if held:
                position = held.position
            else:
                position = self._next_position
                self._next_position += 1
            self._entries[change.name] = _Entry(change.backend, position)
        self.revision += 1
        self._newest_first = None
        self._listings.clear()

    def list_json(
        self,
        *,
        active_only: bool = True,
        limit: int | None = None,
        after: str | None = None,
        max_bytes: int = sys.maxsize,
    ) -> bytes:
        """Return entries as a JSON array, the newest insertion first.

        Args:
            active_only: Leave out entries that were deregistered.
            limit: How many at the most; None for all.
            after: Begin behind the entry of this name, wherever it is in the order.
            max_bytes: How large the array may be. No more than that is encoded and put together,
                for all other clients wait meanwhile. A single entry is given whatever its size, or
                nobody could get to those behind it.

        Raises:
            InvalidValue: If there is no entry named *after*.
            AnswerTooLarge: If it would be larger than *max_bytes*.
        """
        if limit is None and after is None:
            listing = self._listings.get(active_only)
            if listing is None:
                entries = self._select(active_only, 0, None)
                listing = self._listings[active_only] = _join(entries, max_bytes)
            return listing
        start = 0
        if after is not None:
            entry = self._entries.get(after)
            if entry is None:
                raise InvalidValue("after", after, "the name of a backend in the registry")
            start = bisect_right(
                self._ordered(), -entry.position, key=lambda entry: -entry.position
            )
        return _join(self._select(active_only, start, limit), max_bytes)

    def count_by_source(self, *, active: bool | None = None) -> Counter[Source]:
        """Return how many entries there are of each source; the time it takes does not grow.

        Args:
            active: Count active ones only, or inactive ones only; None for all.
        """
        if active is None:
            return self._active + self._inactive
        return +(self._active if active else self._inactive)

    def count_active(self) -> int:
        """Return how many entries are active."""
        return self._active.total()

    def _counts_with(self, backend: Backend) -> Counter[Source]:
        return self._active if backend.is_active else self._inactive

    def _ordered(self) -> list[_Entry]:
        if self._newest_first is None:
            self._newest_first = list(reversed(self._entries.values()))
        return self._newest_first

    def _select(self, active_only: bool, start: int, limit: int | None) -> Iterator[_Entry]:
        ordered = self._ordered()
        remaining = len(ordered) if limit is None else limit
        for index in range(start, len(ordered)):
            if remaining <= 0:
                return
            entry = ordered[index]
            if entry.backend.is_active or not active_only:
                remaining -= 1
                yield entry


def _join(entries: Iterator[_Entry], max_bytes: int) -> bytes:
    parts: list[bytes] = []
    left = max_bytes - len(b"[]")
    while some := [entry.json for entry in islice(entries, CHECKED_AT_ONCE)]:
        left -= sum(map(len, some)) + len(some)
        if left < 0 and len(parts) + len(some) > 1:
            raise AnswerTooLarge(max_bytes)
        parts += some
    return b"[%b]" % b",".join(parts)


class Overlay:
    """A view of the catalog as it will be once the changes made here are committed."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._changed: dict[str, list[Change]] = {}

    def get(self, name: str) -> Backend | None:
        """Return the entry of that name as it will be, or None."""
        changes = self._changed.get(name)
        if changes is None:
            return self._catalog.get(name)
        last = changes[-1]
        return last.backend if isinstance(last, Put) else None

    def __iter__(self) -> Iterator[Backend]:
        changed = self._changed
        for backend in self._catalog:
            changes = changed.get(backend.name)
            if changes is None:
                yield backend
            elif len(changes) == 1 and isinstance(changes[0], Put):
                yield changes[0].backend
        for name, changes in changed.items():
            last = changes[-1]
            if isinstance(last, Put) and (len(changes) > 1 or self._catalog.get(name) is None):
                yield last.backend

    def apply(self, changes: Iterable[Change]) -> None:
        """Add changes, in their order."""
        for change in changes:
            earlier = self._changed.get(change.name)
            if earlier is None:
                self._changed[change.name] = [change]
            elif isinstance(change, Remove):
                self._changed[change.name] = [change]
            elif isinstance(earlier[-1], Put):
                earlier[-1] = change
            else:
                # Removed and back again: a new entry, so it goes to the end of the order.
                del self._changed[change.name]
                self._changed[change.name] = [*earlier, change]

    def growth(self, changes: Iterable[Change]) -> int:
        """Count how many entries *changes* would add, less those that they would remove.

        Args:
            changes: At most one for a name.
        """
        return sum(
            1 if isinstance(change, Put) else -1
            for change in changes
            if isinstance(change, Put) == (self.get(change.name) is None)
        )

    def changes(self) -> list[Change]:
        """Return changes that lead from the catalog to this view, in their order.

        A name has one of them, or two: `Remove` and `Put` if its entry left and came back.
        """
        return [change for changes in self._changed.values() for change in changes]
