# SPDX-License-Identifier: AGPL-3.0-only
"""Nobody else at our database: a lock file against a second daemon, and which file is ours.

The lock file beside the database is held with flock(2) for the life of the store.

The kernel releases the lock when the process ends, however it ends, so a lock file that is left
behind means nothing as a lock. It is never unlinked: a second process may have it open already, and
would then lock a file that nobody else can find.

Its first line is a process ID, for people. Its second says that there are commits in the
write-ahead log, and which state of the database they follow; it is gone once they are in the
database. Who finds it, that database and no log, or one without a commit, has lost them.

Its size and when it was written last tell a state of the database, for whoever merges the log, this
program or another, changes them. They alone do not tell a loss: an old copy may have been put back
on purpose, into the place of a database that was killed, after its log was removed. So it has to be
the same file, untouched (st_ctime), or else the note has to be in a copy of the lock file: then the
folder was copied without the log.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from plexus_registry.errors import StoreInUse
from plexus_registry.store.wal import has_commit

PID_MAX_DIGITS = 20
TEXT_MAX_BYTES = 256
SECOND_NS = 1_000_000_000


class Lock:
    """The right to use one database. Made by `acquire`.

    Attributes:
        has_lost_log: See `has_lost_log`.
    """

    def __init__(self, fd: int, database: Path, *, has_lost_log: bool = False) -> None:
        self.has_lost_log = has_lost_log
        self._fd: int | None = fd
        self._database = database
        self._noted = b""

    @classmethod
    def acquire(cls, database: Path) -> Lock:
        """Lock ``DATABASE.lock`` and write this process's ID into it.

        Args:
            database: The real path: two symlinks to one database must meet at one lock file.

        Raises:
            StoreInUse: If another store, in this process or another, holds the lock.
            OSError: If the lock file cannot be opened, or its file system has no locks.
        """
        path = _path_of(database)
        # Python opens it close-on-exec, so that a child cannot keep the lock past our end.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read_pid(fd)
            os.close(fd)
            raise StoreInUse(
                f"database {database} is in use by {holder}: stop that one first, or give this"
                " one another database"
            ) from None
        except OSError:
            os.close(fd)
            raise
        lost = has_lost_log(database)
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its text
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        return cls(fd, database, has_lost_log=lost)

    def note_log(self) -> None:
        """Take note that there are commits in the log alone, which is on disk with its name."""
        with contextlib.suppress(OSError):
            line = b"" if self._fd is None else _log_line(self._database, self._fd)
            if self._fd is not None and line != self._noted:
                os.pwrite(self._fd, b"%d\n%b" % (os.getpid(), line), 0)
                self._noted = line

    def forget_log(self) -> None:
        """Take note that all commits are in the database.

        If a power cut brings the former note back, it speaks of a state of the database from
        before the log was merged into it.
        """
        with contextlib.suppress(OSError):
            if self._fd is not None and self._noted:
                os.ftruncate(self._fd, os.pwrite(self._fd, b"%d\n" % os.getpid(), 0))
                self._noted = b""

    def release(self) -> None:
        """Empty the lock file and let go of it. Idempotent."""
        fd, self._fd = self._fd, None
        if fd is None:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
        os.close(fd)


def has_lost_log(database: Path) -> bool:
    """Tell whether a log with commits was beside a database when it was used last, and is gone.

    One that is there without a whole commit is as good as missing: the note is made after the
    first one is on disk. Whether all are there of which there were some, nothing can tell.

    Args:
        database: The real path. Whoever may not read its lock file does not learn it.
    """
    with contextlib.suppress(OSError):
        fd = os.open(_path_of(database), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            noted = os.pread(fd, TEXT_MAX_BYTES, 0).partition(b"\n")[2]
            # In this order: who merges the log meanwhile changes the database.
            return bool(noted) and not has_commit(database) and _is_of(noted, database, fd)
        finally:
            os.close(fd)
    return False


def identity_of(path: Path) -> list[tuple[int, int] | None]:
    """Tell the database file and its log from others that may come to have their names."""
    identities: list[tuple[int, int] | None] = []
    for one in (path, path.with_name(f"{path.name}-wal")):
        try:
            status = one.stat()
        except FileNotFoundError:
            identities.append(None)
        else:
            identities.append((status.st_dev, status.st_ino))
    return identities


def is_there(log: Path) -> bool:
    """Tell whether a log holds anything; a power cut may leave its name alone.

    Raises:
        OSError: If it cannot be looked at.
    """
    try:
        return log.stat().st_size > 0
    except FileNotFoundError:
        return False


def size_of(path: Path) -> int:
    """Return how many bytes the database file and its log have."""
    size = 0
    for one in (path, path.with_name(f"{path.name}-wal")):
        with contextlib.suppress(OSError):  # what was written is, whatever is seen of it
            size += one.stat().st_size
    return size


def _path_of(database: Path) -> Path:
    return database.with_name(f"{database.name}.lock")


def _log_line(database: Path, lock: int) -> bytes:
    """Tell the state that a database is in from others: whatever writes to it changes its times.

    It has always the same length, for it is written over a former one.
    """
    found = database.stat()
    numbers = (*_numbers(found), os.fstat(lock).st_ino)
    return b"log follows %020d %020d %020d %020d %020d\n" % numbers


def _numbers(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _is_of(noted: bytes, database: Path, lock: int) -> bool:
    """Tell whether a note speaks of the state that a database is in, or is a copy of.

    Raises:
        OSError: If the database cannot be looked at.
    """
    words = noted.partition(b"\n")[0].split()
    numbers = [int(one) for one in words[2:] if one.isdigit()]
    if words[:2] != [b"log", b"follows"] or len(numbers) != 5:
        return False
    size, modified_ns, *_, lock_inode = numbers
    found = database.stat()
    if tuple(numbers[:4]) == _numbers(found):
        return True
    # Many an archive keeps times to the second.
    times = (modified_ns, modified_ns - modified_ns % SECOND_NS)
    is_copy = size == found.st_size and found.st_mtime_ns in times
    return is_copy and lock_inode != os.fstat(lock).st_ino


def _read_pid(fd: int) -> str:
    """Say who holds the lock; the file is empty for a moment after the lock was taken."""
    digits = os.pread(fd, PID_MAX_DIGITS, 0).partition(b"\n")[0].strip()
    return f"process {digits.decode()}" if digits.isdigit() else "another process"
