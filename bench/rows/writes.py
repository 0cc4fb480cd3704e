# SPDX-License-Identifier: AGPL-3.0-only
"""How many writes carry the answers to one read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from bench import servers, wire
from bench.results import Plan, Row
from bench.rows.contender import register_all
from bench.system import data_segments_received

DEPTH: Final = 32


def measure_writes(plan: Plan) -> Iterator[Row]:
    """Count the TCP segments that bring the answers to requests that came in one segment.

    Answers are below the 64 KiB of a loopback segment, and the server's socket has TCP_NODELAY:
    each write makes a segment of its own.
    """
    batches = plan.sized(500, 20)
    batch = wire.call("get", name="dev") * DEPTH
    with servers.registry(plan.folder / "writes", *plan.options) as child:
        register_all(child, ["dev"])
        with contextlib.closing(wire.connect(child.port)) as sock:
            before = data_segments_received(sock)
            for _ in range(batches):
                sock.sendall(batch)
                wire.receive(sock, DEPTH)
            per_batch = (data_segments_received(sock) - before) / batches
    yield Row(
        key="writes.get",
        what=f"writes for {DEPTH} get that came in one read",
        figure=f"{per_batch:.2f} segments",
        bar="1",
        ratio=f"{1 / per_batch:.2f}×",
        margins=[1.005 / per_batch],
        answers=batches * DEPTH,
        samples={"segments": [per_batch]},
    )
