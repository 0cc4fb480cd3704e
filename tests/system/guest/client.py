# SPDX-License-Identifier: AGPL-3.0-only
"""A client of the registry that runs inside the machine and knows nothing of the project's code.

``client.py ask URL METHOD PARAMS`` prints the event and how long it took, connecting included.

``client.py loop URL FILE PREFIX`` registers one backend after another until its standard input
ends. The name of each acknowledged one goes into FILE at once; a summary is printed at the end.
"""

from __future__ import annotations

import itertools
import json
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.sync.client import ClientConnection, connect, unix_connect

TIMEOUT_S = 30
CALLS_A_CONNECTION = 5


def connected(url: str) -> ClientConnection:
    """Connect to ``ws://HOST:PORT`` or ``unix:/PATH``."""
    if url.startswith("unix:"):
        return unix_connect(url.removeprefix("unix:"), open_timeout=TIMEOUT_S, compression=None)
    return connect(url, open_timeout=TIMEOUT_S, compression=None, proxy=None)


def stream(connection: ClientConnection, method: str, params: object) -> Iterator[dict[str, Any]]:
    """Start a subscription and go over its items, up to the one that ends it."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    connection.send(json.dumps(request))
    while True:
        frame = json.loads(connection.recv(TIMEOUT_S))
        if "error" in frame:
            raise RuntimeError(frame["error"])
        if frame.get("method") == "result":
            item = frame["params"]["result"]
            yield item
            if item["type"] in ("done", "error"):
                return


def call(connection: ClientConnection, method: str, params: object) -> dict[str, Any]:
    """Call a method through the hub, as Synapse does, and return its event."""
    items = list(stream(connection, "registry-hub.call", {"method": method, "params": params}))
    if items[0]["type"] != "data":
        raise RuntimeError(items)
    content: dict[str, Any] = items[0]["content"]
    return content


def ask(url: str, method: str, params: str) -> None:
    """Call once."""
    began = time.monotonic()
    with connected(url) as connection:
        event = call(connection, method, json.loads(params))
        seconds = time.monotonic() - began
    print(json.dumps({"event": event, "seconds": seconds}))


class Loop:
    """Registers one backend after another over ever new connections.

    Args:
        url: Of the registry.
        acknowledged: Gets a name a line.
        prefix: Of all names.
    """

    def __init__(self, url: str, acknowledged: str, prefix: str) -> None:
        self._url = url
        self._file = Path(acknowledged)
        self._prefix = prefix
        self._numbers = itertools.count()
        self._last = time.monotonic()
        self._versions: dict[str, None] = {}
        self._faults: list[str] = []
        self._unanswered = 0
        self._acknowledged = 0
        self._gap_s = 0.0

    def run(self) -> None:
        """Go on until the standard input ends, then print the summary."""
        with self._file.open("w", encoding="ascii") as file:
            while not select.select([sys.stdin], [], [], 0)[0]:
                try:
                    with connected(self._url) as connection:
                        (info, _) = stream(connection, "_info", None)
                        self._versions[info["content"]["version"]] = None
                        for _ in range(CALLS_A_CONNECTION):
                            self._register(connection, file.fileno())
                except ConnectionClosed as error:
                    # The registry says good-bye when it stops; the call was not acknowledged.
                    self._unanswered += 1
                    if error.rcvd is None or error.rcvd.code != 1001:
                        self._faults.append(f"closed: {error}")
                except (OSError, InvalidHandshake, InvalidMessage, EOFError) as error:
                    self._faults.append(f"refused: {error!r}")
                    time.sleep(0.01)
        print(
            json.dumps(
                {
                    "acknowledged": self._acknowledged,
                    "unanswered": self._unanswered,
                    "faults": self._faults,
                    "gap_s": self._gap_s,
                    "versions": list(self._versions),
                }
            )
        )

    def _register(self, connection: ClientConnection, file: int) -> None:
        name = f"{self._prefix}{next(self._numbers)}"
        event = call(
            connection, "registry.register", {"name": name, "host": "127.0.0.1", "port": 4444}
        )
        if event["type"] != "backend_registered":
            raise RuntimeError(event)
        with open(file, "a", encoding="ascii", closefd=False) as lines:
            lines.write(f"{name}\n")
        self._acknowledged += 1
        now = time.monotonic()
        self._gap_s = max(self._gap_s, now - self._last)
        self._last = now


if __name__ == "__main__":
    if sys.argv[1] == "ask":
        ask(*sys.argv[2:])
    else:
        Loop(*sys.argv[2:]).run()
