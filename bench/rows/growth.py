# SPDX-License-Identifier: AGPL-3.0-only
"""What a larger registry costs: rates, start, memory and disk from 10 to 100,000 entries."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench import servers, wire
from bench.load import Client, clients, closed_loop
from bench.results import Plan, Row, median, rate, ratios, spread
from bench.rows.contender import register_frame
from bench.servers import Child
from bench.system import memory_kib
from bench.wire import Cycle, Each
from plexus_registry.backend import Backend, Put, Source
from plexus_registry.store.sqlite import SqliteStore

CONNECTIONS: Final = 16
ENTRY_BYTES_MAX: Final = 2048
START_MAX_S: Final = 2.0
STARTS: Final = 3
METHODS: Final = {
    "get": "get",
    "register": "register new names",
    "ping": "ping ten names",
    "ping-all": "ping all over the registry",
    "list": "list with limit 100",
}
"""What is asked of registries of all sizes, with how it is shown."""

_names = (f"g{number:07d}" for number in itertools.count())


@dataclass
class Grown:
    """A registry of some size.

    Attributes:
        child: Its daemon.
        clients: Connections to it.
        size: How many entries it has.
        rates: Answers a second of each round, by method.
        answers: By method.
    """

    child: Child
    clients: list[Client]
    size: int
    rates: dict[str, list[float]] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)


@dataclass
class Starts:
    """Starts of a registry of some size, one after another.

    Attributes:
        folder: With its database.
        size: How many entries it has.
        database_bytes: Of its database before the first start.
        took_s: How long each start took, to the first answer.
        pss_kib: Its memory after each.
    """

    folder: Path
    size: int
    database_bytes: int
    took_s: list[float] = field(default_factory=list)
    pss_kib: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path, size: int) -> Starts:
        """Make a registry with so many entries."""
        database = folder / "registry.db"
        fill(database, size)
        return cls(folder, size, database.stat().st_size)

    def again(self, plan: Plan) -> None:
        """Start it and stop it again."""
        start = time.perf_counter()
        with servers.registry(self.folder, *plan.options) as child:
            with contextlib.closing(wire.connect(child.port)) as sock:
                wire.ask(sock, wire.call("get", name="backend-000001"))
            self.took_s.append(time.perf_counter() - start)
            self.pss_kib.append(memory_kib(child.pid)[1])


def fill(path: Path, size: int) -> None:
    """Make a database with entries as hubs register them."""
    path.parent.mkdir(parents=True)
    store = SqliteStore.open(path)
    try:
        store.commit([Put(_entry(number)) for number in range(size)])
    finally:
        store.close()


def _entry(number: int) -> Backend:
    chance = random.Random(number)
    return Backend(
        id=f"{chance.getrandbits(32):08x}-0000-4000-8000-{number:012x}",
        name=f"backend-{number:06d}",
        host=f"host-{number % 251}.plexus.example",
        port=1024 + number % 60_000,
        protocol="ws",
        description=f"Backend number {number} of an installation",
        namespace=f"space{number % 100}",
        version="1.4.2",
        source=Source.MANUAL,
        is_active=True,
        registered_at=1_800_000_000 + number,
        last_seen=1_800_000_000 + number,
        created_at=1_800_000_000 + number,
        updated_at=1_800_000_000 + number,
    )


def measure_growth(plan: Plan) -> Iterator[Row]:
    """Measure registries of three sizes side by side."""
    sizes = (10, 100, 1000) if plan.is_short else (10, 1000, 100_000)
    with contextlib.ExitStack() as stack:
        starts = [Starts.of(plan.folder / f"growth-{size}", size) for size in sizes]
        for _ in range(plan.sized(STARTS, 1)):
            for one_start in starts:
                one_start.again(plan)
        grown = [_open(stack, one_start, plan) for one_start in starts]
        for _ in range(plan.rounds):
            for method in METHODS:
                for one in grown:
                    _measure(one, method, plan)
        whole = [_ask_for_all(one) for one in (grown[0], grown[-1])]
    for method in METHODS:
        # There have to be 100 entries to list 100.
        yield _rate_row(method, grown[1:] if method == "list" else grown)
    yield from _size_rows(starts[0], starts[-1], whole)


def _size_rows(small: Starts, large: Starts, whole: list[int]) -> Iterator[Row]:
    """Make the rows of what is so large as the registry is."""
    took = large.took_s
    yield Row(
        key="growth.start",
        what=f"start with {large.size:,} entries, to the first answer",
        figure=f"{median(took):.2f} s {spread(took)};"
        f" with {small.size} {median(small.took_s):.2f} s {spread(small.took_s)}",
        bar=f"≤ {START_MAX_S:.0f} s",
        ratio=f"{median(took) / START_MAX_S:.2f}×",
        margins=[START_MAX_S / each for each in took],
        answers=len(took) + len(small.took_s),
        samples={f"{one.size}, s": one.took_s for one in (small, large)},
    )
    more = large.size - small.size
    kib = zip(large.pss_kib, small.pss_kib, strict=True)
    per_entry = [(high - low) * 1024 / more for high, low in kib]
    listed = (whole[1] - whole[0]) * 1024 / more
    yield Row(
        key="growth.memory",
        what="memory for each entry",
        figure=f"{median(per_entry):,.0f} bytes {spread(per_entry)};"
        f" {listed:,.0f} once all were listed (measured once)",
        bar=f"≤ {ENTRY_BYTES_MAX:,} bytes",
        ratio=f"{median(per_entry) / ENTRY_BYTES_MAX:.2f}×",
        margins=[ENTRY_BYTES_MAX / each for each in per_entry],
        answers=len(took) + len(small.took_s),
        samples={"bytes": per_entry, "bytes, listed": [listed]},
    )
    on_disk = (large.database_bytes - small.database_bytes) / more
    yield Row(
        key="growth.database",
        what="database for each entry",
        figure=f"{on_disk:,.0f} bytes; {large.database_bytes / 2**20:.1f} MiB in all"
        " (measured once)",
        answers=len(took) + len(small.took_s),
        samples={"bytes": [on_disk]},
    )


def _open(stack: contextlib.ExitStack, start: Starts, plan: Plan) -> Grown:
    child = stack.enter_context(servers.registry(start.folder, *plan.options))
    opened = stack.enter_context(clients(child.port, CONNECTIONS, is_checked=True))
    return Grown(child, opened, start.size)


def _measure(one: Grown, method: str, plan: Plan) -> None:
    # The same load at every size: ten names, so that pings share as many rows of a commit.
    some = [f"backend-{one.size * part // 10:06d}" for part in range(10)]
    match method:
        case "get" | "ping":
            depth = 32 if method == "get" else 4
            requests = Cycle(wire.call(method, name=name) for name in some)
            tally = closed_loop(one.clients, requests, depth=depth, seconds=plan.seconds)
        case "ping-all":
            chance = random.Random(1)
            names = [f"backend-{chance.randrange(one.size):06d}" for _ in range(5000)]
            requests = Cycle(wire.call("ping", name=name) for name in names)
            tally = closed_loop(one.clients, requests, depth=4, seconds=plan.seconds)
        case "list":
            requests = Cycle([wire.call(method, limit=100)])
            tally = closed_loop(one.clients, requests, depth=8, seconds=plan.seconds)
        case _:
            # So many and no more, and away again, so that the small registry stays small.
            new = list(itertools.islice(_names, plan.sized(4000, 200)))
            each = Each(map(register_frame, new))
            tally = closed_loop(one.clients, each, depth=4, seconds=60, warm_up_s=0)
            gone = Each(wire.call("delete", name=name) for name in new[: tally.answers])
            closed_loop(one.clients, gone, depth=1, seconds=60, warm_up_s=0)
    if tally.failed:
        raise ValueError(f"{tally.failed} requests {method} were refused")
    one.rates.setdefault(method, []).append(tally.per_s)
    one.answers[method] = one.answers.get(method, 0) + tally.answers


def _rate_row(method: str, grown: list[Grown]) -> Row:
    each = ratios(grown[-1].rates[method], grown[0].rates[method])
    figures = [f"{one.size:,}: {rate(one.rates[method])}" for one in grown]
    # Pings of few names write few rows, those of many names many: that is no fault of the size.
    has_bar = method != "ping-all"
    return Row(
        key=f"growth.{method}",
        what=f"{METHODS[method]} as the registry grows",
        figure="; ".join(figures),
        bar="≥ 90 % of the smallest" if has_bar else "",
        ratio=f"{median(each):.2f}×",
        margins=[ratio / 0.9 for ratio in each] if has_bar else (),
        answers=sum(one.answers[method] for one in grown),
        samples={str(one.size): one.rates[method] for one in grown},
    )


def _ask_for_all(one: Grown) -> int:
    """Have all entries listed, which keeps their JSON, and return the memory in KiB."""
    with contextlib.closing(wire.connect(one.child.port)) as sock:
        for _ in range(2):
            wire.ask(sock, wire.call("list"))
    return memory_kib(one.child.pid)[1]
