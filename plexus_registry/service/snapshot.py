# SPDX-License-Identifier: AGPL-3.0-only
"""What the registry was at one moment, for another thread to make metrics of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from plexus_registry.backend import Source
from plexus_registry.protocol.counts import Durations
from plexus_registry.protocol.status import Facts
from plexus_registry.registry import Registry
from plexus_registry.rules import Failed
from plexus_registry.server.listener import Server
from plexus_registry.tally import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """How long answers took.

    Attributes:
        buckets: As of `protocol.counts.Durations`.
        total_ns: All together.
    """

    buckets: tuple[int, ...]
    total_ns: int

    @classmethod
    def of(cls, durations: Durations) -> Self:
        """Copy what was counted so far."""
        return cls(buckets=tuple(durations.buckets), total_ns=durations.total_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the metrics are made of, as it was at one moment.

    Attributes:
        version: Of the program.
        methods: Answers and, of them, errors, by method.
        invalid: Requests that reached no method.
        faults: Internal errors.
        at_once: Of answers from memory.
        deferred: Of answers that had to wait for disk or files.
        connections: How many are open.
        max_connections: How many may be.
        accepted: Connections since the start.
        refused: Of them, by reason.
        entries: How many there are, by source and whether they are active.
        max_entries: How many there may be.
        tally: Commits and reloads since the start.
        reloaded_at: When the last reload was, in Unix seconds; None for never.
        is_reload_ok: Whether it was done.
        store_bytes: What the database takes on disk.
    """

    version: str
    methods: Mapping[str, tuple[int, int]]
    invalid: int
    faults: int
    at_once: Timings
    deferred: Timings
    connections: int
    max_connections: int
    accepted: int
    refused: Mapping[str, int]
    entries: Mapping[tuple[Source, bool], int]
    max_entries: int
    tally: Tally
    reloaded_at: int | None
    is_reload_ok: bool
    store_bytes: int


def take(registry: Registry, server: Server, facts: Facts, *, max_entries: int) -> Snapshot:
    """Return what there is now. It takes no longer for more entries."""
    hub, last = server.hub, registry.last_reload
    counts, catalog = hub.counts, registry.catalog
    by_state = {state: catalog.count_by_source(active=state) for state in (True, False)}
    return Snapshot(
        version=hub.status.version,
        methods={name: (one.answers, one.errors) for name, one in counts.methods.items()},
        invalid=counts.invalid.answers,
        faults=counts.faults,
        at_once=Timings.of(counts.at_once),
        deferred=Timings.of(counts.deferred),
        connections=facts.connections,
        max_connections=facts.max_connections,
        accepted=server.counts.accepted,
        refused=dict(server.counts.refused),
        entries={
            (source, state): count[source] for source in Source for state, count in by_state.items()
        },
        max_entries=max_entries,
        tally=replace(registry.tally),
        reloaded_at=last.at if last else None,
        is_reload_ok=last is not None and not isinstance(last.event, Failed),
        store_bytes=facts.store_bytes,
    )
