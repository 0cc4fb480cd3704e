# SPDX-License-Identifier: AGPL-3.0-only
"""Faults of the machine: each is told in a sentence, nothing is half done, and it passes."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from plexus_registry.backend import Backend, Put
from plexus_registry.errors import StoreCorrupt, StoreError, StoreUnavailable
from plexus_registry.store import migrations
from plexus_registry.store.sqlite import SqliteStore
from support.daemon import BOUND_BY_MODES

MakeBackend = Callable[..., Backend]
Execute = Callable[..., list[tuple[object, ...]]]
Files = Callable[[], dict[str, bytes]]

FILE_LIMIT = """
import resource, sys
from pathlib import Path
from plexus_registry.backend import Backend, Put, Source
from plexus_registry.errors import StoreUnavailable
from plexus_registry.store.sqlite import SqliteStore

path = Path(sys.argv[1])
times = {"registered_at": 1, "created_at": 1, "updated_at": 1}

def put(name):
    return Put(Backend(id=name, name=name, host="h", port=1, protocol="ws", metadata="x" * 9000,
                       source=Source.MANUAL, is_active=True, **times))

store = SqliteStore.open(path)
store.commit([put("before")])
size = path.with_name(path.name + "-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5000, resource.RLIM_INFINITY))
for attempt in range(3):
    try:
        store.commit([put("a"), put("b")])
    except StoreUnavailable as fault:
        print(fault)
print(*[backend.name for backend in store.load()])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.commit([put("after")])
store.close()
"""


JOURNAL_NEEDED = """
import sys
from pathlib import Path
from plexus_registry.errors import StoreUnavailable
from plexus_registry.store.faults import faults
from plexus_registry.store.migrations import connect

path = Path(sys.argv[1])
try:
    with faults(path):
        connect(path, busy_timeout_s=1).execute("INSERT INTO t VALUES (1)")
except StoreUnavailable as fault:
    print(fault)
"""


def names(store: SqliteStore) -> list[str]:
    """Return the names of the entries in their order."""
    return [backend.name for backend in store.load()]


def test_file_that_cannot_grow_fails_the_commit_and_recovers(
    path: Path, python: Callable[[str], subprocess.Popen[str]]
) -> None:
    """While the log cannot grow commits fail and reads go on; afterwards commits work again."""
    output, _ = python(FILE_LIMIT).communicate()
    *faults, loaded = output.splitlines()
    assert (
        faults
        == [f"database {path} cannot be used: reading or writing failed (SQLITE_IOERR_WRITE)"] * 3
    )
    assert loaded == "before"
    with SqliteStore.open(path) as store:
        assert names(store) == ["before", "after"]


def test_full_disk_fails_the_commit_and_recovers(store: SqliteStore, backend: MakeBackend) -> None:
    """A commit for which there is no room leaves nothing behind; with room the same one works."""
    store.commit([Put(backend("a"))])
    changes = [Put(backend(f"b{number}", metadata="x" * 9000)) for number in range(9)]
    connection = store._open_connection()
    connection.execute("PRAGMA max_page_count = 5")
    with pytest.raises(StoreUnavailable, match=r"the disk is full \(SQLITE_FULL\)"):
        store.commit(changes)
    assert names(store) == ["a"]
    connection.execute("PRAGMA max_page_count = 1000000")
    store.commit(changes)
    assert len(store.load()) == 10


def test_read_only_database_fails_the_commit_and_recovers(
    store: SqliteStore, backend: MakeBackend
) -> None:
    """A database that must not be written says so; reads go on."""
    connection = store._open_connection()
    connection.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreUnavailable, match="is read-only"):
        store.commit([Put(backend("a"))])
    assert names(store) == []
    connection.execute("PRAGMA query_only = OFF")
    store.commit([Put(backend("a"))])
    assert names(store) == ["a"]


def test_lock_of_another_program_fails_the_commit_and_recovers(
    store: SqliteStore, path: Path, backend: MakeBackend
) -> None:
    """A writer beside us is waited for, then reported; when it is gone the commit works."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match=r"another program holds its lock"):
            store.commit([Put(backend("a"))])
    store.commit([Put(backend("a"))])
    assert names(store) == ["a"]


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_commit_into_a_file_without_a_name_is_refused(
    store: SqliteStore, path: Path, backend: MakeBackend, suffix: str, replaced: bool
) -> None:
    """A database that was taken away from under us does not swallow acknowledged changes."""
    taken = path.with_name(f"{path.name}{suffix}")
    aside = taken.rename(path.with_name("aside"))
    if replaced:
        taken.write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="was moved or replaced"):
        store.commit([Put(backend("a"))])
    aside.rename(taken)
    store.commit([Put(backend("a"))])
    assert names(store) == ["a"]


def test_table_dropped_by_another_program_is_reported(
    store: SqliteStore, execute: Execute, backend: MakeBackend
) -> None:
    """A schema that changes under us is a fault of the database, not a crash."""
    execute("DROP TABLE backends")
    with pytest.raises(StoreCorrupt, match="no such table: backends"):
        store.commit([Put(backend("a"))])
    with pytest.raises(StoreCorrupt, match="no such table: backends"):
        store.load()


@pytest.mark.parametrize(
    "content",
    [b"x", b"some text\n", b"some text\n" * 1000, b"SQLite format 3\0" + bytes(99)],
    ids=["byte", "line", "text", "header"],
)
def test_file_that_is_no_database_is_left_untouched(
    path: Path, files: Files, content: bytes
) -> None:
    """Anything else at the path is refused with what to do, and not written to."""
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match=r"restore a backup, or move the file away") as caught:
        SqliteStore.open(path)
    assert str(path) in str(caught.value)
    assert files() == {path.name: content}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("directory", "is a directory, expected a database"),
        ("fifo", "is no regular file"),
        ("file/registry.db", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("loop", "Too many levels of symbolic links"),
        ("null\0", "null"),
    ],
    ids=["directory", "fifo", "below a file", "long name", "symlink loop", "null"],
)
def test_path_that_cannot_be_a_database(tmp_path: Path, name: str, reason: str) -> None:
    """The sentence names the path and what is wrong with it."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(StoreUnavailable, match=reason) as caught:
        SqliteStore.open(tmp_path / name)
    assert str(tmp_path)[:40] in str(caught.value)


def test_missing_permission_is_told(tmp_path: Path) -> None:
    """A directory that refuses new files (sysfs does so even to root) is named."""
    with pytest.raises(StoreUnavailable, match=r"^/sys/kernel/registry.db cannot be used: "):
        SqliteStore.open(Path("/sys/kernel/registry.db"))


def test_database_without_a_log_is_refused() -> None:
    """SQLite staying in another journal mode is not overlooked."""
    with (
        contextlib.closing(sqlite3.connect(":memory:")) as connection,
        pytest.raises(StoreError, match="journal mode is memory"),
    ):
        migrations.enter_wal(connection, Path("/x.db"))


def test_first_exception_leaves_the_transaction(path: Path) -> None:
    """A clean-up that cannot work any more does not hide what happened first."""

    def fail(connection: sqlite3.Connection, first: str) -> None:
        with migrations.transaction(connection):
            connection.execute(first)
            raise KeyError(first)

    with contextlib.closing(migrations.connect(path, busy_timeout_s=1, mode="rwc")) as connection:
        for first in ("SELECT 1", "ROLLBACK", "COMMIT"):
            with pytest.raises(KeyError, match=first):
                fail(connection, first)


def test_transaction_that_was_left_open_is_rolled_back(
    store: SqliteStore, backend: MakeBackend
) -> None:
    """If a roll-back failed, the next commit makes up for it rather than failing for ever."""
    connection = store._open_connection()
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DELETE FROM backends")
    store.commit([Put(backend("a"))])
    assert names(store) == ["a"]
    assert not connection.in_transaction


def test_failed_open_leaves_no_descriptor(path: Path, backend: MakeBackend) -> None:
    """Whatever fails, nothing stays open."""
    path.write_bytes(b"SQLite format 3\0" + bytes(99))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(StoreCorrupt):
            SqliteStore.open(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_store_can_be_used_from_another_thread(store: SqliteStore, backend: MakeBackend) -> None:
    """One thread at a time, but not always the same one."""
    thread = threading.Thread(target=store.commit, args=([Put(backend("a"))],))
    thread.start()
    thread.join()
    assert names(store) == ["a"]


def test_fault_of_sqlite_names_what_may_not_be_written(path: Path) -> None:
    """SQLite cannot make its journal in a directory that is closed to us, and does not say so."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
    path.parent.chmod(0o500)
    try:
        output = subprocess.check_output(
            [*BOUND_BY_MODES[:3], sys.executable, "-c", JOURNAL_NEEDED, path], text=True
        )
    finally:
        path.parent.chmod(0o700)
    assert output.startswith(
        f"database {path} cannot be used: Permission denied (the directory {path.parent} is not"
        f" writable, permit user {os.getuid()} to write it) (SQLITE_"
    )
