# SPDX-License-Identifier: AGPL-3.0-only
"""The clock of an event loop, put forward by a test: what has to be waited for happens at once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator

from support.timing import TIMEOUT_S


def put_forward(loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Put the clock of *loop* forward, from within it: what falls due by then happens."""
    clock = loop.time
    # Read by every timer of asyncio's own loops.
    setattr(loop, "time", lambda: clock() + seconds)  # noqa: B010  (mypy refuses the assignment)


@contextlib.contextmanager
def by_hand(loop: asyncio.AbstractEventLoop) -> Iterator[Callable[[float], Awaitable[None]]]:
    """Stop the clock of *loop*, the running one, while the block runs; it goes on from there.

    What is given puts it forward by seconds and lets the loop turn, so that events are read and
    what falls due happens.
    """
    real = loop.time
    now = real()

    async def move(seconds: float) -> None:
        nonlocal now
        now += seconds
        for _ in range(3):
            await asyncio.sleep(0)

    setattr(loop, "time", lambda: now)  # noqa: B010
    try:
        yield move
    finally:
        ahead_s = now - real()
        setattr(loop, "time", lambda: real() + ahead_s)  # noqa: B010


class Clock:
    """The clock of a loop that runs in another thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def adopt(self) -> None:
        """Be the clock of the running loop."""
        self._loop = asyncio.get_running_loop()

    def put_forward(self, seconds: float) -> None:
        """Put the clock forward, from another thread, and return once it is."""
        assert self._loop is not None
        is_done = threading.Event()

        def put(loop: asyncio.AbstractEventLoop) -> None:
            put_forward(loop, seconds)
            is_done.set()

        self._loop.call_soon_threadsafe(put, self._loop)
        assert is_done.wait(TIMEOUT_S)
