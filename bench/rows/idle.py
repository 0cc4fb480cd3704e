# SPDX-License-Identifier: AGPL-3.0-only
"""What connections cost that do nothing: memory each, and the latency of one that is active."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Final

from bench import servers, wire
from bench.load import Client, Latencies, clients, open_loop
from bench.results import Plan, Row, median, ratios
from bench.rows.contender import register_all
from bench.rows.latency import Waits
from bench.system import memory_kib, raise_descriptor_limit
from bench.wire import Same

MEMORY_MAX_KIB: Final = 12
GETS_PER_S: Final = 1000
SPARE_DESCRIPTORS: Final = 200


def measure_idle(plan: Plan) -> Iterator[Row]:
    """Measure with more and more idle connections, against a server that has none."""
    counts = (10, 100) if plan.is_short else (100, 1000, 10_000)
    limit = raise_descriptor_limit()
    arguments = (*plan.options, "--max-connections", str(counts[-1] + SPARE_DESCRIPTORS))
    with contextlib.ExitStack() as stack:
        empty, crowded = (
            stack.enter_context(servers.registry(plan.folder / f"idle-{name}", *arguments))
            for name in ("empty", "crowded")
        )
        for child in (empty, crowded):
            register_all(child, ["dev"])
        alone, active = (stack.enter_context(clients(child.port, 1)) for child in (empty, crowded))
        for one in (alone, active):
            _latencies(one, plan)
        rss, pss = memory_kib(crowded.pid)
        opened = 0
        for count in counts:
            is_last, what = count == counts[-1], f"{count:,} idle connections"
            if count + SPARE_DESCRIPTORS > limit:
                yield from _not_permitted(count, limit, is_last=is_last)
                continue
            for _ in range(count - opened):
                stack.enter_context(contextlib.closing(wire.connect(crowded.port)))
            opened = count
            time.sleep(0.0 if plan.is_short else 1.0)
            rss_now, pss_now = memory_kib(crowded.pid)
            # Not PSS first: what a few connections cost is less than what sharing changes.
            each, each_pss = (rss_now - rss) / count, (pss_now - pss) / count
            yield Row(
                key=f"idle.memory.{count}",
                what=f"memory for each of {what}",
                figure=f"{each:.1f} KiB (RSS); {each_pss:.1f} KiB (PSS), measured once",
                bar=f"≤ {MEMORY_MAX_KIB} KiB" if is_last else "",
                ratio=f"{each / MEMORY_MAX_KIB:.2f}×",
                margins=[MEMORY_MAX_KIB / each] if is_last else (),
                answers=count,
                samples={"KiB": [each]},
            )
            yield _latency_row(alone, active, plan, count, is_last=is_last)


def _latencies(connections: list[Client], plan: Plan) -> Latencies:
    frame = Same(wire.call("get", name="dev"))
    return open_loop(connections, frame, per_s=GETS_PER_S, seconds=plan.seconds)


def _latency_row(
    alone: list[Client], active: list[Client], plan: Plan, count: int, *, is_last: bool
) -> Row:
    empty, crowded = Waits(), Waits()
    for _ in range(plan.rounds):
        empty.note(_latencies(alone, plan))
        crowded.note(_latencies(active, plan))
    each = ratios(crowded.ms["p99"], empty.ms["p99"])
    return Row(
        key=f"idle.latency.{count}",
        what=f"get p99 of one that is active beside {count:,}",
        figure=f"{crowded.shown('p50', 'p99')}; in an empty server {empty.shown('p50', 'p99')}",
        bar="≤ 2 × empty" if is_last else "",
        ratio=f"{median(each):.2f}×",
        margins=[2 / ratio for ratio in each] if is_last else (),
        answers=crowded.answers + empty.answers,
        samples=crowded.samples("crowded") | empty.samples("empty"),
    )


def _not_permitted(count: int, limit: int, *, is_last: bool) -> Iterator[Row]:
    figure = f"only {limit:,} open files are permitted here (ulimit -Hn)"
    bars = (("memory", f"≤ {MEMORY_MAX_KIB} KiB"), ("latency", "≤ 2 × empty"))
    for name, bar in bars:
        yield Row(
            key=f"idle.{name}.{count}",
            what=f"{name} with {count:,} idle connections",
            figure=figure,
            bar=bar if is_last else "",
        )
