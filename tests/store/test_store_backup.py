# SPDX-License-Identifier: AGPL-3.0-only
"""A backup is a whole database of its own, taken at one moment, or it is not there."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from plexus_registry.backend import Backend, Put
from plexus_registry.errors import StoreError, StoreRejected, StoreUnavailable
from plexus_registry.store.backup import backup
from plexus_registry.store.sqlite import SqliteStore

MakeBackend = Callable[..., Backend]

LIMITED = """
import resource, sys
from pathlib import Path
from plexus_registry.errors import StoreUnavailable
from plexus_registry.store.sqlite import SqliteStore

path = Path(sys.argv[1])
with SqliteStore.open(path) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
    try:
        store.backup(path.with_name("backup.db"))
    except StoreUnavailable as fault:
        print(fault)
"""


def test_backup_opens_to_the_same_entries(
    store: SqliteStore, tmp_path: Path, backend: MakeBackend
) -> None:
    """What was committed before the backup is in it, the log included, in the same order."""
    copy = tmp_path / "backup.db"
    store.commit([Put(backend(f"b{number}")) for number in range(300)])
    store.backup(copy)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert copy.read_bytes()[18:20] == b"\1\1"  # no WAL, so it opens on a read-only medium
    assert sorted(one.name for one in tmp_path.glob("*backup*")) == ["backup.db"]
    with SqliteStore.open(copy) as restored:
        assert restored.load() == store.load()


def test_backup_refuses_an_existing_file(store: SqliteStore, tmp_path: Path) -> None:
    """Nothing is overwritten."""
    (tmp_path / "backup.db").write_bytes(b"precious")
    with pytest.raises(StoreRejected, match="exists, expected the name of a new file"):
        store.backup(tmp_path / "backup.db")
    assert (tmp_path / "backup.db").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["missing/backup.db", "null\0", "registry.db/backup.db", "\ud800"])
def test_backup_to_an_impossible_path(store: SqliteStore, tmp_path: Path, name: str) -> None:
    """A path that cannot be written is told, and the store goes on."""
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        store.backup(tmp_path / name)
    assert store.load() == []


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("", "it has no table backends"),
        ("CREATE TABLE notes (text)", "it has no table backends"),
        ("PRAGMA application_id = 7; CREATE TABLE backends (id)", "belongs to another program"),
        ("CREATE TABLE backends (id); PRAGMA user_version = 99", "has version 99"),
    ],
    ids=["empty", "no table of ours", "another program", "newer version"],
)
def test_what_is_no_registrys_is_not_copied(tmp_path: Path, script: str, reason: str) -> None:
    """A nightly backup of the wrong file must not look as if all was well."""
    database, copy = tmp_path / "other.db", tmp_path / "copy.db"
    database.touch()
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.executescript(script)
    with pytest.raises(StoreError, match=reason) as caught:
        backup(database, copy)
    assert str(database) in str(caught.value)
    assert not copy.exists()


def test_only_files_are_copied(tmp_path: Path) -> None:
    """SQLite would wait for what a pipe brings; nothing is left behind."""
    os.mkfifo(tmp_path / "pipe")
    for database in (tmp_path / "pipe", tmp_path):
        with pytest.raises(StoreUnavailable, match="it is no regular file"):
            backup(database, tmp_path / "copy.db")
    assert [one.name for one in tmp_path.iterdir()] == ["pipe"]


def test_backup_that_does_not_fit_is_removed(
    path: Path,
    backend: MakeBackend,
    python: Callable[[str], subprocess.Popen[str]],
) -> None:
    """A backup that fails half-way leaves no file behind."""
    with SqliteStore.open(path) as store:
        store.commit([Put(backend(f"b{number}", metadata="x" * 1000)) for number in range(99)])
    output, _ = python(LIMITED).communicate()
    assert "backup.db cannot be used: " in output
    assert not list(path.parent.glob("*backup*"))


def test_backup_beside_commits_is_of_one_moment(
    store: SqliteStore, tmp_path: Path, backend: MakeBackend
) -> None:
    """Taken in another thread amid commits, a backup has no half of a group."""
    store.commit([Put(backend(f"b{number}", metadata="x" * 500)) for number in range(3000)])
    copies = [tmp_path / f"backup-{number}.db" for number in range(4)]

    def take_backups() -> None:
        for copy in copies:
            store.backup(copy)

    thread = threading.Thread(target=take_backups)
    thread.start()
    port = 0
    while thread.is_alive():
        port += 1
        store.commit([Put(backend("b0", port=port)), Put(backend("b2999", port=port))])
    thread.join()
    for copy in copies:
        with SqliteStore.open(copy) as restored:
            entries = restored.load()
        assert (len(entries), entries[0].port) == (3000, entries[-1].port)
