# SPDX-License-Identifier: AGPL-3.0-only
"""``plexus-registryctl check`` and ``status`` against registries and hubs that run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from plexus_registry.backend import Backend
from plexus_registry.cli.check import AT_ONCE, Finding, ask_all, ask_hub
from plexus_registry.client import results
from plexus_registry.config.settings import Settings
from support.clocks import put_forward
from support.control import ctl
from support.conversation import conversation
from support.resolver import MUTE, Resolver, mute_resolver
from support.rust import make_rust_database
from support.serving import Served, serving
from support.timing import TIMEOUT_S

PATIENT = ("--timeout", str(TIMEOUT_S))
"""For those that answer: a slow machine is no fault of theirs."""


@contextlib.contextmanager
def hanging_up(heard: list[bytes] | None = None) -> Iterator[int]:
    """Hear what each connection asks first, and end it; give the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listening.accept()[0] as sock:
                        sock.settimeout(TIMEOUT_S)
                        request = sock.recv(65536)
                        if heard is not None:
                            heard.append(request)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(TIMEOUT_S)


def backend(name: str, host: str, port: int) -> Backend:
    """Return an entry as a registry gives it."""
    given = {"name": name, "host": host, "port": port}
    return results.LIST.read("", {"type": "backends", "backends": [given]})[0]


def test_each_backend_is_asked_who_it_is(
    served: Served, settings: Settings, tmp_path: Path
) -> None:
    """Reachable, unreachable, no hub and another name are told apart, side by side."""
    hub = replace(settings, hub_namespace="prod", database=tmp_path / "hub.db")
    with (
        serving(hub) as prod,
        hanging_up() as foreign,
        conversation(served.url) as client,
    ):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            nobody = free.getsockname()[1]
        ports = {
            "prod": prod.port,
            "alias": prod.port,
            "nobody": nobody,
            "foreign": foreign,
        }
        for name, port in ports.items():
            fields = {"name": name, "host": "127.0.0.1", "port": port}
            client.call("registry.register", fields)
        url = ("--url", served.url, *PATIENT)
        ended = ctl(tmp_path, *url, "check")
        found = {
            one["name"]: one for one in json.loads(ctl(tmp_path, *url, "check", "--json").stdout)
        }
        sound = ctl(tmp_path, *url, "check", "prod")
    assert ended.returncode == 1
    assert ended.stderr == "plexus-registryctl: 2 of 4 backends do not answer\n"
    assert [line.split("\t")[2] for line in ended.stdout.splitlines()] == [
        *("ok", "FAILED", "FAILED", "ok")
    ]
    assert found["prod"]["reachable"]
    assert found["prod"]["latency_ms"] > 0
    assert found["prod"]["problem"] == ""
    assert found["alias"]["problem"] == "calls itself prod"
    assert found["nobody"]["problem"] == "Connection refused"
    assert "HTTP" in found["foreign"]["problem"]
    assert (sound.returncode, len(sound.stdout.splitlines())) == (0, 1)


def test_silent_backend_has_its_time_and_no_more() -> None:
    """It accepts a connection, or its system does for it, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asked = backend("silent", "127.0.0.1", silent.getsockname()[1])
        found = asyncio.run(ask_hub(asked, 0.2, None))
    assert (found.reachable, found.problem) == (False, "no answer within 0.2 s")


def test_names_that_nobody_resolves_are_no_matter_to_other_backends(served: Served) -> None:
    """As many as there may be: one that answers is told as such while all others wait."""
    lost = [backend(f"n{number}", f"n{number}{MUTE}", 1) for number in range(AT_ONCE - 1)]
    time_s = 3600.0
    sound = backend("registry-hub", "localhost", served.port)

    async def run(resolver: Resolver) -> list[Finding]:
        def advance() -> None:
            done.append(True)
            if len(done) == 1:  # the sound one: nothing else makes the time of the others pass
                put_forward(asyncio.get_running_loop(), time_s)

        done: list[bool] = []
        return await ask_all([*lost, sound], time_s, None, advance)

    with mute_resolver() as resolver:
        *unresolved, found = asyncio.run(run(resolver))
    assert (found.reachable, found.problem) == (True, "")
    reason = "its name was not resolved within 3600 s"
    assert {one.problem for one in unresolved} == {reason}


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
        ended = ctl(tmp_path, "--url", served.url, *PATIENT, "check")
    assert ended.returncode == 1
    assert ended.stderr == "plexus-registryctl: 2 of 2 backends do not answer\n"
    assert [line.split("\t")[0] for line in ended.stdout.splitlines()] == ["alpha", "zeta"]


def test_token_is_not_sent_to_backends(settings: Settings, served: Served, tmp_path: Path) -> None:
    """A backend must not learn what lets one write in the registry."""
    heard: list[bytes] = []
    with hanging_up(heard) as port, conversation(served.url) as client:
        client.call("registry.register", {"name": "thief", "host": "127.0.0.1", "port": port})
        arguments = ("--url", served.url, *PATIENT, "check")
        ctl(tmp_path, *arguments, PLEXUS_REGISTRY_TOKEN="secret")
    [request] = heard
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
