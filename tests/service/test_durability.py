# SPDX-License-Identifier: AGPL-3.0-only
"""What was answered survives SIGKILL, and the Rust program's database is served as it is."""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.conversation import Conversation, conversation
from support.daemon import daemon
from support.load import Load, listed, stored
from support.rust import RUST_SCHEMA


def entries(client: Conversation) -> dict[str, Any]:
    """Return all entries by name, in the order of the list."""
    listed = client.call("registry.list", {"active_only": False}).content["backends"]
    return {entry["name"]: entry for entry in listed}


def names_in_order(found: dict[str, Any]) -> list[str]:
    """Return the names, without the declared one, which comes back at the end."""
    return [name for name in found if name != "declared"]


@contextlib.contextmanager
def registry(
    home: Path, arguments: tuple[str, ...] = ("--auto-register", "none")
) -> Iterator[Conversation]:
    """Run the daemon with one client; it is killed at the end, never stopped."""
    with daemon(home, arguments) as running, conversation(running.url) as client:
        yield client
        running.stop(signal.SIGKILL)


def test_session_with_a_kill_after_each_step_loses_nothing(tmp_path: Path) -> None:
    """After each answer the daemon is killed; the next one has just what was answered."""
    config = tmp_path / ".config" / "plexus" / "backends.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[[backend]]\nname = "declared"\nhost = "h"\nport = 1\n')
    everything = {
        "name": "full",
        "host": "::1",
        "port": 65535,
        "protocol": "wss",
        "description": "ünï\n\tcode ✓",
        "namespace": "space",
        "version": "1.2.3",
        "metadata": {"deep": [1, None, {"x": "y"}]},
    }
    steps: list[tuple[str, dict[str, Any], str]] = [
        ("register", {"name": "a", "host": "h", "port": 1}, "backend_registered"),
        ("register", everything, "backend_registered"),
        (
            "register",
            {"name": "hub", "host": "h", "port": 2, "source": "auto"},
            "backend_registered",
        ),
        ("register", {"name": "a", "host": "h", "port": 1, "version": "2"}, "backend_registered"),
        ("list", {}, "backends"),
        ("get", {"name": "full"}, "backend"),
        ("update", {"name": "a", "port": 3, "description": "changed"}, "backend_updated"),
        ("update", {"name": "declared", "host": "other"}, "backend_updated"),
        ("ping", {"name": "hub"}, "ping"),
        ("deregister", {"name": "hub"}, "backend_deregistered"),
        ("delete", {"name": "full"}, "backend_deleted"),
        ("register", {"name": "full", "host": "again", "port": 4}, "backend_registered"),
        ("deregister", {"name": "a"}, "backend_deregistered"),
        ("ping", {"name": "a"}, "ping"),
        ("reload", {}, "reloaded"),
        ("delete", {"name": "declared"}, "backend_deleted"),
        ("reload", {}, "reloaded"),
    ]
    with registry(tmp_path) as client:
        before = entries(client)
    assert list(before) == ["declared"]

    restarts = []
    for method, params, event in steps:
        began = time.monotonic()
        with registry(tmp_path) as client:
            restarts.append(time.monotonic() - began)
            # A declaration that was deleted is back already, for a start reads the files.
            kept = entries(client)
            assert "declared" in kept
            before.setdefault("declared", kept["declared"])
            assert kept == before
            assert names_in_order(kept) == names_in_order(before)
            content = client.call(f"registry.{method}", params).content
            assert content["type"] == event
            before = entries(client)
            if "backend" in content:
                assert before[params["name"]] == content["backend"]

    with registry(tmp_path) as client:
        assert entries(client) == before
    assert set(before) == {"a", "full", "hub", "declared"}
    assert (before["a"]["port"], before["a"]["version"], before["a"]["is_active"]) == (3, "2", True)
    assert before["hub"]["is_active"] is False
    print(f"restart after SIGKILL, to the first answer: {max(restarts):.2f} s at the most")


def test_kill_at_any_moment_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    """Rounds of concurrent clients, each ended by SIGKILL: all that was acknowledged is there."""
    chance = random.Random(20)
    load = Load(tmp_path / ".config" / "plexus" / "backends.toml", chance)
    for _ in range(15):
        with daemon(tmp_path, ["--auto-register", "none"]) as running:
            with conversation(running.url) as client:
                assert load.settle(listed(client), is_served=True) == []
            with load.on(running.url):
                load.wait_for_acknowledgements(chance.randint(1, 150))
                time.sleep(chance.random() / 1000)  # into the middle of a commit
                running.stop(signal.SIGKILL)
        assert load.settle(stored(tmp_path / ".local/state/plexus-registry/registry.db")) == []
    print(f"acknowledgements compared: {load.acknowledged}")


RUST_ROWS: list[dict[str, Any]] = [
    {
        "id": "0b0e5b3e-6d3f-4f7e-9d5e-0f6a1c2d3e4f",
        "name": "substrate",
        "host": "127.0.0.1",
        "port": 4444,
        "protocol": "ws",
        "description": "The substrate",
        "namespace": "plexus",
        "version": "0.3.0",
        "metadata": '{"k": [1, 2]}',
        "source": "auto",
        "is_active": 1,
        "registered_at": 1_700_000_000,
        "last_seen": 1_700_000_500,
        "created_at": 1_700_000_000,
        "updated_at": 1_700_000_500,
    },
    {
        "id": "1c1f6c4f-7e40-4a8f-8e6f-1a7b2d3e4f50",
        "name": "with space and /",
        "host": "somewhere else",
        "port": 1,
        "protocol": "wss",
        "description": None,
        "namespace": None,
        "version": None,
        "metadata": None,
        "source": "manual",
        "is_active": 0,
        "registered_at": 1_700_000_001,
        "last_seen": None,
        "created_at": 1_700_000_001,
        "updated_at": 1_700_000_001,
    },
]


@pytest.mark.parametrize(
    "place", [".config/plexus/registry.db", ".local/state/plexus-registry/registry.db"]
)
def test_database_of_the_rust_program_is_served_as_it_is(tmp_path: Path, place: str) -> None:
    """Every entry keeps its id and times; changes are made and kept beside them."""
    database = tmp_path / place
    database.parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.executescript(RUST_SCHEMA)
        columns = ", ".join(RUST_ROWS[0])
        marks = ", ".join(f":{column}" for column in RUST_ROWS[0])
        connection.executemany(f"INSERT INTO backends ({columns}) VALUES ({marks})", RUST_ROWS)

    on_the_wire = {
        row["name"]: {key: value for key, value in row.items() if value is not None}
        | {"is_active": bool(row["is_active"])}
        for row in RUST_ROWS
    }
    with registry(tmp_path) as client:
        assert entries(client) == on_the_wire
        content = client.call("registry.register", {"name": "new", "host": "h", "port": 5}).content
        new = content["backend"]
    with registry(tmp_path) as client:
        assert entries(client) == {**on_the_wire, "new": new}
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(f"SELECT {columns} FROM backends ORDER BY created_at").fetchall()
    assert [dict(zip(RUST_ROWS[0], row, strict=True)) for row in rows[:2]] == RUST_ROWS
