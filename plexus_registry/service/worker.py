# SPDX-License-Identifier: AGPL-3.0-only
"""A thread for work that blocks, one job after another."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")

_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
"""Signals that a thread sends to itself."""


class Worker:
    """Runs jobs in one thread of its own and reports in the event loop: an `Offload`.

    A thread cannot be killed. One that was left with `leave` ends with its job, and does not keep
    the process from ending (a thread of concurrent.futures would).

    Args:
        name: Of the thread.
        loop: Where outcomes are reported; everything else here is to be called there.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._numbers = itertools.count()
        self._unreported: dict[int, Callable[[Any], None]] = {}
        self._left_for: Exception | None = None
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def __call__(self, job: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """Run *job* in the thread, then *done* with what it returned or raised, in the loop."""
        if self._left_for is not None:
            self._loop.call_soon(done, self._left_for)
            return
        number = next(self._numbers)
        self._unreported[number] = done

        def run() -> None:
            outcome: T | Exception
            try:
                outcome = job()
            except Exception as fault:
                outcome = fault
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._report, number, outcome)

        self._jobs.put(run)

    async def run(self, job: Callable[[], T]) -> T:
        """Run *job* in the thread and return what it returned, or raise what it raised."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def done(outcome: T | Exception) -> None:
            if answer.cancelled():
                return
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        self(job, done)
        return await answer

    def stop(self) -> None:
        """End the thread; its last job is finished first."""
        self._jobs.put(None)
        self._thread.join()

    def leave(self, reason: Exception) -> None:
        """End the thread without waiting: *reason* is the outcome of whatever is not done.

        Idempotent.
        """
        if self._left_for is not None:
            return
        self._left_for = reason
        is_idle = not self._unreported
        for number in list(self._unreported):
            self._report(number, reason)
        self._jobs.put(None)
        if is_idle:
            self._thread.join()

    def _report(self, number: int, outcome: object) -> None:
        done = self._unreported.pop(number, None)
        if done is not None:
            done(outcome)

    def _work(self) -> None:
        _leave_signals_to_others()
        while (job := self._jobs.get()) is not None:
            job()


def _leave_signals_to_others() -> None:
    """Block signals here, so that who blocks them in the main thread is safe from them.

    A signal for the process goes to any thread that does not block it, one that is just ending
    included.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FAULTS)
