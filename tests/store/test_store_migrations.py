# SPDX-License-Identifier: AGPL-3.0-only
"""Every database that ever was comes up to the present version; others are left untouched."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from plexus_registry.backend import Backend, Put, Source
from plexus_registry.errors import StoreCorrupt, StoreDamaged, StoreError, StoreTooNew
from plexus_registry.store import migrations
from plexus_registry.store.rows import COLUMNS
from plexus_registry.store.sqlite import SqliteStore

MakeBackend = Callable[..., Backend]
Execute = Callable[..., list[tuple[object, ...]]]
Files = Callable[[], dict[str, bytes]]
Row = tuple[object, ...]


def run_in_transaction(connection: sqlite3.Connection, steps: Iterable[str]) -> None:
    """Execute statements in one transaction."""
    with migrations.transaction(connection):
        for step in steps:
            connection.execute(step)


@pytest.mark.parametrize("content", [None, b""], ids=["no file", "empty file"])
@pytest.mark.parametrize("has_empty_log", [False, True])
def test_new_database_has_the_present_version(
    path: Path,
    execute: Execute,
    content: bytes | None,
    has_empty_log: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A new file gets table, version and application id, and is no longer empty when opened.

    A file that was there and is empty is told: something may have emptied it.
    """
    if content is not None:
        path.write_bytes(content)
    if has_empty_log:
        path.with_name(f"{path.name}-wal").touch()
    for _ in range(2):
        SqliteStore.open(path).close()
    told = [
        f"database is an empty file and begins anew path={path}, restore a backup if it was not"
        " meant to be empty"
    ]
    assert [it.getMessage() for it in caplog.records] == ([] if content is None else told)
    assert all(it.levelname == "WARNING" for it in caplog.records)
    with SqliteStore.open(path) as store:
        assert store.load() == []
        assert path.stat().st_size > 0
    assert execute("PRAGMA user_version") == [(migrations.SCHEMA_VERSION,)]
    assert execute("PRAGMA application_id") == [(migrations.APPLICATION_ID,)]
    assert [row[1] for row in execute("PRAGMA table_info(backends)")] == list(COLUMNS)


def test_new_database_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    """Directories that are made get mode 0700, files 0600."""
    path = tmp_path / "a" / "b" / "registry.db"
    with SqliteStore.open(path):
        modes = {one.name: one.stat().st_mode & 0o777 for one in path.parent.iterdir()}
    assert modes == dict.fromkeys(
        ["registry.db", "registry.db-wal", "registry.db-shm", "registry.db.lock"], 0o600
    )
    assert [one.stat().st_mode & 0o777 for one in path.parents[:2]] == [0o700, 0o700]


def test_opening_again_changes_nothing(path: Path, files: Files) -> None:
    """A database of the present version is not written to by opening it."""
    SqliteStore.open(path).close()
    before = files()
    SqliteStore.open(path).close()
    assert files() == before


def test_database_of_the_rust_program_is_adopted(path: Path, rust_database: list[Row]) -> None:
    """Every readable entry of the Rust program comes over, as it is and in its order."""
    with SqliteStore.open(path) as store:
        loaded = store.load()
    assert [one.name for one in loaded] == ["zeta", "alpha", "größe-日本", "port 0 / odd"]
    assert [one.source for one in loaded] == [*Source]
    for entry, row in zip(loaded, rust_database, strict=False):
        values = [getattr(entry, column) for column in COLUMNS]
        assert values == [*row[:10], row[10] != 0, *row[11:]]


def test_rust_rows_are_left_as_they_are(
    path: Path, rust_database: list[Row], execute: Execute
) -> None:
    """Adoption changes no value of the table, of the unreadable row neither."""
    SqliteStore.open(path).close()
    assert execute("SELECT * FROM backends ORDER BY rowid") == rust_database


def test_rust_program_can_use_the_file_afterwards(
    path: Path, rust_database: list[Row], rust_schema: str, backend: MakeBackend
) -> None:
    """The Rust program starts, reads and writes on a migrated file, and we read on after it."""
    with SqliteStore.open(path) as store:
        store.commit([Put(backend("ours"))])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(rust_schema)
        connection.execute(
            "INSERT INTO backends VALUES ('9','rust','h',1,'ws',?,?,?,?,'manual',1,1,NULL,1,1)",
            (None,) * 4,
        )
        connection.commit()
        rows = connection.execute("SELECT * FROM backends WHERE is_active = 1").fetchall()
        assert "ours" in [row[1] for row in rows]
    with SqliteStore.open(path) as store:
        assert [one.name for one in store.load()][-2:] == ["ours", "rust"]


def test_redundant_indices_are_dropped(
    path: Path, rust_database: list[Row], execute: Execute
) -> None:
    """Only the indices behind PRIMARY KEY and UNIQUE are left."""
    SqliteStore.open(path).close()
    assert len(execute("SELECT name FROM sqlite_schema WHERE type = 'index'")) == 2


@pytest.mark.parametrize("version", range(migrations.SCHEMA_VERSION))
def test_each_earlier_version_comes_up_to_the_present(
    path: Path, execute: Execute, backend: MakeBackend, version: int
) -> None:
    """A file as each earlier version left it is brought up to date."""
    for _, steps in migrations.pending(0)[:version]:
        for step in steps:
            execute(step)
    with SqliteStore.open(path) as store:
        store.commit([Put(backend("a"))])
    assert execute("PRAGMA user_version") == [(migrations.SCHEMA_VERSION,)]


def test_migration_is_done_whole_or_not_at_all(
    path: Path, rust_database: list[Row], execute: Execute
) -> None:
    """A step that fails leaves the version and the schema of before."""
    before = execute("SELECT sql FROM sqlite_schema")
    steps = (*migrations.pending(0)[0][1], "NO SUCH STATEMENT")
    with (
        contextlib.closing(migrations.connect(path, busy_timeout_s=1)) as connection,
        pytest.raises(sqlite3.OperationalError, match="syntax error"),
    ):
        run_in_transaction(connection, steps)
    assert execute("PRAGMA user_version") == [(0,)]
    assert execute("SELECT sql FROM sqlite_schema") == before


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_newer_version_is_left_untouched(
    path: Path, execute: Execute, files: Files, journal_mode: str
) -> None:
    """A database of a newer version is refused, byte for byte as it was, without a log."""
    SqliteStore.open(path).close()
    execute("PRAGMA user_version = 99")
    execute(f"PRAGMA journal_mode = {journal_mode}")
    before, changed_at = files(), path.stat().st_mtime_ns
    with pytest.raises(StoreTooNew, match=r"has version 99, this program knows up to 1"):
        SqliteStore.open(path)
    assert (files(), path.stat().st_mtime_ns) == (before, changed_at)
    assert list(before) == ["registry.db"]


def test_newer_version_in_the_log_is_left_untouched(
    path: Path,
    files: Files,
    python: Callable[[str], subprocess.Popen[str]],
) -> None:
    """A newer version that was killed left its number in the log only; that is seen, and kept."""
    SqliteStore.open(path).close()
    python(
        "import os, sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('PRAGMA user_version = 99')\n"
        "os._exit(0)"
    ).wait()
    before = files()
    assert before["registry.db-wal"]
    with pytest.raises(StoreTooNew, match="version 99"):
        SqliteStore.open(path)
    after = files()
    assert (after["registry.db"], after["registry.db-wal"]) == (
        before["registry.db"],
        before["registry.db-wal"],
    )


@pytest.mark.parametrize("pragma", ["application_id = 7", "user_version = 0", "user_version = 1"])
def test_database_of_another_program_is_left_untouched(
    path: Path, execute: Execute, files: Files, pragma: str
) -> None:
    """A mistaken path does not put our table into somebody else's database."""
    execute("CREATE TABLE bookmarks (url TEXT)")
    execute(f"PRAGMA {pragma}")
    before = files()
    with pytest.raises(StoreError, match="belongs to another program") as caught:
        SqliteStore.open(path)
    assert type(caught.value) is StoreError  # not one that is answered by setting the file aside
    assert files() == before


@pytest.mark.parametrize("missing", [("port",), ("namespace", "updated_at")], ids=str)
def test_table_without_needed_columns_is_refused(
    path: Path, execute: Execute, files: Files, missing: tuple[str, ...]
) -> None:
    """The message says which columns are missing."""
    columns = [f"{column} TEXT" for column in COLUMNS if column not in missing]
    execute(f"CREATE TABLE backends ({', '.join(columns)})")
    before = files()
    with pytest.raises(StoreCorrupt, match=f"table backends lacks {', '.join(missing)}"):
        SqliteStore.open(path)
    assert files() == before


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("CREATE TABLE backends ({})", "ON CONFLICT clause does not match"),
        ("CREATE TABLE backends ({}, UNIQUE (name), PRIMARY KEY (id)) WITHOUT ROWID", "rowid"),
        ("CREATE VIEW backends AS SELECT 1 AS {}", "view"),
    ],
)
def test_table_that_cannot_take_entries_is_refused(
    path: Path, execute: Execute, statement: str, reason: str
) -> None:
    """A table with the right columns on which our statements do not compile is refused."""
    separator = ", 1 AS " if "VIEW" in statement else ", "
    execute(statement.format(separator.join(COLUMNS)))
    with pytest.raises(StoreCorrupt, match=reason):
        SqliteStore.open(path)


def test_database_whose_table_went_missing_is_set_aside(path: Path, execute: Execute) -> None:
    """A database of ours without its table is not silently filled again."""
    SqliteStore.open(path).close()
    execute("DROP TABLE backends")
    with SqliteStore.open(path) as store:
        assert store.salvage is not None
        assert store.salvage.reason == "table backends is missing"
        assert Path(store.salvage.aside).exists()


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        (
            "CREATE TRIGGER audit AFTER UPDATE ON backends"
            " BEGIN INSERT INTO gone VALUES (new.name); END",
            "no such table: main.gone",
        ),
        ("CREATE INDEX by_host ON backends (elsewhere(host))", "unknown function: elsewhere()"),
        ("CREATE INDEX by_name ON backends (name COLLATE de)", "no such collation sequence: de"),
    ],
    ids=["trigger", "function", "collation"],
)
def test_sound_database_is_not_set_aside_for_what_was_added(
    path: Path, files: Files, backend: MakeBackend, added: str, reason: str
) -> None:
    """What breaks our statements is named, while the database runs and when it starts."""
    with SqliteStore.open(path) as store:
        store.commit([Put(backend("a"))])
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.create_function("elsewhere", 1, str, deterministic=True)
            other.create_collation("de", lambda a, b: (a > b) - (a < b))
            other.execute(added)
        what = " ".join(added.split()[1:3]).lower()
        expected = re.escape(f'({reason}): another program added to its table "{what}"')
        with pytest.raises(StoreCorrupt, match=expected) as caught:
            store.commit([Put(backend("a", port=2))])
        assert not isinstance(caught.value, StoreDamaged)
    before = files()
    with pytest.raises(StoreCorrupt, match=expected):
        SqliteStore.open(path)
    assert files() == before

    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute(f"DROP {what}")
    with SqliteStore.open(path) as again:
        assert [entry.port for entry in again.load()] == [backend("a").port]


def test_table_that_is_dropped_meanwhile_is_damage(
    path: Path, store: SqliteStore, execute: Execute, backend: MakeBackend
) -> None:
    """The registry has the entries and makes a new database of them."""
    store.commit([Put(backend("a"))])
    execute("DROP TABLE backends")
    with pytest.raises(StoreDamaged, match="no such table: backends"):
        store.commit([Put(backend("b"))])


def test_additional_column_of_another_program_is_kept(
    path: Path, rust_database: list[Row], execute: Execute, backend: MakeBackend
) -> None:
    """A column that we do not know keeps its values."""
    execute("ALTER TABLE backends ADD COLUMN colour TEXT")
    execute("UPDATE backends SET colour = 'red'")
    with SqliteStore.open(path) as store:
        store.commit([Put(backend("zeta", id="1"))])
        assert store.load()[0].port == 4444
    assert execute("SELECT colour FROM backends WHERE name = 'zeta'") == [("red",)]


def test_migrated_file_holds_everything_without_its_log(
    path: Path, rust_database: list[Row], execute: Execute, tmp_path: Path
) -> None:
    """After a migration the log can be lost, although a reader kept it from being removed."""
    execute("PRAGMA journal_mode = WAL")
    copy = tmp_path / "copy.db"
    with contextlib.closing(sqlite3.connect(path)) as reader:
        reader.execute("SELECT * FROM backends").fetchall()
        with SqliteStore.open(path):
            # Not in this process: closing the file here would drop SQLite's locks on it.
            subprocess.run(["cp", path, copy], check=True)
    with contextlib.closing(sqlite3.connect(copy)) as copied:
        (version,) = copied.execute("PRAGMA user_version").fetchone()
    assert version == migrations.SCHEMA_VERSION
