# SPDX-License-Identifier: AGPL-3.0-only
"""The write-ahead log is there while the store is open, and nothing acknowledged gets lost."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from plexus_registry.backend import Backend, Put
from plexus_registry.store.sqlite import SqliteStore

COMMIT_LOOP = """
import itertools, sys
from pathlib import Path
from plexus_registry.backend import Backend, Put, Remove, Source
from plexus_registry.store.sqlite import SqliteStore

def put(name):
    return Put(Backend(id=name, name=name, host="h", port=1, protocol="ws", metadata="x" * 500,
                       source=Source.MANUAL, is_active=True, registered_at=1, created_at=1,
                       updated_at=1))

store = SqliteStore.open(Path(sys.argv[1]))
for number in itertools.count():
    store.commit([put(f"{number}-{part}") for part in range(8)])
    print(number, flush=True)
"""


def test_log_appears_and_goes(path: Path) -> None:
    """The log is beside the open database; a close writes it back and removes it."""
    wal = path.with_name(f"{path.name}-wal")
    with SqliteStore.open(path):
        assert wal.exists()
    assert not wal.exists()


def test_every_commit_is_synced(store: SqliteStore) -> None:
    """The connection is in WAL mode with synchronous=FULL (2) and trusts no schema."""
    connection = store._open_connection()
    pragmas = ("journal_mode", "synchronous", "trusted_schema", "busy_timeout")
    values = [connection.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in pragmas]
    assert values == ["wal", 2, 0, 100]


def test_other_programs_can_read_meanwhile(
    store: SqliteStore, backend: Callable[..., Backend], execute: Callable[..., object]
) -> None:
    """A reader beside the open store sees what is committed."""
    store.commit([Put(backend("a"))])
    assert execute("SELECT name FROM backends") == [("a",)]


@pytest.mark.parametrize("commits", [1, 7, 60, 400])
def test_killed_process_loses_nothing_acknowledged(
    path: Path, python: Callable[[str], subprocess.Popen[str]], commits: int
) -> None:
    """After SIGKILL amid commits every acknowledged group is there, and no group is halved."""
    child = python(COMMIT_LOOP)
    assert child.stdout is not None
    for _ in range(commits):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    rest = [line for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    acknowledged = commits + len(rest)
    with SqliteStore.open(path) as store:
        loaded = [backend.name for backend in store.load()]
    groups, halves = divmod(len(loaded), 8)
    assert acknowledged <= groups <= acknowledged + 1
    assert halves == 0
    assert loaded == [f"{number}-{part}" for number in range(groups) for part in range(8)]


def test_killed_process_leaves_its_log_to_the_next(
    path: Path, python: Callable[[str], subprocess.Popen[str]]
) -> None:
    """What a killed process left in the log only is read from there."""
    child = python(COMMIT_LOOP)
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert path.with_name(f"{path.name}-wal").stat().st_size > 0
    with SqliteStore.open(path) as store:
        assert len(store.load()) >= 8
