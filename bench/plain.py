# SPDX-License-Identifier: AGPL-3.0-only
"""The same answers to ``get`` as most people would write them: a coroutine for each connection.

Over `websockets.asyncio.server` and the json of the standard library. Prints its port.
Argument: the messages of an answer of the registry, as a JSON array of texts.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any

from websockets.asyncio.server import ServerConnection, serve


class Plain:
    """A registry of one entry.

    Args:
        answer: The messages with which the registry answers ``get``.
    """

    def __init__(self, answer: list[str]) -> None:
        self._data, self._done = (json.loads(text) for text in answer[1:])
        entry = self._data["params"]["result"]["content"]["backend"]
        self._entries = {entry["name"]: entry}

    async def talk(self, websocket: ServerConnection) -> None:
        """Answer one client until it leaves."""
        async for message in websocket:
            request = json.loads(message)
            asked = request["params"]
            if request["method"] != "registry-hub.call" or asked["method"] != "registry.get":
                raise ValueError(f"only get through the hub is known here: {request}")
            subscription = random.randrange(2**53)
            content = {"type": "backend", "backend": self._entries[asked["params"]["name"]]}
            accepted = {"jsonrpc": "2.0", "id": request["id"], "result": subscription}
            data = self._frame(self._data, subscription, content=content)
            done = self._frame(self._done, subscription)
            for reply in (accepted, data, done):
                await websocket.send(json.dumps(reply, separators=(",", ":")))

    def _frame(self, like: dict[str, Any], subscription: int, **fields: Any) -> dict[str, Any]:
        item = like["params"]["result"]
        metadata = {**item["metadata"], "timestamp": int(time.time())}
        params = {"subscription": subscription, "result": {**item, "metadata": metadata, **fields}}
        return {**like, "params": params}


async def main(answer: list[str]) -> None:
    """Serve until killed."""
    # The generator is no whole client: it would not answer keepalive pings.
    options: dict[str, Any] = {"compression": None, "ping_interval": None}
    async with serve(Plain(answer).talk, "127.0.0.1", 0, **options) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
