# SPDX-License-Identifier: AGPL-3.0-only
"""A daemon whose database cannot grow: writes are refused with the reason, the rest goes on."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

from support.conversation import Conversation, conversation
from support.daemon import Daemon, daemon


def limit_files(running: Daemon, size_bytes: int) -> None:
    """Let no file of the daemon grow beyond a size (RLIMIT_FSIZE), from now on."""
    _, hard = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (size_bytes, hard))


def register(client: Conversation, name: str) -> Any:
    """Ask for a large entry and return the event."""
    params = {"name": name, "host": "h", "port": 1, "metadata": "x" * 16_000}
    return client.call("registry.register", params).content


def names(client: Conversation) -> set[str]:
    """Return the names of all entries."""
    return {entry["name"] for entry in client.call("registry.list").content["backends"]}


def test_database_that_cannot_grow_refuses_writes_and_recovers(tmp_path: Path) -> None:
    """Over one connection: refusals that say why, reads as before, and writes again afterwards."""
    with (
        daemon(tmp_path, ["--auto-register", "none"]) as running,
        conversation(running.url) as client,
    ):
        assert register(client, "before")["type"] == "backend_registered"
        limit_files(running, 256 * 1024)
        accepted, refused = {"before"}, []
        for number in range(40):
            event = register(client, f"n{number}")
            if event["type"] == "error":
                refused.append(event["message"])
            else:
                accepted.add(f"n{number}")

        assert refused
        for message in refused:
            assert message.startswith("Failed to register backend: database ")
            assert "cannot be used: " in message
            assert "\n" not in message
        running.wait_for_log("commit failed requests=1 reason=database ")
        assert names(client) == accepted
        assert client.call("registry.get", {"name": "before"}).content["backend"]
        deleted = client.call("registry.delete", {"name": "unknown"}).content
        assert deleted == {"type": "error", "message": "Backend not found: unknown"}

        limit_files(running, resource.RLIM_INFINITY)
        assert register(client, "after")["type"] == "backend_registered"
        assert running.stop() == 0
        print(refused[0])

    with (
        daemon(tmp_path, ["--auto-register", "none"]) as running,
        conversation(running.url) as client,
    ):
        assert names(client) == {*accepted, "after"}
