# SPDX-License-Identifier: AGPL-3.0-only
"""Copies of a database, in use or not, by SQLite's online backup."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from plexus_registry.errors import StoreRejected, StoreUnavailable, quote
from plexus_registry.store.faults import faults, primary_code, unread
from plexus_registry.store.lock import has_lost_log
from plexus_registry.store.migrations import (
    APPLICATION_ID,
    BUSY_TIMEOUT_S,
    SCHEMA_VERSION,
    check,
    connect,
    foreign,
    sync,
    too_new,
    unfit,
)


def backup(database: Path, path: Path) -> bool:
    """Copy a database that may be in use into a new file, as `SqliteStore.backup` does.

    Needs no more than permission to read the database, in any process. Returns whether all that was
    ever acknowledged is in the copy: False if the database lost its log, see `lock.has_lost_log`.

    Raises:
        StoreRejected: If *path* exists.
        StoreUnavailable: If there is no such database, or it cannot be read, or *path* cannot be
            written; it names which.
        StoreCorrupt: If the copy does not pass its check, or is no registry's.
        StoreTooNew: If a newer version of the program wrote it.
        StoreError: If it is another program's database.
    """
    with faults(database, is_read_only=True):
        database = database.resolve(strict=True)
        if not database.is_file():  # SQLite would wait for what a pipe brings
            raise StoreUnavailable(f"{database} cannot be used: it is no regular file")
    lost = has_lost_log(database)
    with contextlib.ExitStack() as stack, faults(path):
        path = path.absolute()
        partial = path.with_name(f".{path.name}.partial")
        try:
            # Reserves the name; what is found there after a crash is empty, not half a copy.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            raise StoreRejected(
                f"{quote(str(path))} exists, expected the name of a new file"
            ) from None
        stack.callback(path.unlink, missing_ok=True)
        for one in (partial, partial.with_name(f"{partial.name}-journal")):
            stack.callback(one.unlink, missing_ok=True)
            one.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        _copy(database, partial)
        sync(partial)
        partial.replace(path)
        stack.pop_all()
        sync(path.parent)
    return not lost


_OF_THE_SOURCE = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
)
"""What a new file that nobody else knows cannot have, nor be shorter than it was a moment ago."""


@contextlib.contextmanager
def _telling_source(path: Path) -> Iterator[None]:
    """Blame the source for what is its fault, while two databases are in use."""
    try:
        yield
    except sqlite3.Error as exc:
        is_short = getattr(exc, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHORT_READ
        if primary_code(exc) not in _OF_THE_SOURCE and not is_short and unread(path) is None:
            raise
        with faults(path, is_read_only=True):
            raise


def _copy(source_path: Path, target_path: Path) -> None:
    """Copy one database into a new file by SQLite's online backup, and check the copy.

    Raises:
        StoreCorrupt: If the copy does not pass its check.
    """
    with contextlib.ExitStack() as stack:
        with faults(source_path, is_read_only=True):
            source = connect(source_path, busy_timeout_s=BUSY_TIMEOUT_S, mode="ro")
            stack.callback(source.close)
            source.execute("PRAGMA schema_version").fetchone()
        target = connect(target_path, busy_timeout_s=BUSY_TIMEOUT_S)
        stack.callback(target.close)
        with _telling_source(source_path):
            source.backup(target)
        # A copy that says WAL in its header could not be opened on a read-only medium.
        target.execute("PRAGMA journal_mode = DELETE")
        check(target, source_path)
        _check_ours(target, source_path)


def _check_ours(copy: sqlite3.Connection, source_path: Path) -> None:
    """Check that a copy is one of a registry: a backup of something else helps nobody later."""
    (application_id,) = copy.execute("PRAGMA application_id").fetchone()
    (version,) = copy.execute("PRAGMA user_version").fetchone()
    if application_id not in (0, APPLICATION_ID):
        raise foreign(source_path)
    if version > SCHEMA_VERSION:
        raise too_new(source_path, version)
    if not copy.execute("SELECT 1 FROM sqlite_master WHERE name = 'backends'").fetchone():
        raise unfit(source_path, "it has no table backends")
