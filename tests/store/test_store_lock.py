# SPDX-License-Identifier: AGPL-3.0-only
"""One daemon per database, however the path is spelled and however the first one ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from plexus_registry.errors import StoreInUse
from plexus_registry.store.sqlite import SqliteStore

HOLDER = """
import sys
from pathlib import Path
from plexus_registry.store.sqlite import SqliteStore
store = SqliteStore.open(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.readline()
"""

OTHER_PROGRAM = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
"""

Python = Callable[[str], "subprocess.Popen[str]"]


def started(child: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """Wait until the child has said that it is there."""
    assert child.stdout is not None
    assert child.stdout.readline()
    return child


def test_second_process_is_refused_with_the_first_ones_pid(path: Path, python: Python) -> None:
    """The message names who has which database, and what to do."""
    child = started(python(HOLDER))
    with pytest.raises(StoreInUse) as caught:
        SqliteStore.open(path)
    assert str(caught.value) == (
        f"database {path} is in use by process {child.pid}: stop that one first, or give this one"
        " another database"
    )


def test_refusal_leaves_the_first_one_alone(path: Path, python: Python) -> None:
    """A refused second one takes nothing of the first one's lock with it."""
    child = started(python(HOLDER))
    for _ in range(2):
        with pytest.raises(StoreInUse, match=f"process {child.pid}:"):
            SqliteStore.open(path)


@pytest.mark.parametrize("spelling", ["symlink", "directory symlink", "relative"])
def test_other_spellings_of_the_path_collide(
    store: SqliteStore, path: Path, tmp_path: Path, spelling: str
) -> None:
    """Two names of one database are one database."""
    other = tmp_path / "other"
    if spelling == "symlink":
        other.symlink_to(path)
    elif spelling == "directory symlink":
        other.symlink_to(tmp_path)
        other = other / path.name
    else:
        other = Path(os.path.relpath(path))
    with pytest.raises(StoreInUse, match=f"process {os.getpid()}:"):
        SqliteStore.open(other)


def test_dangling_symlink_makes_the_database_it_names(path: Path, tmp_path: Path) -> None:
    """Database and lock are made where the symlink leads."""
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with SqliteStore.open(link):
        assert path.exists()
        assert path.with_name("registry.db.lock").read_bytes() == b"%d\n" % os.getpid()


def test_killed_holder_leaves_no_lock(path: Path, python: Python) -> None:
    """After SIGKILL the next one opens at once, whatever the lock file says."""
    child = started(python(HOLDER))
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert path.with_name("registry.db.lock").read_text() == f"{child.pid}\n"
    with SqliteStore.open(path) as store:
        assert store.load() == []


def test_close_empties_the_lock_file_and_keeps_it(path: Path) -> None:
    """The lock file stays, empty, and the database can be opened again."""
    with SqliteStore.open(path):
        pass
    assert path.with_name("registry.db.lock").read_bytes() == b""
    SqliteStore.open(path).close()


def test_child_does_not_inherit_the_lock(path: Path) -> None:
    """A child that outlives the store does not keep its database locked."""
    store = SqliteStore.open(path)
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        store.close()
        SqliteStore.open(path).close()
        child.kill()


def test_failed_open_releases_the_lock(path: Path) -> None:
    """A database that is refused is not locked afterwards."""
    path.write_bytes(b"no database")
    for _ in range(2):
        with pytest.raises(Exception, match="no SQLite file"):
            SqliteStore.open(path)


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_lock_of_another_program_is_reported_at_open(
    path: Path, python: Python, journal_mode: str, execute: Callable[..., object]
) -> None:
    """A program that knows nothing of our lock file, but writes, is seen too."""
    SqliteStore.open(path).close()
    execute(f"PRAGMA journal_mode = {journal_mode}")
    started(python(OTHER_PROGRAM))
    with pytest.raises(StoreInUse, match="is locked by another program"):
        SqliteStore.open(path, busy_timeout_s=0.1)
