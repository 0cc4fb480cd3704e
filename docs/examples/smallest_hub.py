# SPDX-License-Identifier: AGPL-3.0-only
"""The smallest hub that is found by its name: it says who it is, and knows nothing else."""

import asyncio
import json
import signal
import time

from websockets.asyncio.server import ServerConnection, serve

from plexus_registry.client import announce


async def answer(client: ServerConnection) -> None:
    """Answer `_info` with a stream: its data, then `done`; anything else with `error`."""
    async for text in client:
        items: list[dict[str, object]] = (
            [
                {"type": "data", "content_type": "_info", "content": {"backend": "smallest"}},
                {"type": "done"},
            ]
            if (request := json.loads(text))["method"] == "_info"
            else [{"type": "error", "message": f"Method not found: {request['method']}"}]
        )
        about = {"provenance": [], "plexus_hash": "0" * 16, "timestamp": int(time.time())}
        stream = [
            {
                "method": "result",
                "params": {"subscription": request["id"], "result": {**item, "metadata": about}},
            }
            for item in items
        ]
        for frame in ({"id": request["id"], "result": request["id"]}, *stream):
            await client.send(json.dumps({"jsonrpc": "2.0", **frame}))


async def main() -> None:
    """Serve on a free port and announce it, until Ctrl-C or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with (
        serve(answer, "127.0.0.1", 0) as server,
        announce("smallest", port=next(iter(server.sockets)).getsockname()[1]),
    ):
        await stop.wait()


asyncio.run(main())
