# SPDX-License-Identifier: AGPL-3.0-only
"""Whether what was flushed can be trusted, and a new file where it cannot.

After a failed flush Linux takes pages for written that are not on disk, and later flushes of the
same file succeed without them: what is acknowledged then would be lost with the power. No page of
a new file has failed yet, so its flush can be trusted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from plexus_registry.store.lock import is_there
from plexus_registry.store.migrations import sync

logger = logging.getLogger(__name__)

LOG_MAX_PAGES = 1000
"""When the log is merged into the file, as SQLite would by default; estimated."""

COMMIT_PAGES, CHANGES_ON_PAGE = 3, 4


class Flushes:
    """Keeps a connection to a database of which every flush worked.

    Args:
        path: The database.
        connection: To it; in WAL mode.
        begin: Opens another connection, in WAL mode.

    Attributes:
        connection: The present one.
        is_trusted: Whether no flush failed, as far as is known. If not, `renew` comes before the
            next change.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, begin: Callable[[], sqlite3.Connection]
    ) -> None:
        self.connection = connection
        self.is_trusted = True
        self._path = path
        self._begin = begin
        self._in_log = 0
        # What a predecessor that was killed did not finish; what stays nevertheless fails `renew`.
        with contextlib.suppress(OSError):
            _fresh(path).unlink(missing_ok=True)
        # It may have been killed after a flush of the log failed, too: start a new one. Who reads
        # from the old one keeps it there, and nothing may be written behind what is in doubt.
        is_new = self._merge("TRUNCATE")
        self.is_trusted &= is_new or not is_there(path.with_name(f"{path.name}-wal"))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Take note if a flush fails inside."""
        try:
            yield
        except sqlite3.Error as exc:
            self.is_trusted &= not str(getattr(exc, "sqlite_errorname", "")).endswith("_FSYNC")
            raise

    def committed(self, changes: int) -> bool:
        """Merge the log into the file from time to time; tell whether nothing is left in it."""
        self._in_log += COMMIT_PAGES + changes // CHANGES_ON_PAGE
        return self._in_log >= LOG_MAX_PAGES and self._merge("PASSIVE")

    def renew(self) -> None:
        """Move the database to a new file under the same name, with a new log.

        No other connection of this process may be opened meanwhile: it would go on with the log
        that is removed, and SQLite has all connections of a process share one.

        Raises:
            OSError: If the new file cannot be written; to be called again then.
            sqlite3.Error: Likewise.
        """
        path = self._path
        fresh = _fresh(path)
        fresh.unlink(missing_ok=True)
        try:
            _write(fresh, _content_of(self.connection), mode=path.stat().st_mode & 0o777)
            fresh.replace(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        # The new file has the same pages, so the old log beside it, after a power cut here, does no
        # harm; the old file without it would lack changes, and POSIX does not promise that the one
        # name reaches the disk before the other leaves it.
        sync(path.parent)
        # SQLite closes a database that was moved away without writing to it.
        for beside in ("-wal", "-shm"):
            path.with_name(path.name + beside).unlink(missing_ok=True)
        sync(path.parent)
        old, self.connection = self.connection, self._begin()
        old.close()
        self.is_trusted = True
        self._merge("PASSIVE")
        logger.warning(
            "database moved to a new file, a flush of the old one failed or may have path=%s", path
        )

    def _merge(self, how: str) -> bool:
        """Write what the log holds into the file. If that fails, the log keeps it.

        SQLite would do so by itself, and not tell whether it worked.

        Returns:
            Whether all of it is in the file, and the log is as it was asked for; a reader or a
            fault may keep it.
        """
        self._in_log = 0
        try:
            with self.watching():
                self.connection.execute("PRAGMA wal_autocheckpoint = 0")
                is_kept, pages, merged = self.connection.execute(
                    f"PRAGMA wal_checkpoint({how})"
                ).fetchone()
        except sqlite3.Error as exc:
            logger.warning("write-ahead log not merged path=%s reason=%s", self._path, exc)
            return False
        return not is_kept and bool(pages == merged)


def _fresh(path: Path) -> Path:
    """Name the new file while it is written."""
    return path.with_name(f".{path.name}.fresh")


def _content_of(connection: sqlite3.Connection) -> bytes:
    """Return all pages of a database.

    Connection.serialize() has zeros in place of pages that cannot be read, and does not tell
    (sqlite3_serialize); of a copy in memory all can be.
    """
    with contextlib.closing(sqlite3.connect(":memory:")) as copy:
        connection.backup(copy)
        return copy.serialize()


def _write(fresh: Path, content: bytes, *, mode: int) -> None:
    """Write a new file, flushed by the descriptor that wrote it: that one is told of any fault."""
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        written = 0
        while written < len(content):
            written += os.write(fd, memoryview(content)[written:])
        os.fsync(fd)
    finally:
        os.close(fd)
