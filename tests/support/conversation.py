# SPDX-License-Identifier: AGPL-3.0-only
"""A client that speaks the protocol over a real WebSocket and hides nothing of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any

from websockets.sync.client import ClientConnection, connect

from support.timing import TIMEOUT_S
from support.tls import decrypted

HUB = "registry-hub"
TERMINAL = ("done", "error")


@dataclass
class Answer:
    """All that came for one request.

    Attributes:
        response: The response frame.
        frames: The notifications of its subscription, the terminal one included.
    """

    response: dict[str, Any]
    frames: list[dict[str, Any]] = field(default_factory=list)

    @property
    def items(self) -> list[dict[str, Any]]:
        """The stream items."""
        return [frame["params"]["result"] for frame in self.frames]

    @property
    def content(self) -> Any:
        """The content of the only data item, which must be followed by one ``done``."""
        data, done = self.items
        assert data["type"] == "data"
        assert done["type"] == "done"
        return data["content"]

    @property
    def error(self) -> dict[str, Any]:
        """The only item, which must be an ``error``; or the error object of the response."""
        if "error" in self.response:
            assert not self.frames
            error: dict[str, Any] = self.response["error"]
            return error
        (item,) = self.items
        assert item["type"] == "error"
        return item


class Conversation:
    """One connection. Requests are numbered; any text can be sent as it is."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket
        self._next_id = 0

    def send(self, message: object) -> None:
        """Send text or bytes as they are, anything else as JSON."""
        if not isinstance(message, str | bytes):
            message = json.dumps(message)
        self.websocket.send(message)

    def receive(self) -> Any:
        """Receive one frame, which must be text, and decode it."""
        message = self.websocket.recv(timeout=TIMEOUT_S)
        assert isinstance(message, str)
        return json.loads(message)

    def answer(self) -> Answer:
        """Receive the next response and, if it starts a subscription, the whole stream."""
        answer = Answer(self.receive())
        subscription = answer.response.get("result")
        if isinstance(subscription, int) and not isinstance(subscription, bool):
            while not answer.frames or answer.items[-1]["type"] not in TERMINAL:
                frame = self.receive()
                assert frame["params"]["subscription"] == subscription
                answer.frames.append(frame)
        return answer

    def request(self, method: str, *params: Any) -> Answer:
        """Call a JSON-RPC method; without an argument there is no ``params`` key."""
        self._next_id += 1
        request = {"jsonrpc": "2.0", "id": self._next_id, "method": method}
        if params:
            (request["params"],) = params
        self.send(request)
        answer = self.answer()
        assert answer.response["id"] == self._next_id
        return answer

    def call(self, method: str, *params: Any) -> Answer:
        """Call a method through the hub; without an argument there are no inner ``params``."""
        arguments: dict[str, Any] = {"method": method}
        if params:
            (arguments["params"],) = params
        return self.request(f"{HUB}.call", arguments)

    def expect_silence(self) -> None:
        """Check that nothing is on its way, by asking something else and getting just that."""
        assert self.request("_info").content["backend"]


@contextlib.contextmanager
def conversation(
    url: str, *, ssl: SSLContext | None = None, **options: Any
) -> Iterator[Conversation]:
    """Connect, without compression and proxies as the Plexus clients do."""
    options = {
        "compression": None,
        "proxy": None,
        "max_size": None,
        "ping_interval": None,
    } | options
    with contextlib.ExitStack() as stack:
        if ssl is not None:
            options["sock"] = stack.enter_context(decrypted(url, ssl))
            url = f"ws{url.removeprefix('wss')}"
        websocket = stack.enter_context(connect(url, open_timeout=TIMEOUT_S, **options))
        yield Conversation(websocket)


def shape(value: Any, key: str = "") -> Any:
    """Replace what differs from run to run by its type."""
    if isinstance(value, dict):
        return {name: shape(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    if key in ("result", "subscription", "id", "plexus_hash", "timestamp") or key.endswith("_at"):
        return type(value).__name__
    return value
