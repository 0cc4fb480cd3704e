# SPDX-License-Identifier: AGPL-3.0-only
"""A registry that serves in this process, in an event loop and thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from plexus_registry.config.settings import Settings
from plexus_registry.server.listener import Server
from plexus_registry.service.service import Service
from support.clocks import put_forward
from support.timing import TIMEOUT_S

T = TypeVar("T")


class Served:
    """A running `Service`, reachable from the thread of the test.

    Attributes:
        service: To be touched through `run` and `in_loop` only.
        url: Where it listens, ``ws://127.0.0.1:PORT``.
    """

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self.service = service
        self.loop = loop
        self.url = f"ws://{service.addresses[0]}"

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self.url.rpartition(":")[2])

    @property
    def server(self) -> Server:
        """The server, to be touched through `run` and `in_loop` only."""
        assert self.service._server is not None
        return self.service._server

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the registry's event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(TIMEOUT_S)

    def in_loop(self, function: Callable[[], T]) -> T:
        """Call a function in the registry's event loop and return its result."""

        async def call() -> T:
            return function()

        return self.run(call())

    def let_pass(self, seconds: float) -> None:
        """Put the clock of the registry's event loop forward: what falls due by then happens."""
        self.in_loop(lambda: put_forward(self.loop, seconds))


@contextlib.contextmanager
def serving(settings: Settings, **options: Any) -> Iterator[Served]:
    """Serve a registry while the block runs; start-up errors are raised here.

    Args:
        settings: What to serve.
        options: More arguments of `Service`.
    """
    started: Future[Served] = Future()
    stop = asyncio.Event()

    async def main() -> None:
        try:
            async with Service(settings, **options) as service:
                started.set_result(Served(service, asyncio.get_running_loop()))
                await stop.wait()
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=asyncio.run, args=(main(),), name="serving")
    thread.start()
    try:
        served = started.result(TIMEOUT_S)
        yield served
    finally:
        if not started.exception():
            started.result().loop.call_soon_threadsafe(stop.set)
        thread.join(TIMEOUT_S)
        assert not thread.is_alive(), "the registry did not stop"
