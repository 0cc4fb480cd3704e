# SPDX-License-Identifier: AGPL-3.0-only
"""A thread for work that blocks, one job after another."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
"""Signals that a thread sends to itself."""


class Worker:
    """Runs jobs in one thread of its own and reports in the event loop: an `Offload`.

    Args:
        name: Of the thread.
        loop: Where outcomes are reported.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._executor = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix=name, initializer=_leave_signals_to_others
        )

    def __call__(self, job: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """Run *job* in the thread, then *done* with what it returned or raised, in the loop."""

        def report(future: Future[T]) -> None:
            fault = future.exception()
            if fault is not None and not isinstance(fault, Exception):
                raise fault
            self._loop.call_soon_threadsafe(done, fault or future.result())

        self._executor.submit(job).add_done_callback(report)

    async def run(self, job: Callable[[], T]) -> T:
        """Run *job* in the thread and return what it returned, or raise what it raised."""
        return await self._loop.run_in_executor(self._executor, job)

    def stop(self) -> None:
        """End the thread; its last job is finished first."""
        self._executor.shutdown(wait=True)


def _leave_signals_to_others() -> None:
    """Block signals here, so that who blocks them in the main thread is safe from them.

    A signal for the process goes to any thread that does not block it, one that is just ending
    included.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FAULTS)
