# SPDX-License-Identifier: AGPL-3.0-only
"""What `registry.status` tells of a registry with sockets, files and a database."""

from __future__ import annotations

import time
from typing import Any

from plexus_registry import __version__
from plexus_registry.config.settings import Settings
from support.conversation import Conversation, conversation
from support.serving import serving


def status(client: Conversation) -> dict[str, Any]:
    """Ask for the status and return the event."""
    content: dict[str, Any] = client.call("registry.status").content
    return content


def test_status_counts_connections_and_bytes(settings: Settings) -> None:
    """Those that are open now, and what is on disk after the last commit."""
    before = int(time.time())
    with serving(settings) as served, conversation(served.url) as client:
        first = status(client)
        assert first["version"] == __version__
        assert before <= first["started_at"] <= time.time()
        assert first["connections"] == {"open": 1, "max": served.server.max_connections}
        with conversation(served.url):
            assert status(client)["connections"]["open"] == 2
        for number in range(20):
            params = {"name": f"n{number}", "host": "h", "port": 1, "metadata": "x" * 16_000}
            client.call("registry.register", params)
        database = settings.database
        files = [database, database.with_name(f"{database.name}-wal")]
        assert status(client)["store"]["bytes"] == sum(one.stat().st_size for one in files)
        assert first["store"]["bytes"] < status(client)["store"]["bytes"]


def test_status_counts_what_was_loaded(settings: Settings) -> None:
    """Entries of before the start are counted as those of after it."""
    for _ in range(2):
        with serving(settings) as served, conversation(served.url) as client:
            client.call("registry.register", {"name": "dev", "host": "h", "port": 1})
            entries = status(client)["entries"]
            assert (entries["total"], entries["by_source"]["manual"]) == (1, 1)


def test_status_tells_of_a_file_with_a_fault(settings: Settings) -> None:
    """The reason names file and line, to a client that may write."""
    with serving(settings) as served, conversation(served.url) as client:
        settings.config.write_text("[[backend]]\nname = 7\n")
        client.call("registry.reload")
        reload = status(client)["reload"]
        assert not reload["ok"]
        assert f"{settings.config}:1: " in reload["message"]
