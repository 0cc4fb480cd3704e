# SPDX-License-Identifier: AGPL-3.0-only
"""How long single requests wait, by the clock, at a part of what the server can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.load import Latencies, open_loop
from bench.results import Plan, Row, extent, median, rate
from bench.rows.contender import Contender
from bench.wire import Requests

SHARE: Final = 0.5
"""At which part of a server's highest rate latencies are measured."""
QUANTILES: Final = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


@dataclass
class Waits:
    """How long a server let wait, round by round.

    Attributes:
        ms: Latencies by the name of their quantile.
        answers: How many came in all rounds.
    """

    ms: dict[str, list[float]] = field(default_factory=lambda: {label: [] for label in QUANTILES})
    answers: int = 0

    def note(self, found: Latencies) -> None:
        """Add a round."""
        self.answers += len(found.sorted_s)
        for label, share in QUANTILES.items():
            self.ms[label].append(found.quantile(share) * 1e3)

    def shown(self, *labels: str) -> str:
        """Show some quantiles with their extremes: one hiccup makes a latency a hundredfold."""
        return ", ".join(
            f"{label} {median(self.ms[label]):.2f} ms {extent(self.ms[label])}" for label in labels
        )

    def samples(self, name: str) -> dict[str, list[float]]:
        """Return what was noted, as samples of a row."""
        return {f"{name}, {label}, ms": ms for label, ms in self.ms.items()}


class Paced:
    """Several servers, each asked for a part of what it can do.

    Args:
        contenders: The servers by name.
        loads: Of whose highest rate, as connections and depth, a part is asked.
    """

    def __init__(
        self, contenders: Mapping[str, Contender], loads: Sequence[tuple[int, int]]
    ) -> None:
        self._contenders = contenders
        self._waits = {(load, name): Waits() for load in loads for name in contenders}

    def take_turn(self, requests: Requests, plan: Plan) -> None:
        """Measure every server once, at a part of the rate that it reached in this round."""
        for (load, name), waits in self._waits.items():
            one = self._contenders[name]
            per_s = SHARE * one.rates(load)[-1]
            waits.note(open_loop(one.clients, requests, per_s=per_s, seconds=plan.seconds))

    def rows(self, group: str) -> Iterator[Row]:
        """Make the rows."""
        for (load, name), waits in self._waits.items():
            per_s = [SHARE * highest for highest in self._contenders[name].rates(load)]
            load_text = f"{load[0]} × {load[1]}"
            yield Row(
                key=f"{group}.latency.{name}.{load[0]}x{load[1]}",
                what=f"{group}, latency at {SHARE:.0%} of {load_text}, {name}",
                figure=f"{waits.shown(*QUANTILES)}; at {rate(per_s)}",
                answers=waits.answers,
                samples={**waits.samples(name), "requests a second": per_s},
            )
