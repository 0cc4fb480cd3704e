# SPDX-License-Identifier: AGPL-3.0-only
"""What is measured how long, and what came out of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

NOISY: Final = "too noisy"
DISSENT_MAX: Final = 0.25
"""Which part of the rounds may speak against their median before it proves nothing."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to measure.

    Attributes:
        folder: Where databases and logs go: on the disk that is measured.
        seconds: How long each round of each server lasts.
        rounds: How many there are; the servers take turns.
        is_short: Find out whether everything runs; the figures mean nothing.
        options: More options of our daemon.
        rust: The Rust program of the same name; None if it cannot be had.
        rust_missing: Why not.
    """

    folder: Path
    seconds: float
    rounds: int
    is_short: bool
    options: tuple[str, ...] = ()
    rust: Path | None = None
    rust_missing: str = ""

    def sized(self, full: int, short: int) -> int:
        """Return a number for the full form or for the short one."""
        return short if self.is_short else full


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        key: ``GROUP.NAME``.
        what: What was measured.
        figure: What came out.
        bar: What was asked for; empty for a row that only informs.
        ratio: What the bar is about, as shown; empty if there is none.
        margins: How often the bar was met in each round: 1.0 is just met. Empty: no bar, or not
            measured.
        answers: How many answers were counted for the row.
        refused: How many of them were refusals; a row that has any measured something else.
        is_fault: The row stands for others that could not be measured.
        samples: The single measurements by name.
    """

    key: str
    what: str
    figure: str
    bar: str = ""
    ratio: str = ""
    margins: Sequence[float] = ()
    answers: int = 0
    refused: int = 0
    is_fault: bool = False
    samples: dict[str, list[float]] = field(default_factory=dict)

    @property
    def margin(self) -> float | None:
        """How often the bar was met, as the median; None if there is none."""
        return median(self.margins) if self.margins else None

    @property
    def has_failed(self) -> bool:
        """Whether the figure is none, or not of what it says."""
        return self.is_fault or self.refused > 0

    @property
    def verdict(self) -> str:
        """Say whether the bar was met, and whether the rounds are of one mind about it."""
        if self.has_failed:
            return "FAILED"
        if self.margin is None:
            return "not measured" if self.bar else ""
        is_met = self.margin >= 1
        rounds = len(self.margins)
        agreeing = sum((margin >= 1) == is_met for margin in self.margins)
        if rounds - agreeing > rounds * DISSENT_MAX:
            return NOISY
        return ("ok" if is_met else "MISSED") + f", {agreeing} of {rounds}" * (agreeing < rounds)


def median(samples: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(samples)


def spread(samples: Sequence[float]) -> str:
    """Show half of the range as a part of the median."""
    middle = median(samples)
    return f"±{(max(samples) - min(samples)) / 2 / middle:.0%}" if middle else "±0%"


def extent(samples: Sequence[float]) -> str:
    """Show the lowest and the highest; for what is far from symmetrical."""
    return f"({min(samples):.2f}–{max(samples):.2f})"


def rate(samples: Sequence[float]) -> str:
    """Show how many a second, with the spread."""
    return f"{median(samples):,.0f}/s {spread(samples)}"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratios of measurements that were taken one after the other."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def paired(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of their ratios."""
    return median(ratios(ours, theirs))


def compare(
    key: str,
    what: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    at_least: float,
    bar: str,
    reference: str,
    answers: int,
    refused: int = 0,
) -> Row:
    """Make the row of two rates, of which the first must be so many times the second.

    Args:
        key: Of the row.
        what: Of the row.
        ours: What the registry did.
        theirs: What it is compared with, measured in the same rounds.
        at_least: The smallest ratio that will do.
        bar: Of the row.
        reference: The name of what it is compared with.
        answers: Of the row.
        refused: Of the row.
    """
    each = ratios(ours, theirs)
    return Row(
        key=key,
        what=what,
        figure=f"{rate(ours)}; {reference} {rate(theirs)}",
        bar=bar,
        ratio=f"{median(each):.2f}×",
        margins=[ratio / at_least for ratio in each],
        answers=answers,
        refused=refused,
        samples={"ours": list(ours), reference: list(theirs)},
    )
