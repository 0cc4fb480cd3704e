# SPDX-License-Identifier: AGPL-3.0-only
"""A Plexus hub with one method, which Synapse finds by its name: synapse -P 4445 greeter hello."""

import asyncio
import json
import signal
import time
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

from plexus_registry.client import announce

HASH = "5f0c2a9e93c54a36"  # stands for SCHEMA: another schema, another hash
HELLO = {"name": "hello", "description": "Greet the world", "hash": "a3f40b1f0c0f7a11"}
SCHEMA = {"namespace": "greeter", "version": "1", "description": "Greets", "hash": HASH}
CONTENTS: dict[str, object] = {
    "_info": {"backend": "greeter"},
    "greeter.schema": {**SCHEMA, "methods": [HELLO], "children": []},
    "greeter.hello": {"type": "greeting", "text": "Hello, world"},
}


async def answer(websocket: ServerConnection) -> None:
    """Answer each request with a stream: its data and `done`, or `error`."""
    async for text in websocket:
        request = json.loads(text)
        called = request["params"] if request["method"] == "greeter.call" else request
        method, id = called["method"], request["id"]
        metadata = {"provenance": ["greeter"], "plexus_hash": HASH, "timestamp": int(time.time())}
        failure = {"type": "error", "message": f"Method not found: {method}", "recoverable": False}
        items: list[dict[str, Any]] = [failure]
        if method in CONTENTS:
            data = {"type": "data", "content_type": method, "content": CONTENTS[method]}
            items = [data, {"type": "done"}]
        await websocket.send(json.dumps({"jsonrpc": "2.0", "id": id, "result": id}))
        for item in items:
            params = {"subscription": id, "result": {**item, "metadata": metadata}}
            notification = {"jsonrpc": "2.0", "method": "result", "params": params}
            await websocket.send(json.dumps(notification))


async def main() -> None:
    """Serve on a free port and announce it, until Ctrl-C or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serve(answer, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with announce("greeter", port=port, description="Greets"):
            await stop.wait()


asyncio.run(main())
