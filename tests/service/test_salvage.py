# SPDX-License-Identifier: AGPL-3.0-only
"""A daemon whose database is damaged serves: from the start, and when it happens meanwhile."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from support.conversation import Conversation, conversation
from support.daemon import Daemon, daemon, environment, run
from support.notifications import notifications
from support.report import record_fault

PAGE = 4096
ENTRIES = 300
SET_ASIDE = re.compile(
    r"CRITICAL .*database damaged, set aside path=(?P<aside>\S+) salvaged=(?P<salvaged>\d+)"
    r" lost=(?P<lost>\w+)(?: names=\S+)? reason="
)


def entries(client: Conversation) -> dict[str, Any]:
    """Return all entries by name."""
    listed = client.call("registry.list", {"active_only": False}).content["backends"]
    return {entry["name"]: entry for entry in listed}


def report(running: Daemon) -> re.Match[str]:
    """Return what the log says of the damage, once."""
    (found,) = filter(None, map(SET_ASIDE.search, running.log))
    return found


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Where the daemon keeps its database."""
    return tmp_path / "registry.db"


@pytest.fixture
def arguments(database: Path) -> tuple[str, ...]:
    """The daemon's command line."""
    return ("--db-path", str(database), "--auto-register", "none")


@pytest.fixture
def acknowledged(tmp_path: Path, database: Path, arguments: tuple[str, ...]) -> dict[str, Any]:
    """Register entries with a daemon, which is stopped, and return them."""
    with daemon(tmp_path, arguments) as running, conversation(running.url) as client:
        for number in range(ENTRIES):
            client.call("registry.register", {"name": f"b{number}", "host": "h", "port": 1})
        found = entries(client)
        assert running.stop() == 0
    assert len(found) == ENTRIES
    return found


def test_damaged_database_is_salvaged_at_start(
    tmp_path: Path, database: Path, arguments: tuple[str, ...], acknowledged: dict[str, Any]
) -> None:
    """The service comes up, says where the old database is, and every entry is as it was."""
    content = bytearray(database.read_bytes())
    for number in (2, len(content) // PAGE - 1):  # the root of the table, and some other page
        content[(number - 1) * PAGE : number * PAGE] = random.Random(number).randbytes(PAGE)
    database.write_bytes(content)
    began = time.monotonic()
    with notifications(tmp_path) as manager:
        environ = environment(tmp_path, NOTIFY_SOCKET=manager.address)
        with (
            daemon(tmp_path, arguments, environ) as running,
            conversation(running.url) as client,
        ):
            took_s = time.monotonic() - began
            manager.receive_until(lambda message: message == "READY=1")
            found = entries(client)
            event = client.call("registry.register", {"name": "new", "host": "h", "port": 1})
            assert event.content["type"] == "backend_registered"
            shown = report(running)
            assert running.stop() == 0
        said = manager.pending()
    assert found.items() <= acknowledged.items()
    assert int(shown["salvaged"]) == len(found) > ENTRIES // 2
    aside = Path(shown["aside"])
    assert aside.read_bytes() == content
    assert re.fullmatch(r"registry\.db\.corrupt-\d{8}T\d{6}Z", aside.name)
    lost = ENTRIES - len(found)
    figures = {"rounds": 1, "acknowledged": ENTRIES, "lost": lost, "recover_s": round(took_s, 2)}
    record_fault(
        "a daemon on a damaged database", **figures, note="the root of its table and another page"
    )

    with daemon(tmp_path, arguments) as running, conversation(running.url) as client:
        assert entries(client).keys() == {*found, "new"}
        assert not any(map(SET_ASIDE.search, running.log))
    assert said


def test_status_says_that_the_database_was_damaged(
    tmp_path: Path, database: Path, arguments: tuple[str, ...], acknowledged: dict[str, Any]
) -> None:
    """`systemctl status` shows it for as long as the daemon runs."""
    with database.open("r+b") as file:
        file.write(bytes(PAGE))
    with notifications(tmp_path) as manager:
        environ = environment(tmp_path, NOTIFY_SOCKET=manager.address)
        with daemon(tmp_path, arguments, environ) as running:
            messages = manager.receive_until(lambda message: message == "READY=1")
            aside = report(running)["aside"]
    assert (
        f"STATUS=serving {ENTRIES} backends ({ENTRIES} manual); the database was DAMAGED"
        in (messages[-2])
    )
    assert messages[-2].endswith(f"set aside: {aside}")


def test_database_damaged_under_a_running_daemon_is_made_anew(
    tmp_path: Path, database: Path, arguments: tuple[str, ...]
) -> None:
    """Everything acknowledged is in memory: clients notice nothing, and a kill loses nothing."""
    with daemon(tmp_path, arguments) as running, conversation(running.url) as client:
        for number in range(20):
            client.call("registry.register", {"name": f"b{number}", "host": "h", "port": 1})
        with contextlib.closing(sqlite3.connect(database)) as other:
            other.execute("DROP TABLE backends")
        event = client.call("registry.register", {"name": "later", "host": "h", "port": 1})
        assert event.content["type"] == "backend_registered"
        client.call("registry.delete", {"name": "b0"})
        before = entries(client)
        shown = report(running)
        assert (shown["salvaged"], shown["lost"]) == ("20", "0")
        running.stop(signal.SIGKILL)
    with daemon(tmp_path, arguments) as running, conversation(running.url) as client:
        assert entries(client) == before
        assert len(before) == 20
    record_fault(
        "a database damaged under a running daemon",
        **{"rounds": 1, "acknowledged": 21, "lost": 0, "recover_s": None},
        note="rebuilt from memory, no restart",
    )


def test_file_that_was_never_ours_is_refused(tmp_path: Path, database: Path) -> None:
    """A mistake in a setting moves nobody's file."""
    database.write_bytes(b"a letter to somebody\n" * 500)
    ended = run(tmp_path, "--port", "0", "--db-path", str(database))
    assert ended.returncode == 65
    assert "does not look like one of plexus-registry" in ended.stderr
    assert "restore a backup, or move the file away" in ended.stderr
    assert sorted(one.name for one in tmp_path.iterdir() if "registry" in one.name) == [
        "registry.db",
        "registry.db.lock",
    ]
