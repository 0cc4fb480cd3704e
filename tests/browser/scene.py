# SPDX-License-Identifier: AGPL-3.0-only
"""A registry as somebody may have it, to be looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from plexus_registry.config.settings import Settings
from support.conversation import conversation
from support.serving import Served, serving

DECLARED = """
[[backend]]
name = "prod"
host = "plexus.example.com"
port = 4444
protocol = "wss"
description = "Production"
namespace = "substrate"

[[backend]]
name = "staging"
host = "2001:db8::17"
port = 4444
description = "What becomes production next week"
"""

REGISTERED = (
    {"name": "dev", "host": "127.0.0.1", "port": 4444, "description": "The hub on my desk"},
    {"name": "forge", "host": "127.0.0.1", "port": 5010, "source": "auto", "version": "0.4.2"},
    {"name": "music", "host": "192.168.1.30", "port": 4450, "description": "Playlists and players"},
    {
        "name": "sensor-hub-greenhouse",
        "host": "greenhouse.garden.example.net",
        "port": 44440,
        "protocol": "wss",
        "description": "Temperature, humidity and the two windows of the roof",
    },
    {"name": "notes", "host": "10.0.0.8", "port": 4444, "source": "auto", "version": "1.3.0"},
)


@contextlib.contextmanager
def scene(folder: Path) -> Iterator[Served]:
    """Serve some backends: declared, registered, seen, and one that said good-bye."""
    config = folder / "backends.toml"
    config.write_text(DECLARED)
    settings = Settings(port=0, database=folder / "registry.db", config=config, auto_register=None)
    with serving(settings) as served, conversation(served.url) as client:
        for backend in REGISTERED:
            client.call("registry.register", backend)
        for name in ("dev", "prod", "music", "notes"):
            client.call("registry.ping", {"name": name})
        client.call("registry.deregister", {"name": "forge"})
        client.call("registry.reload")
        yield served
