# SPDX-License-Identifier: AGPL-3.0-only
"""The smallest hub that is found by its name: it says who it is, and knows nothing else."""

import asyncio
import json

from websockets.asyncio.server import ServerConnection, serve

from plexus_registry.client import announce

ABOUT = {"provenance": ["smallest"], "plexus_hash": "0" * 16, "timestamp": 0}
INFO = {"type": "data", "content_type": "_info", "content": {"backend": "smallest"}}
UNKNOWN = {"type": "error", "message": "Method not found: this hub only knows _info"}


async def answer(client: ServerConnection) -> None:
    """Answer `_info` with a stream: its data, then `done`; anything else with `error`."""
    async for text in client:
        call = json.loads(text)
        await client.send(json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": call["id"]}))
        for item in (INFO, {"type": "done"}) if call["method"] == "_info" else (UNKNOWN,):
            params = {"subscription": call["id"], "result": {**item, "metadata": ABOUT}}
            await client.send(json.dumps({"jsonrpc": "2.0", "method": "result", "params": params}))


async def main() -> None:
    """Serve and announce it, until Ctrl-C or SIGTERM."""
    async with serve(answer, "127.0.0.1", 4455) as server, announce("smallest", port=4455):
        for number in (2, 15):  # SIGINT and SIGTERM
            asyncio.get_running_loop().add_signal_handler(number, server.close)
        await server.wait_closed()


asyncio.run(main())
