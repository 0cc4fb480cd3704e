# SPDX-License-Identifier: AGPL-3.0-only
"""What a store promises, for whichever engine stands behind it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from plexus_registry.backend import Backend, Change


@dataclass(frozen=True, slots=True)
class Salvage:
    """What became of a damaged store.

    Attributes:
        aside: Where the damaged one is now.
        reason: What was wrong with it.
        salvaged: How many entries were read out of it.
        lost: How many others there were; None if nobody can know.
        names: Of entries that were lost, as far as they are known, and not too many.
    """

    aside: str
    reason: str
    salvaged: int
    lost: int | None
    names: tuple[str, ...] = ()


class Store(Protocol):
    """Durable entries. Every method blocks and is called from one thread at a time.

    Raises:
        StoreError: Every method, one of its subclasses; nothing is changed then.
    """

    @property
    def unreadable_names(self) -> Collection[str]:
        """The names of entries that are there and that `load` could not read.

        Nobody was shown them. Who enters something without being asked to leaves them alone.
        """

    def load(self) -> list[Backend]:
        """Return all readable entries, the oldest insertion first.

        An entry that cannot be read is left where it is and reported as a warning.
        """

    def commit(self, changes: Sequence[Change]) -> None:
        """Write all changes, in their order, or none.

        When this returns, a power cut cannot undo them. A `Put` of a known name replaces that
        entry and keeps its place in the insertion order; one of an unreadable name is a new entry,
        and what it replaces is reported as a warning.
        """

    def rebuild(self, entries: Sequence[Backend], reason: str) -> Salvage:
        """Set a damaged store aside and go on in a new one that holds *entries*, in their order."""

    def close(self) -> None:
        """Release the database. The store cannot be used afterwards. Idempotent."""
