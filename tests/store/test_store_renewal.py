# SPDX-License-Identifier: AGPL-3.0-only
"""A database of which a flush failed moves to a new file. Real failures: tests/faults."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from plexus_registry.backend import Backend, Put, Remove
from plexus_registry.errors import StoreUnavailable
from plexus_registry.store.renewal import Flushes
from plexus_registry.store.sqlite import SqliteStore

NewBackend = Callable[..., Backend]


def test_renewal_keeps_entries_and_order_in_another_file(
    path: Path, store: SqliteStore, backend: NewBackend
) -> None:
    """The next change goes to a new file that has all of before, and so do those after it."""
    names = [f"b{number}" for number in range(500)]
    store.commit([Put(backend(name)) for name in names])
    path.chmod(0o640)
    before = path.stat()
    store._flushes.is_trusted = False

    store.commit([Remove("b1"), Put(backend("b2", port=2)), Put(backend("new"))])
    store.commit([Put(backend("newer"))])
    kept = store.load()
    assert path.stat().st_ino != before.st_ino
    assert path.stat().st_mode == before.st_mode
    store.close()
    assert [file.name for file in sorted(path.parent.iterdir())] == [path.name, f"{path.name}.lock"]
    with SqliteStore.open(path) as again:
        assert again.load() == kept
    assert [entry.name for entry in kept] == ["b0", *names[2:], "new", "newer"]
    assert kept[1].port == 2


def test_renewal_that_fails_is_made_up_for(
    path: Path, store: SqliteStore, backend: NewBackend
) -> None:
    """Changes are refused while no new file can be written; then one is, with what was there."""
    store.commit([Put(backend("a"))])
    store._flushes.is_trusted = False
    in_the_way = path.with_name(f".{path.name}.fresh")
    in_the_way.mkdir()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"cannot be used: .*\.fresh"):
            store.commit([Put(backend("b"))])
    assert [entry.name for entry in store.load()] == ["a"]

    in_the_way.rmdir()
    store.commit([Put(backend("c"))])
    assert [entry.name for entry in store.load()] == ["a", "c"]


def test_backup_waits_for_a_renewal(
    path: Path, store: SqliteStore, backend: NewBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection would keep the log that the renewal removes, for all of this process."""
    store.commit([Put(backend("a"))])
    store._flushes.is_trusted = False
    done = []

    def copy() -> None:
        store.backup(path.with_name("copy.db"))
        done.append("copied")

    copying = threading.Thread(target=copy)
    renew = Flushes.renew

    def renew_beside_a_backup(flushes: Flushes) -> None:
        copying.start()
        copying.join(0.2)  # long enough for the backup, if nothing held it up
        renew(flushes)
        done.append("renewed")

    monkeypatch.setattr(Flushes, "renew", renew_beside_a_backup)
    store.commit([Put(backend("b"))])
    copying.join()
    assert done == ["renewed", "copied"]
    store.commit([Put(backend("c"))])
    assert len(store.load()) == 3


KILLED = """
import os, sys
from pathlib import Path
from plexus_registry.store.sqlite import SqliteStore
from plexus_registry.backend import Backend, Put, Source

times = {"registered_at": 1, "created_at": 1, "updated_at": 1}
one = Backend(id="id-a", name="a", host="127.0.0.1", port=4444, protocol="ws",
              source=Source.MANUAL, is_active=True, **times)
SqliteStore.open(Path(sys.argv[1])).commit([Put(one)])
os._exit(0)
"""

READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT name FROM backends").fetchall()
print("reading", flush=True)
sys.stdin.readline()
print(connection.execute("SELECT name FROM backends").fetchall(), flush=True)
"""


def test_log_that_a_reader_keeps_is_not_written_on(
    path: Path, python: Callable[[str], subprocess.Popen[str]], backend: NewBackend
) -> None:
    """Who was killed may have failed to flush it: the first change goes to a new file and log."""
    python(KILLED).communicate()
    log = path.with_name(f"{path.name}-wal")
    kept = log.read_bytes()
    reader = python(READER)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "reading\n"
    before = path.stat().st_ino
    with SqliteStore.open(path, busy_timeout_s=0.1) as store:
        assert not store._flushes.is_trusted
        assert log.read_bytes() == kept
        store.commit([Put(backend("b"))])
        assert path.stat().st_ino != before
        assert kept[:32] not in log.read_bytes()
        assert [entry.name for entry in store.load()] == ["a", "b"]
        assert reader.communicate("\n")[0] == "[('a',)]\n"
        store.commit([Put(backend("c"))])
    with SqliteStore.open(path) as store:
        assert [entry.name for entry in store.load()] == ["a", "b", "c"]


def test_reader_alone_is_no_reason_for_a_new_file(
    path: Path, python: Callable[[str], subprocess.Popen[str]], backend: NewBackend
) -> None:
    """After an orderly stop there is no log that could be in doubt."""
    with SqliteStore.open(path) as store:
        store.commit([Put(backend("a"))])
    reader = python(READER)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "reading\n"
    with SqliteStore.open(path, busy_timeout_s=0.1) as store:
        assert store._flushes.is_trusted
        before = path.stat().st_ino
        store.commit([Put(backend("b"))])
        assert path.stat().st_ino == before


def test_file_of_a_renewal_that_was_killed_is_removed(path: Path) -> None:
    """It would take the space of a database for ever."""
    unfinished = path.with_name(f".{path.name}.fresh")
    unfinished.write_bytes(b"half")
    with SqliteStore.open(path):
        assert not unfinished.exists()
