# SPDX-License-Identifier: AGPL-3.0-only
"""Group commit: durable registrations, many at once against one at a time on the same disk."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench import servers
from bench.load import Tally, clients, closed_loop
from bench.results import Plan, Row, median, rate, ratios
from bench.rows.contender import register_frame
from bench.wire import Each

AT_ONCE: Final = 64
FLUSH_MS: Final = 2
"""What strace adds to each flush on the modelled slow disk."""

_names = (f"c{number:07d}" for number in itertools.count())


def measure_commits(plan: Plan) -> Iterator[Row]:
    """Measure on this disk, and on one whose flushes are made slow by strace."""
    yield from _measure(plan, "disk", "this disk", ())
    what = f"a disk that flushes in {FLUSH_MS} ms"
    if not _can_trace():
        yield _row("slow", what, "strace, which slows flushes down, is missing or not permitted")
        return
    slowly = ["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"]
    slowly += ["-e", "trace=fsync,fdatasync"]
    slowly += ["-e", f"inject=fsync,fdatasync:delay_enter={FLUSH_MS}000"]
    yield from _measure(plan, "slow", what, slowly)


def _can_trace() -> bool:
    command = ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "true"]
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _row(name: str, what: str, figure: str) -> Row:
    return Row(
        key=f"commits.{name}",
        what=f"register, {AT_ONCE} at once, {what}",
        figure=figure,
        bar="≥ 20 × one at a time",
    )


def _measure(plan: Plan, name: str, what: str, wrapper: Sequence[str]) -> Iterator[Row]:
    sizes = (AT_ONCE, 1)
    tallies: dict[int, list[Tally]] = {size: [] for size in sizes}
    counters = {size: plan.folder / f"commits-{name}-{size}.counters" for size in sizes}
    with contextlib.ExitStack() as stack:
        connections = {}
        for size in sizes:
            program = [*wrapper, sys.executable, "-m", "bench.counted", str(counters[size])]
            folder = plan.folder / f"commits-{name}-{size}"
            child = stack.enter_context(servers.registry(folder, *plan.options, program=program))
            connections[size] = stack.enter_context(clients(child.port, size, is_checked=True))
        for _ in range(plan.rounds):
            for size in sizes:
                frames = map(register_frame, itertools.islice(_names, int(plan.seconds * 20_000)))
                tally = closed_loop(
                    connections[size], Each(frames), depth=1, seconds=plan.seconds, warm_up_s=0
                )
                tallies[size].append(tally)
    many, single = ([tally.per_s for tally in tallies[size]] for size in sizes)
    each = ratios(many, single)
    shared = {size: _requests_per_commit(counters[size]) for size in sizes}
    empty = _row(
        name,
        what,
        f"{rate(many)}: {median(many) / shared[AT_ONCE]:,.0f} commits a second with"
        f" {shared[AT_ONCE]:.1f} requests each; one at a time {rate(single)}"
        f" with {shared[1]:.1f}",
    )
    yield Row(
        key=empty.key,
        what=empty.what,
        figure=empty.figure,
        bar=empty.bar,
        ratio=f"{median(each):.1f}×",
        margins=[ratio / 20 for ratio in each],
        answers=sum(tally.answers for size in sizes for tally in tallies[size]),
        refused=sum(tally.failed for size in sizes for tally in tallies[size]),
        samples={"at once": many, "one at a time": single},
    )


def _requests_per_commit(counters: Path) -> float:
    commits, requests = map(int, counters.read_text("ascii").split())
    return requests / commits
