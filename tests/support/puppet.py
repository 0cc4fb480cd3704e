# SPDX-License-Identifier: AGPL-3.0-only
"""A server that takes itself for a registry and does what a test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, ParamSpec

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from plexus_registry.client import Client
from support.timing import TIMEOUT_S

HUB = "hub"

P = ParamSpec("P")


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test that is a coroutine, in an event loop of its own, and not for ever."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(4 * TIMEOUT_S):
                await test(*args, **kwargs)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks left behind: {left}"

        asyncio.run(bounded())

    return run


async def refused(registry: Client) -> None:
    """Wait until an attempt to connect was refused, and a call that was begun waits for more."""
    await asyncio.sleep(0)
    while "refused" not in registry._wire.reason:
        await asyncio.sleep(0.01)


class Peer:
    """One client of the puppet.

    Attributes:
        websocket: To do with it what no hub does.
    """

    def __init__(self, websocket: ServerConnection) -> None:
        self.websocket = websocket

    async def receive(self) -> dict[str, Any]:
        """Return the next request."""
        request: dict[str, Any] = json.loads(await self.websocket.recv())
        return request

    async def receive_call(self) -> tuple[dict[str, Any], str]:
        """Return the next request, and the method that it calls through the hub."""
        request = await self.receive()
        assert request["method"] == f"{HUB}.call"
        return request, request["params"]["method"]

    async def send(self, *frames: object) -> None:
        """Send frames: text as it is, anything else as JSON."""
        for frame in frames:
            await self.websocket.send(frame if isinstance(frame, str) else json.dumps(frame))

    async def answer(self, request: dict[str, Any], content: object) -> None:
        """Answer as a hub does."""
        await self.send(*frames_of(request, content))

    async def idle(self) -> None:
        """Read, and answer nothing, until the client goes."""
        async for _ in self.websocket:
            pass


def frames_of(request: dict[str, Any], content: object) -> list[dict[str, Any]]:
    """Return response, data and done; the subscription has a number of its own."""
    subscription = 1000 + request["id"]

    def item(**fields: object) -> dict[str, Any]:
        return {"method": "result", "params": {"subscription": subscription, "result": fields}}

    return [
        {"jsonrpc": "2.0", "id": request["id"], "result": subscription},
        item(type="data", content=content),
        item(type="done"),
    ]


@contextlib.asynccontextmanager
async def puppet(
    *behaviours: Callable[[Peer], Awaitable[None]], port: int = 0
) -> AsyncIterator[str]:
    """Serve in this event loop and give the URL.

    Args:
        behaviours: What to do with each connection once `_info` was answered, in their order; the
            last one with all that follow. A connection is closed when it is done.
        port: Where; 0 for a free one.
    """
    number = 0

    async def handle(websocket: ServerConnection) -> None:
        nonlocal number
        behave = behaviours[min(number, len(behaviours) - 1)]
        number += 1
        peer = Peer(websocket)
        with contextlib.suppress(ConnectionClosed):
            await peer.answer(await peer.receive(), {"backend": HUB})
            await behave(peer)

    async with serve(handle, "127.0.0.1", port, close_timeout=TIMEOUT_S) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
