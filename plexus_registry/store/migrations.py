# SPDX-License-Identifier: AGPL-3.0-only
"""The schema, how it came about (numbered migrations), and how a file comes to have it.

``PRAGMA user_version`` counts the migrations that a database has seen. Version 0 is an empty file
or the database of the Rust program of the same name, whose table is adopted as it is: that program
can go on reading and writing the file, so a migration may never rename, drop or narrow a column of
``backends``, and may only add columns that are nullable or have a default.

The order of insertion is the implicit rowid. VACUUM may renumber it but keeps its order.

A rule for whoever changes this package: while a connection is open, nothing else in this process
may open and close the database file. Closing any descriptor of a file drops all POSIX locks that
the process holds on it, SQLite's among them (sqlite.org/howtocorrupt.html, section 2.2).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from plexus_registry.errors import (
    StoreCorrupt,
    StoreDamaged,
    StoreError,
    StoreTooNew,
    StoreUnavailable,
    quote,
)
from plexus_registry.store.wal import read_log

logger = logging.getLogger(__name__)

APPLICATION_ID = int.from_bytes(b"PlxR", "big")
"""``PRAGMA application_id``: tells file(1), and us, whose database this is. 0 is taken as ours."""

BUSY_TIMEOUT_S = 5.0
"""How long another program's lock is waited for."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE IF NOT EXISTS backends (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            host TEXT NOT NULL,
            port INTEGER NOT NULL,
            protocol TEXT NOT NULL,
            description TEXT,
            namespace TEXT,
            version TEXT,
            metadata TEXT,
            source TEXT NOT NULL,
            is_active INTEGER NOT NULL DEFAULT 1,
            registered_at INTEGER NOT NULL,
            last_seen INTEGER,
            created_at INTEGER NOT NULL,
            updated_at INTEGER NOT NULL
        )
        """,
        # The Rust program's indices: the first repeats what UNIQUE has, the others serve queries
        # that we answer from memory, and a change of every column writes 6 pages with them, 3
        # without. That program makes them again if it opens the file; they do no harm.
        "DROP INDEX IF EXISTS idx_backends_name",
        "DROP INDEX IF EXISTS idx_backends_active",
        "DROP INDEX IF EXISTS idx_backends_source",
        f"PRAGMA application_id = {APPLICATION_ID}",
    ),
)
"""Migration N, counted from 1, leads from version N - 1 to version N, in one transaction."""

SCHEMA_VERSION = len(MIGRATIONS)

# What SQLite itself makes for a constraint has no text.
_STRANGERS = """
    SELECT type || ' ' || name FROM sqlite_master
    WHERE tbl_name = 'backends' COLLATE NOCASE AND type <> 'table' AND sql IS NOT NULL
"""
_MAGIC = b"SQLite format 3\0"
_UNREAD = re.compile(r"(?:get|read).*page.*error code=(\d+)")


def pending(version: int) -> list[tuple[int, tuple[str, ...]]]:
    """Return what a database of *version* has not seen yet: versions with their statements."""
    return [
        (number, (*statements, f"PRAGMA user_version = {number}"))
        for number, statements in enumerate(MIGRATIONS, start=1)
        if number > version
    ]


def prepare(
    path: Path, *, statements: Sequence[str], columns: Sequence[str], busy_timeout_s: float
) -> None:
    """See to it that *path* is a sound database of the present version, on disk.

    Args:
        path: The database; made if it is missing. No connection to it is open in this process.
        statements: What the program is going to execute; it must compile.
        columns: The columns of ``backends`` that the program needs.
        busy_timeout_s: How long to wait for another program's lock.

    Raises:
        StoreError: If it is another program's database, or cannot have a write-ahead log.
        StoreUnavailable: If it is no regular file.
        StoreTooNew: If a newer version of this program wrote it.
        StoreDamaged: If it is damaged, or its table went missing.
        StoreCorrupt: If its table is not what it should be, or another program's index or trigger
            keeps it from being used.
        OSError: If it cannot be opened.
        sqlite3.Error: If it cannot be read or written.
    """
    _create(path)
    version = _inspect(path, statements, columns, busy_timeout_s)
    if version < SCHEMA_VERSION:
        _migrate(path, version, busy_timeout_s)
    # A database that a power cut leaves at 0 bytes loses its log as well. Also if nothing was
    # migrated: who did it before may have been killed before this line.
    sync(path)
    sync(path.parent)


def _migrate(path: Path, version: int, busy_timeout_s: float) -> None:
    """Take the steps that are missing, each whole or not at all, down to the file itself."""
    with contextlib.closing(connect(path, busy_timeout_s=busy_timeout_s)) as connection:
        enter_wal(connection, path)
        for _, steps in pending(version):
            with transaction(connection):
                for step in steps:
                    connection.execute(step)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    logger.info("database migrated path=%s from=%d to=%d", path, version, SCHEMA_VERSION)


def make_directories(directory: Path) -> None:
    """Make *directory* and what is missing above it, each with mode 0700."""
    # Path.mkdir(parents=True) would give the mode to the last one only.
    missing = [one for one in (directory, *directory.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
        sync(one.parent)


def _create(path: Path) -> None:
    """Make an empty file that its owner alone can read, unless *path* exists.

    Raises:
        StoreUnavailable: If it exists and is no regular file.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
            raise StoreUnavailable(f"{path} is {kind}, expected a database") from None


def _inspect(
    path: Path, statements: Sequence[str], columns: Sequence[str], busy_timeout_s: float
) -> int:
    """Return the version of the database. Changes neither the file nor its log."""
    with path.open("rb") as file:
        magic = file.read(len(_MAGIC))
    has_wal = _has_wal(path)
    if magic != _MAGIC and (magic or has_wal):
        # SQLite takes a file of one byte for an empty one, and the log of an empty one for rubbish.
        what = "it is no SQLite file" if magic else "it is empty, but its write-ahead log is not"
        raise corrupt(path, what)
    mode = mode_to_look(path)
    connection = connect(path, busy_timeout_s=busy_timeout_s, mode=mode)
    with contextlib.closing(connection), telling_strangers(connection, path):
        version = _check_version(connection, path)
        if fault := has_wal and read_log(path).fault:
            raise corrupt(path, fault)
        check(connection, path)
        if _has_table(connection, path, version):
            _check_table(connection, path, statements, columns)
    return version


def mode_to_look(path: Path) -> str:
    """Return the mode of a connection that changes neither the database nor its log."""
    # The last connection to close writes a log that it finds back into the file, unless it is
    # read-only. Without a log a read-only one is worse: it makes one and leaves it.
    return "ro" if _has_wal(path) else "rw"


def _has_wal(path: Path) -> bool:
    wal = path.with_name(f"{path.name}-wal")
    return wal.exists() and wal.stat().st_size > 0


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Check every page of the database, and that its indices agree with its table.

    `quick_check` would leave the latter out, for 0.02 s rather than 0.11 s with 100,000 entries;
    the damage would come up when an entry is changed.

    Raises:
        StoreDamaged: If it is damaged.
        StoreUnavailable: If a page cannot be read.
    """
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict == "ok":
        return
    # A page that the disk does not give is no page that is damaged, but SQLite says it in one way.
    code = _UNREAD.search(verdict)
    if code and int(code[1]) & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        raise StoreUnavailable(f"database {path} cannot be read: {_line(verdict)}")
    raise corrupt(path, _line(verdict))


def _line(verdict: str) -> str:
    return " ".join(verdict.split())


def _check_version(connection: sqlite3.Connection, path: Path) -> int:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id not in (0, APPLICATION_ID):
        raise foreign(path)
    version: int
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if not 0 <= version <= SCHEMA_VERSION:
        raise too_new(path, version)
    return version


def _has_table(connection: sqlite3.Connection, path: Path, version: int) -> bool:
    """Tell whether there is a table yet; only a database that has nothing may be without."""
    if connection.execute("PRAGMA table_info(backends)").fetchone() is not None:
        return True
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id == APPLICATION_ID:
        raise corrupt(path, "table backends is missing")
    # Many programs count in user_version, few set an application_id.
    if version or connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None:
        raise foreign(path)
    return False


def _check_table(
    connection: sqlite3.Connection, path: Path, statements: Sequence[str], columns: Sequence[str]
) -> None:
    present = {str(row[1]).lower() for row in connection.execute("PRAGMA table_info(backends)")}
    missing = [column for column in columns if column not in present]
    if missing:
        raise _mangled(connection, path, f"table backends lacks {', '.join(missing)}")
    for statement in statements:
        connection.execute(f"EXPLAIN {statement}", (None,) * statement.count("?"))


@contextlib.contextmanager
def telling_strangers(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Tell statements that another program's index or trigger breaks from a mangled schema.

    Raises:
        StoreDamaged: If the table has nothing but what we made, and yet ours do not compile.
        StoreCorrupt: If it has more, or is not marked as ours: what it holds is sound then.
    """
    try:
        yield
    except sqlite3.OperationalError as exc:
        if getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF != sqlite3.SQLITE_ERROR:
            raise
        try:
            strangers = [row[0] for row in connection.execute(_STRANGERS)]
        except sqlite3.Error:
            raise corrupt(path, exc) from exc
        if not strangers:
            raise _mangled(connection, path, exc) from exc
        raise StoreCorrupt(
            f"database {path} cannot be used ({exc}): another program added to its table"
            f" {quote(', '.join(strangers))}, drop what does not work there; nothing was changed"
        ) from exc


def _mangled(connection: sqlite3.Connection, path: Path, what: object) -> StoreCorrupt:
    # Whoever marked it as ours made the table as it should be; others may have their own.
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    return (corrupt if application_id == APPLICATION_ID else unfit)(path, what)


def connect(path: Path, *, busy_timeout_s: float, mode: str = "rw") -> sqlite3.Connection:
    """Open a connection without Python's own transactions.

    Args:
        path: The database; it exists.
        busy_timeout_s: How long to wait for another program's lock.
        mode: ``rw``, or ``ro`` to leave a write-ahead log as it is.

    Raises:
        sqlite3.Error: If the file cannot be opened.
    """
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        timeout=busy_timeout_s,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def enter_wal(connection: sqlite3.Connection, path: Path) -> None:
    """Switch to a write-ahead log; without it a reader would block the writer.

    Raises:
        StoreError: If SQLite stays in another mode.
    """
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError(
            f"database {path} cannot have a write-ahead log (journal mode is {mode}): keep it on a"
            " local file system"
        )


def sync(path: Path) -> None:
    """Wait until a file, or a directory's entries, are on disk. See the package's rule."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Write what is executed inside whole, or not at all; take the write lock at the start.

    The first exception is the one that leaves; whatever the roll-back says is dropped.
    """
    if connection.in_transaction:  # an earlier roll-back failed, the disk may be back by now
        connection.execute("ROLLBACK")
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # After some faults (SQLITE_FULL, SQLITE_IOERR) SQLite has rolled back by itself.
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def corrupt(path: Path, what: object) -> StoreDamaged:
    """Say that the database is damaged, why, and what to do."""
    return StoreDamaged(str(unfit(path, what)), reason=str(what))


def too_new(path: Path, version: int) -> StoreTooNew:
    """Say that a newer version wrote the database, and what to do."""
    return StoreTooNew(
        f"database {path} has version {version}, this program knows up to {SCHEMA_VERSION}:"
        " install the version that wrote it, or restore an older backup; it was left untouched"
    )


def unfit(path: Path, what: object) -> StoreCorrupt:
    """Say that the database cannot be used as it is, why, and what to do."""
    return StoreCorrupt(
        f"database {path} is not sound ({what}): restore a backup, or move the file away to start"
        " with an empty one"
    )


def foreign(path: Path) -> StoreError:
    """Say that the database is another program's, and what to do."""
    return StoreError(
        f"database {path} belongs to another program, expected one of plexus-registry or the name"
        " of a new file; it was left untouched"
    )
