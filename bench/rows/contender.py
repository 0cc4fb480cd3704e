# SPDX-License-Identifier: AGPL-3.0-only
"""Servers that are measured in turn, and what each of them did."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench import wire
from bench.load import Client, Tally, clients, closed_loop
from bench.results import Plan
from bench.servers import Child
from bench.system import cpu_s
from bench.wire import Requests

CONNECTIONS: Final = 16


@dataclass
class Contender:
    """A server and what it did.

    Attributes:
        child: The server.
        clients: Connections to it that stay open, so that rounds start at once.
        tallies: Of each round, by connections and depth.
        cpu_s: Processor time of each round, likewise.
    """

    child: Child
    clients: Sequence[Client]
    tallies: dict[tuple[int, int], list[Tally]] = field(default_factory=dict)
    cpu_s: dict[tuple[int, int], list[float]] = field(default_factory=dict)

    def run(self, load: tuple[int, int], requests: Requests, plan: Plan, warm_up_s: float) -> None:
        """Measure one round with so many connections and requests in flight on each."""
        connections, depth = load
        before = cpu_s(self.child.pid)
        tally = closed_loop(
            self.clients[:connections],
            requests,
            depth=depth,
            seconds=plan.seconds,
            warm_up_s=warm_up_s,
        )
        self.tallies.setdefault(load, []).append(tally)
        self.cpu_s.setdefault(load, []).append(cpu_s(self.child.pid) - before)

    def rates(self, load: tuple[int, int]) -> list[float]:
        """Return answers a second of each round."""
        return [tally.per_s for tally in self.tallies[load]]

    def costs_us(self, load: tuple[int, int]) -> list[float]:
        """Return the processor time of an answer in each round, in microseconds."""
        rounds = zip(self.cpu_s[load], self.tallies[load], strict=True)
        return [used / tally.answers * 1e6 for used, tally in rounds]

    def answers(self, load: tuple[int, int]) -> int:
        """Return how many answers came in all rounds."""
        return sum(tally.answers for tally in self.tallies[load])

    def failed(self, load: tuple[int, int]) -> int:
        """Return how many of them were refusals."""
        return sum(tally.failed for tally in self.tallies[load])


def enter(stack: contextlib.ExitStack, child: Child, *, is_checked: bool = False) -> Contender:
    """Connect to a server until the stack is closed."""
    opened = stack.enter_context(clients(child.port, CONNECTIONS, is_checked=is_checked))
    return Contender(child, opened)


def register_frame(name: str) -> bytes:
    """Return the request that registers a backend."""
    return wire.call("register", name=name, host="127.0.0.1", port=4444)


def register_all(child: Child, names: Sequence[str]) -> None:
    """Register backends one after another."""
    with contextlib.closing(wire.connect(child.port)) as sock:
        for name in names:
            answer = wire.ask(sock, register_frame(name))
            if b'"backend_registered"' not in answer:
                raise ValueError(f"a registration failed: {answer!r}")


def take_turn(
    plan: Plan,
    contenders: Mapping[str, Contender],
    loads: Sequence[tuple[int, int]],
    requests: Callable[[tuple[int, int]], Requests],
    warm_up_s: float = 0.1,
) -> None:
    """Measure every server once with every load."""
    for load in loads:
        for contender in contenders.values():
            contender.run(load, requests(load), plan, warm_up_s)
