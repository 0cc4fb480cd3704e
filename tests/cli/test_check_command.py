# SPDX-License-Identifier: AGPL-3.0-only
"""``plexus-registryctl check`` and ``status`` against registries and hubs that run."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from plexus_registry.config.settings import Settings
from support.control import ctl
from support.conversation import conversation
from support.rust import make_rust_database
from support.serving import Served, serving


def test_each_backend_is_asked_who_it_is(
    served: Served, settings: Settings, tmp_path: Path
) -> None:
    """Reachable, unreachable, silent, no hub and another name are told apart, side by side."""
    hub = replace(settings, hub_namespace="prod", database=tmp_path / "hub.db")
    with (
        serving(hub) as prod,
        socket.create_server(("127.0.0.1", 0)) as silent,
        conversation(served.url) as client,
    ):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            nobody = free.getsockname()[1]
        ports = {
            "prod": prod.port,
            "alias": prod.port,
            "nobody": nobody,
            "silent": silent.getsockname()[1],
        }
        for name, port in ports.items():
            fields = {"name": name, "host": "127.0.0.1", "port": port}
            client.call("registry.register", fields)
        url = ("--url", served.url, "--timeout", "1")
        ended = ctl(tmp_path, *url, "check")
        found = {
            one["name"]: one for one in json.loads(ctl(tmp_path, *url, "check", "--json").stdout)
        }
        sound = ctl(tmp_path, *url, "check", "prod")
    assert ended.returncode == 1
    assert ended.stderr == "plexus-registryctl: 2 of 4 backends do not answer\n"
    assert [line.split("\t")[2] for line in ended.stdout.splitlines()] == [
        *("ok", "FAILED", "ok", "FAILED")
    ]
    assert found["prod"]["reachable"]
    assert found["prod"]["latency_ms"] > 0
    assert found["prod"]["problem"] == ""
    assert found["alias"]["problem"] == "calls itself prod"
    assert found["nobody"]["problem"] == "Connection refused"
    assert found["silent"]["problem"] == "no answer within 1 s"
    assert (sound.returncode, len(sound.stdout.splitlines())) == (0, 1)


@pytest.mark.parametrize(
    ("host", "protocol"), [("", "ws"), ("h", "http"), ("h", ""), ("[::", "ws")]
)
def test_address_that_is_none_is_one_failure(
    settings: Settings, tmp_path: Path, host: str, protocol: str
) -> None:
    """An entry of the Rust program, which takes any, keeps nobody from hearing of the others."""
    make_rust_database(settings.database)
    with contextlib.closing(sqlite3.connect(settings.database)) as rust:
        rust.execute("DELETE FROM backends WHERE name NOT IN ('zeta', 'alpha')")
        changed = "UPDATE backends SET host = ?, protocol = ?, port = 1, is_active = 1"
        rust.execute(f"{changed} WHERE name = 'alpha'", (host, protocol))
        rust.execute(f"{changed} WHERE name = 'zeta'", ("127.0.0.1", "ws"))
        rust.commit()
    with serving(settings) as served:
        ended = ctl(tmp_path, "--url", served.url, "--timeout", "1", "check")
    assert ended.returncode == 1
    assert ended.stderr == "plexus-registryctl: 2 of 2 backends do not answer\n"
    assert [line.split("\t")[0] for line in ended.stdout.splitlines()] == ["alpha", "zeta"]


def test_token_is_not_sent_to_backends(settings: Settings, served: Served, tmp_path: Path) -> None:
    """A backend must not learn what lets one write in the registry."""
    with socket.create_server(("127.0.0.1", 0)) as thief, conversation(served.url) as client:
        port = thief.getsockname()[1]
        client.call("registry.register", {"name": "thief", "host": "127.0.0.1", "port": port})
        arguments = ("--url", served.url, "--timeout", "1", "check")
        ctl(tmp_path, *arguments, PLEXUS_REGISTRY_TOKEN="secret")
        accepted, _ = thief.accept()
        with accepted:
            request = accepted.recv(65536)
    assert b"Upgrade: websocket" in request
    assert b"secret" not in request


def test_status_shows_counts_reload_and_store(served: Served, tmp_path: Path) -> None:
    """A failed reload stands out; `--json` has all of it."""
    with conversation(served.url) as client:
        client.call("registry.register", {"name": "a", "host": "h", "port": 1})
    config = served.service.settings.config
    config.write_text("[[backend]]\nname = 7\n", encoding="utf-8")
    ctl(tmp_path, "--url", served.url, "reload")
    shown = ctl(tmp_path, "--url", served.url, "status").stdout
    assert "1 active, 0 inactive (1 manual)" in shown
    assert "FAILED" in shown
    assert str(config) in shown
    found = json.loads(ctl(tmp_path, "--url", served.url, "status", "--json").stdout)
    assert found["entries"]["by_source"]["manual"] == 1
    assert found["reload"]["ok"] is False
    assert found["store"]["ok"] is True
