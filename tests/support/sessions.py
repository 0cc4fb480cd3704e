# SPDX-License-Identifier: AGPL-3.0-only
"""A session without sockets: messages in and out, with time and disk in the test's hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

from plexus_registry.access import Client, Trust
from plexus_registry.catalog import Catalog
from plexus_registry.protocol.hub import Hub
from plexus_registry.protocol.session import Session
from plexus_registry.registry import Offload, Registry
from plexus_registry.rules import Declare
from support.memory import InlineOffload, MemoryStore

NOW = 1_800_000_000
CLIENT = Client("test", Trust.LOCAL)


class Desk:
    """A registry in memory and one session with it.

    Args:
        commits: What runs the store's work; at once unless given.
        limits: Arguments of `Hub`.

    Attributes:
        outputs: How often the session said that there is something to send.
    """

    def __init__(
        self, commits: Offload | None = None, *, namespace: str = "registry-hub", **limits: Any
    ) -> None:
        numbers = itertools.count(1)
        self.store = MemoryStore()
        self.registry = Registry(
            self.store,
            Catalog(),
            commits=InlineOffload() if commits is None else commits,
            reads=InlineOffload(),
            declarations=lambda explicit: Declare(file={}),
            clock=lambda: NOW,
            new_id=lambda: f"id-{next(numbers)}",
        )
        self.hub = Hub(self.registry, namespace=namespace, version="1.2.3", **limits)
        self.outputs = 0
        self.session = self.new_session()

    def new_session(self, on_output: Callable[[], None] | None = None) -> Session:
        """Return one more session with the same registry."""
        return Session(self.hub, client=CLIENT, on_output=on_output or self._count_output)

    def _count_output(self) -> None:
        self.outputs += 1

    def receive(self, message: object) -> None:
        """Give one message to the session; anything but text or bytes becomes JSON first."""
        if not isinstance(message, str | bytes):
            message = json.dumps(message)
        self.session.receive(message.encode() if isinstance(message, str) else message)

    def advance(self) -> None:
        """Go on with a batch as far as it goes now."""
        while self.session.is_busy and self.session.advance():
            pass

    def sent(self) -> list[Any]:
        """Return what there is to send, decoded."""
        return [json.loads(message) for message in self.session.messages_to_send()]

    def ask(self, message: object) -> list[Any]:
        """Give one message to the session and return all that it has to send then."""
        self.receive(message)
        self.advance()
        return self.sent()


def request(id: object, method: str, *params: Any) -> dict[str, Any]:
    """Return a request; without an argument there are no params."""
    members = {"jsonrpc": "2.0", "id": id, "method": method}
    if params:
        (members["params"],) = params
    return members


def register(id: object, name: str, **fields: Any) -> dict[str, Any]:
    """Return a direct request that registers a backend."""
    params = {"name": name, "host": "h", "port": 1, **fields}
    return request(id, "registry.register", params)
