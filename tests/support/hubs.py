# SPDX-License-Identifier: AGPL-3.0-only
"""Hubs that are no registry."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

from websockets.sync.server import ServerConnection, serve


@contextlib.contextmanager
def answering_info_only(name: str, *, to_all: bool = False) -> Iterator[str]:
    """Serve a hub that says its name and knows no other method; gives its URL.

    Args:
        name: What it says.
        to_all: Say it whatever is asked.
    """

    def answer(websocket: ServerConnection) -> None:
        for message in websocket:
            request = json.loads(message)
            replies: list[dict[str, Any]] = [{"id": request["id"], "result": 1}]
            metadata = {"provenance": [name], "plexus_hash": "0" * 16, "timestamp": 1}
            items: list[dict[str, Any]] = [
                {"type": "data", "content_type": "_info", "content": {"backend": name}},
                {"type": "done"},
            ]
            if request["method"] != "_info" and not to_all:
                message_text = "Activation not found: registry"
                items = [{"type": "error", "message": message_text, "code": "-32601"}]
            replies += [
                {
                    "method": "result",
                    "params": {"subscription": 1, "result": {"metadata": metadata, **item}},
                }
                for item in items
            ]
            for reply in replies:
                websocket.send(json.dumps({"jsonrpc": "2.0", **reply}))

    with serve(answer, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever, name="hub")
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()
