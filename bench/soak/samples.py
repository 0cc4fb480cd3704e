# SPDX-License-Identifier: AGPL-3.0-only
"""What is watched while the load runs, and what counts as growth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import system

PARTS: Final = 10
"""How many lines the table has: each a minute of ten."""
MIB: Final = 2**20


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One thing that is watched.

    Attributes:
        key: In a `Sample`.
        title: Heading of its column.
        digits: How many decimals are shown.
        part: Which part of it the median may grow without counting as growth,
        least: or how much, if that is more.
    """

    key: str
    title: str
    digits: int = 0
    part: float = 0.0
    least: float = 0.0

    def show(self, value: float) -> str:
        """Format a value."""
        return f"{value:.{self.digits}f}"


MEASURES: Final = (
    Measure(key="rss", title="RSS MiB", digits=1, part=0.05, least=2),
    # Shown only: other Pythons that come and go change how much of it is shared.
    Measure(key="pss", title="PSS MiB", digits=1, least=math.inf),
    Measure(key="descriptors", title="descriptors", least=4),
    Measure(key="threads", title="threads"),
    Measure(key="database", title="database MiB", digits=2, part=0.05, least=1),
    # SQLite lets it grow to 1,000 pages before it begins again from the front.
    Measure(key="wal", title="-wal MiB", digits=2, least=4),
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What was seen at one time.

    Attributes:
        at_s: Since the load began.
        answers: How many there were so far.
        values: By the key of each measure.
    """

    at_s: float
    answers: int
    values: dict[str, float]


def take(pid: int, database: Path, *, at_s: float, answers: int) -> Sample:
    """Look at a registry."""
    rss, pss = system.memory_kib(pid)
    values = {
        "rss": rss / 1024,
        "pss": pss / 1024,
        "descriptors": system.descriptors(pid),
        "threads": system.threads(pid),
        "database": database.stat().st_size / MIB,
        "wal": database.with_name(f"{database.name}-wal").stat().st_size / MIB,
    }
    return Sample(at_s=at_s, answers=answers, values=values)


def growth(samples: Sequence[Sample]) -> list[str]:
    """Compare the last quarter with the second one, for the first may warm up; say what grew."""
    return [text for measure in MEASURES for text in _growth_of(measure, samples)]


def _growth_of(measure: Measure, samples: Sequence[Sample]) -> Iterator[str]:
    second, last = (
        statistics.median(one.values[measure.key] for one in _span(samples, quarter, 4))
        for quarter in (1, 3)
    )
    if last - second > max(measure.part * second, measure.least):
        shown = measure.show(second), measure.show(last)
        yield f"{measure.title} grew from {shown[0]} to {shown[1]}"


def trend_per_min(measure: Measure, samples: Sequence[Sample]) -> float:
    """Return the slope of the line that fits the last 80 % of the time best."""
    late = [one for one in samples if one.at_s >= samples[-1].at_s * 0.2]
    slope = statistics.linear_regression(
        [one.at_s / 60 for one in late], [one.values[measure.key] for one in late]
    ).slope
    return float(slope)


def table(samples: Sequence[Sample]) -> str:
    """Show the lowest, the median and the highest value of each part of the time."""
    lines = [["until", "answers/s", *(measure.title for measure in MEASURES)]]
    before = samples[0]
    for number in range(PARTS):
        part = _span(samples, number, PARTS)
        if not part or part[-1].at_s == before.at_s:
            continue
        per_s = (part[-1].answers - before.answers) / (part[-1].at_s - before.at_s)
        before = part[-1]
        lines.append([f"{before.at_s:.0f} s", f"{per_s:,.0f}"])
        for measure in MEASURES:
            seen = sorted(one.values[measure.key] for one in part)
            three = seen[0], statistics.median(seen), seen[-1]
            lines[-1].append(" ".join(map(measure.show, three)))
    trends = (trend_per_min(measure, samples) for measure in MEASURES)
    lines.append(["trend/min", "", *(f"{trend:+.3f}" for trend in trends)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def _span(samples: Sequence[Sample], number: int, parts: int) -> list[Sample]:
    """Return the samples of one of so many equal parts of the time."""
    end_s = samples[-1].at_s
    return [one for one in samples if min(int(one.at_s / end_s * parts), parts - 1) == number]
