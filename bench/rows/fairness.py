# SPDX-License-Identifier: AGPL-3.0-only
"""What a polite client notices of one that asks without end."""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import Final

from bench import servers, wire
from bench.load import Client, clients, open_loop
from bench.results import Plan, Row, paired
from bench.rows.contender import register_all
from bench.rows.latency import Waits
from bench.wire import Requests, Same

GREEDY_DEPTH: Final = 512
"""More than the registry reads or starts in a turn; few enough for the socket's buffers."""
GETS_PER_S: Final = 200


def measure_fairness(plan: Plan) -> Iterator[Row]:
    """Measure the polite client alone and beside the greedy one, in turn."""
    get = Same(wire.call("get", name="dev"))
    alone, beside = Waits(), Waits()
    greedy_answers = 0
    with servers.registry(plan.folder / "fairness", *plan.options) as child:
        register_all(child, ["dev"])
        with clients(child.port, 1) as polite, clients(child.port, 1) as (greedy,):
            for _ in range(plan.rounds):
                quiet = open_loop(polite, get, per_s=GETS_PER_S, seconds=plan.seconds)
                pump = _Pump(greedy, get)
                busy = open_loop(
                    polite, get, per_s=GETS_PER_S, seconds=plan.seconds, beside=pump.turn
                )
                pump.drain()
                alone.note(quiet)
                beside.note(busy)
                greedy_answers += pump.answers
    yield Row(
        key="fairness.get",
        what=f"get p99 of a polite client beside one with {GREEDY_DEPTH} in flight",
        figure=f"{beside.shown('p50', 'p99')}; alone {alone.shown('p50', 'p99')}",
        ratio=f"{paired(beside.ms['p99'], alone.ms['p99']):.1f}×",
        answers=alone.answers + beside.answers + greedy_answers,
        samples=beside.samples("beside") | alone.samples("alone"),
    )


class _Pump:
    """Keeps a client's requests in flight while something else goes on.

    Args:
        client: The greedy one.
        requests: What it asks.
    """

    def __init__(self, client: Client, requests: Requests) -> None:
        self.answers = 0
        self._client = client
        self._requests = requests
        client.send(requests.take(GREEDY_DEPTH), GREEDY_DEPTH)

    def turn(self, elapsed_s: float) -> None:
        """Receive what is there, and ask as often again."""
        ended = self._receive(0)
        if ended:
            self._client.send(self._requests.take(ended), ended)

    def drain(self) -> None:
        """Receive what is still to come."""
        while self._client.in_flight:
            self._receive(wire.TIMEOUT_S)

    def _receive(self, timeout_s: float) -> int:
        if not select.select([self._client.socket], [], [], timeout_s)[0]:
            return 0
        ended = self._client.receive()
        self.answers += ended
        return ended
