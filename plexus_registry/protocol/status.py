# SPDX-License-Identifier: AGPL-3.0-only
"""How the registry is doing, as the event that ``registry.status`` answers with."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from plexus_registry.access import Access, Client
from plexus_registry.backend import Source
from plexus_registry.registry import Registry
from plexus_registry.reloads import ReloadReport
from plexus_registry.rules import Event, Failed, Reloaded

MESSAGE_MAX_CHARACTERS: Final = 4096
SEE_LOG: Final = (
    "it failed; the log of the registry says why, and so does this to whoever may write"
)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What only those know who hold sockets and files.

    Attributes:
        store_bytes: What the store takes on disk.
        connections: How many clients are connected.
        max_connections: How many may be.
    """

    store_bytes: int = 0
    connections: int = 0
    max_connections: int = 0


class Entries(msgspec.Struct, frozen=True):
    """How many entries there are."""

    total: int
    active: int
    inactive: int
    by_source: dict[str, int]


class Reload(msgspec.Struct, frozen=True, kw_only=True):
    """How the last reload went, and what it did if it was done."""

    at: int
    ok: bool
    message: str | None = None
    added: int | msgspec.UnsetType = msgspec.UNSET
    updated: int | msgspec.UnsetType = msgspec.UNSET
    removed: int | msgspec.UnsetType = msgspec.UNSET
    unchanged: int | msgspec.UnsetType = msgspec.UNSET


class StoreState(msgspec.Struct, frozen=True):
    """Whether changes can be written, as far as the last one tells."""

    ok: bool
    bytes: int
    last_failure: str | None
    last_failure_at: int | None


class Connections(msgspec.Struct, frozen=True):
    """How many clients are connected, and how many may be."""

    open: int
    max: int


class Status(Event, frozen=True, tag="status"):
    """How the registry is doing."""

    version: str
    started_at: int
    uptime_s: float
    revision: int
    entries: Entries
    reload: Reload | None
    store: StoreState
    connections: Connections


class StatusReport:
    """Makes the event; it takes no longer for more entries.

    Args:
        registry: Whose status it is. It starts now.
        access: Who may write may read paths as well.
        version: Of the program.
        facts: Returns what is known elsewhere. Must not block.

    Attributes:
        started_at: Unix seconds.
        version: As given.
        facts: As given.
    """

    def __init__(
        self, registry: Registry, access: Access, version: str, facts: Callable[[], Facts]
    ) -> None:
        self.started_at = registry.now()
        self.version = version
        self.facts = facts
        self._registry = registry
        self._access = access
        self._began = time.monotonic()

    def for_client(self, client: Client) -> Status:
        """Return the status with as much as a client may know: reasons of failures name files."""
        registry, facts = self._registry, self.facts()
        catalog, tally = registry.catalog, registry.tally
        may_know = self._access.refusal(client) is None
        by_source = catalog.count_by_source()
        total, active = len(catalog), catalog.count_active()
        return Status(
            version=self.version,
            started_at=self.started_at,
            uptime_s=round(time.monotonic() - self._began, 3),
            revision=catalog.revision,
            entries=Entries(
                total=total,
                active=active,
                inactive=total - active,
                by_source={source.value: by_source[source] for source in Source},
            ),
            reload=_reload(registry.last_reload, may_know=may_know),
            store=StoreState(
                ok=tally.is_store_ok,
                bytes=facts.store_bytes,
                last_failure=_reason(tally.last_failure, may_know=may_know),
                last_failure_at=tally.last_failure_at,
            ),
            connections=Connections(facts.connections, facts.max_connections),
        )


def _reason(message: str | None, *, may_know: bool) -> str | None:
    if message is None:
        return None
    return message[:MESSAGE_MAX_CHARACTERS] if may_know else SEE_LOG


def _reload(report: ReloadReport | None, *, may_know: bool) -> Reload | None:
    if report is None:
        return None
    match report.event:
        case Reloaded(added, updated, removed, unchanged):
            return Reload(
                at=report.at,
                ok=True,
                added=added,
                updated=updated,
                removed=removed,
                unchanged=unchanged,
            )
        case Failed(message):
            return Reload(at=report.at, ok=False, message=_reason(message, may_know=may_know))
        case _:
            raise AssertionError(f"no event of a reload: {report.event}")
