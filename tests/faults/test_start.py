# SPDX-License-Identifier: AGPL-3.0-only
"""Databases that a daemon may not use: of a newer version, or held by another process."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from faults.conftest import Record
from faults.daemons import Stopwatch, config_of, on_disk, start
from plexus_registry.cli.exits import Exit
from support.daemon import run
from support.load import Load, stored
from support.timing import TIMEOUT_S

BUSY_ROUNDS = 1
NEWER = 1_000


def contents(database: Path) -> dict[str, bytes]:
    """Return what a database and its log hold. Lock file and index of the log hold no data."""
    files = (database, database.with_name(f"{database.name}-wal"))
    return {file.name: file.read_bytes() for file in files}


@contextlib.contextmanager
def held(database: Path) -> Iterator[None]:
    """Hold the database's lock for writing, as another program would.

    SQLite has no queue for it: beside clients that commit without a pause it takes luck, and time.
    """
    connection = sqlite3.connect(database, isolation_level=None, timeout=2 * TIMEOUT_S)
    with contextlib.closing(connection) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def test_newer_database_with_a_log_is_refused_untouched(home: Path, record: Record) -> None:
    """A database of a newer version that was killed stays as it is, byte by byte."""
    database = home / "newer" / "registry.db"
    with on_disk(home, database) as running:
        assert running.url
        running.stop(signal.SIGKILL)
    with contextlib.closing(sqlite3.connect(database)) as newer:
        newer.execute(f"PRAGMA user_version = {NEWER}")
        # As it lies there while the newer version runs: the version is in the log alone.
        copy = home / "killed"
        shutil.copytree(database.parent, copy)
    database = copy / "registry.db"
    database.with_name("registry.db-shm").unlink()
    before = contents(database)
    assert len(before["registry.db-wal"]) > 0

    refused = run(home, "--port", "0", "--db-path", str(database))
    assert refused.returncode == Exit.DATA
    assert f"has version {NEWER}" in refused.stderr
    assert "install the version that wrote it" in refused.stderr
    assert contents(database) == before
    record(
        "database of a newer version",
        rounds=1,
        note=f"refused with exit status {refused.returncode}, not a byte of it or of its log"
        " changed",
    )


def test_database_of_a_running_daemon_is_refused(
    home: Path, chance: random.Random, record: Record
) -> None:
    """A second daemon ends and names the first, which goes on under load."""
    database = home / "registry.db"
    load = Load(config_of(home), chance)
    with on_disk(home, database) as running:
        with load.on(start(running, load)):
            refused = run(home, "--port", "0", "--db-path", str(database))
            load.wait_for_acknowledgements(20)
        pid = running.process.pid
        running.stop(signal.SIGKILL)
    assert refused.returncode == Exit.TEMPORARY
    assert f"in use by process {pid}: stop that one first" in refused.stderr
    assert load.settle(stored(database)) == []
    record(
        "second daemon on one database",
        rounds=1,
        acknowledged=load.acknowledged,
        lost=load.lost,
        note=f"refused with exit status {refused.returncode} and the process id of the first",
    )


def test_lock_of_another_program_refuses_start_and_changes(
    home: Path, chance: random.Random, record: Record
) -> None:
    """Held by another program, no daemon starts, and one that runs refuses changes meanwhile."""
    database = home / "registry.db"
    load = Load(config_of(home), chance)
    watch = Stopwatch()
    for _ in range(BUSY_ROUNDS):
        with on_disk(home, database) as running, load.on(start(running, load)):
            load.wait_for_acknowledgements(20)
            with held(database):
                load.wait_for_refusals("another program holds its lock", 1)
            with watch.lap():
                load.wait_for_acknowledgements(1)
            load.wait_for_acknowledgements(20)
            running.stop(signal.SIGKILL)
        assert load.settle(stored(database)) == []
    with held(database):
        refused = run(home, "--port", "0", "--db-path", str(database))
    assert refused.returncode == Exit.TEMPORARY
    assert "is locked by another program: stop that one first" in refused.stderr
    record(
        "another program locks the database",
        rounds=BUSY_ROUNDS,
        acknowledged=load.acknowledged,
        lost=load.lost,
        recover_s=watch.longest_s,
        note=f"{len(load.refused)} changes refused with the reason, reads went on; no restart;"
        f" a start meanwhile ends with exit status {refused.returncode}",
    )
