# SPDX-License-Identifier: AGPL-3.0-only
"""The metrics of the registry, in the text format of Prometheus.

Nothing here is imported before somebody asks for them. ``docs/metrics.md`` explains each.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from plexus_registry.service.snapshot import Snapshot, Timings

PREFIX: Final = "plexus_registry"
BOUNDS: Final = range(12, 35, 2)
"""Upper bounds of the buckets, as powers of two in nanoseconds: 4 µs to 17 s."""


def render(snapshot: Snapshot) -> bytes:
    """Return the metrics of *snapshot*, and those of this process."""
    registry = CollectorRegistry()
    registry.register(_Collector(snapshot))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        build = {"version": snapshot.version, "python": platform.python_version()}
        yield InfoMetricFamily(f"{PREFIX}_build", "Versions of registry and Python.", value=build)
        yield from _requests(snapshot)
        yield from _connections(snapshot)
        yield from _entries(snapshot)
        yield from _store(snapshot)
        yield from _reloads(snapshot)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"{PREFIX}_{name}", text, labels=labels)


def _gauge(name: str, text: str, value: float | None = None) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _requests(snapshot: Snapshot) -> Iterator[Metric]:
    requests = _counter("requests", "Requests by method and outcome.", "method", "outcome")
    for method, (answers, errors) in snapshot.methods.items():
        requests.add_metric([method, "ok"], answers - errors)
        requests.add_metric([method, "error"], errors)
    requests.add_metric(["invalid", "error"], snapshot.invalid)
    yield requests
    durations = HistogramMetricFamily(
        f"{PREFIX}_request_duration_seconds",
        "Time to an answer: at once from memory, or deferred until disk or files were ready.",
        labels=["answer"],
    )
    for kind, timings in (("at_once", snapshot.at_once), ("deferred", snapshot.deferred)):
        durations.add_metric([kind], _buckets(timings), timings.total_ns / 1e9)
    yield durations
    faults = _counter("internal_errors", "Requests that met a fault of the registry itself.")
    faults.add_metric([], snapshot.faults)
    yield faults


def _buckets(timings: Timings) -> list[tuple[str, float]]:
    counts = timings.buckets
    bounds = [(repr(2**power / 1e9), sum(counts[: power + 1])) for power in BOUNDS]
    return [*bounds, ("+Inf", sum(counts))]


def _connections(snapshot: Snapshot) -> Iterator[Metric]:
    yield _gauge("connections", "Clients that are connected.", snapshot.connections)
    yield _gauge("connections_max", "Clients that may be connected.", snapshot.max_connections)
    accepted = _counter("connections_accepted", "Connections that were accepted.")
    accepted.add_metric([], snapshot.accepted)
    yield accepted
    refused = _counter("connections_refused", "Connections that were refused.", "reason")
    for reason, count in snapshot.refused.items():
        refused.add_metric([reason], count)
    yield refused


def _entries(snapshot: Snapshot) -> Iterator[Metric]:
    entries = GaugeMetricFamily(
        f"{PREFIX}_entries", "Backends by source and state.", labels=["source", "state"]
    )
    for (source, is_active), count in snapshot.entries.items():
        entries.add_metric([source.value, "active" if is_active else "inactive"], count)
    yield entries
    yield _gauge("entries_max", "Backends that there may be.", snapshot.max_entries)


def _store(snapshot: Snapshot) -> Iterator[Metric]:
    tally = snapshot.tally
    commits = SummaryMetricFamily(
        f"{PREFIX}_commit_requests",
        "Commits, and requests that they carried.",
        count_value=tally.commits,
        sum_value=tally.committed_requests,
    )
    yield commits
    failed = _counter("commits_failed", "Commits that could not be written.")
    failed.add_metric([], tally.failed_commits)
    yield failed
    yield _gauge("store_ok", "Whether the last commit was written.", tally.is_store_ok)
    yield _gauge("database_bytes", "Database and its log on disk.", snapshot.store_bytes)


def _reloads(snapshot: Snapshot) -> Iterator[Metric]:
    tally = snapshot.tally
    reloads = _counter("reloads", "Reloads of declared backends by outcome.", "outcome")
    reloads.add_metric(["ok"], tally.reloads - tally.failed_reloads)
    reloads.add_metric(["error"], tally.failed_reloads)
    yield reloads
    if snapshot.reloaded_at is not None:
        yield _gauge(
            "last_reload_timestamp_seconds", "When the last reload was.", snapshot.reloaded_at
        )
        yield _gauge("last_reload_ok", "Whether the last reload was done.", snapshot.is_reload_ok)
