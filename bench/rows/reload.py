# SPDX-License-Identifier: AGPL-3.0-only
"""A reload of many declarations of which few changed, beside a client that goes on asking."""

from __future__ import annotations

import contextlib
import select
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench import servers, wire
from bench.load import clients, open_loop
from bench.results import Plan, Row, median, spread
from bench.wire import Same

CHANGED: Final = 10
PAUSE_MAX_MS: Final = 50.0
GETS_PER_S: Final = 2000
ASKED_AFTER_S: Final = 0.05


def measure_reload(plan: Plan) -> Iterator[Row]:
    """Change ten declarations and reload, once a round."""
    size = plan.sized(10_000, 200)
    folder = plan.folder / "reload"
    config = folder / "config" / "backends.toml"
    config.parent.mkdir(parents=True)
    _declare(config, size, port=4444)
    pauses, before, took, written = [], [], [], []
    answers = 0
    get = Same(wire.call("get", name="backend-00000"))
    with contextlib.ExitStack() as stack:
        child = stack.enter_context(servers.registry(folder, *plan.options, config=config))
        asking = stack.enter_context(clients(child.port, 1))
        sock = stack.enter_context(contextlib.closing(wire.connect(child.port)))
        for number in range(plan.rounds):
            quiet = open_loop(asking, get, per_s=GETS_PER_S, seconds=plan.seconds)
            # Times in the database are whole seconds: what the reload writes is of a later one.
            time.sleep(1.1)
            since = int(time.time())
            reload = _Reload(sock)
            _declare(config, size, port=5000 + number)  # which the registry also notices itself
            busy = open_loop(
                asking,
                get,
                per_s=GETS_PER_S,
                seconds=plan.seconds + plan.sized(2, 0),
                beside=reload.watch,
            )
            answers += len(quiet.sorted_s) + len(busy.sorted_s) + 1
            before.append(quiet.sorted_s[-1] * 1e3)
            pauses.append(busy.sorted_s[-1] * 1e3)
            took.append(reload.finish())
            written.append(float(_rows_written(folder / "registry.db", since)))
    yield Row(
        key="reload.rows",
        what=f"rows written by a reload of {size:,} with {CHANGED} changed",
        figure=f"{median(written):.0f}; answered after {median(took):.2f} s",
        bar=str(CHANGED),
        ratio=f"{median(written) / CHANGED:.2f}×",
        margins=[1.0 if set(written) == {CHANGED} else 0.0],
        answers=plan.rounds,
        samples={"rows": written, "s": took},
    )
    yield Row(
        key="reload.pause",
        what="longest wait of another client's get meanwhile",
        figure=f"{median(pauses):.1f} ms {spread(pauses)}; without {median(before):.1f} ms",
        bar=f"≤ {PAUSE_MAX_MS:.0f} ms",
        ratio=f"{median(pauses) / PAUSE_MAX_MS:.2f}×",
        margins=[PAUSE_MAX_MS / pause for pause in pauses],
        answers=answers,
        samples={"reload": pauses, "quiet": before},
    )


class _Reload:
    """One reload, asked for while something else goes on.

    Args:
        sock: Where to ask.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._asked_at = self._answered_at = 0.0

    def watch(self, elapsed_s: float) -> None:
        """Ask after a moment, then see whether there is an answer."""
        if not self._asked_at:
            if elapsed_s >= ASKED_AFTER_S:
                self._asked_at = time.perf_counter()
                self._sock.sendall(wire.call("reload"))
        elif not self._answered_at and select.select([self._sock], [], [], 0)[0]:
            self._answered_at = time.perf_counter()

    def finish(self) -> float:
        """Return how long the answer took."""
        answer = wire.receive(self._sock, 1)
        if b'"reloaded"' not in answer:
            raise ValueError(f"the reload failed: {answer!r}")
        return (self._answered_at or time.perf_counter()) - self._asked_at


def _declare(path: Path, size: int, port: int) -> None:
    """Write declarations of which the first few have another port each time."""
    tables = [
        f'[[backend]]\nname = "backend-{number:05d}"\nhost = "127.0.0.1"\n'
        f"port = {port if number < CHANGED else 4444}\n"
        for number in range(size)
    ]
    new = path.with_suffix(".new")
    new.write_text("\n".join(tables), "ascii")
    new.rename(path)


def _rows_written(database: Path, since: int) -> int:
    uri = f"{database.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        query = "SELECT count(*) FROM backends WHERE updated_at >= ?"
        (count,) = connection.execute(query, (since,)).fetchone()
    return int(count)
