# SPDX-License-Identifier: AGPL-3.0-only
"""Nobody else at our database: a lock file against a second daemon, and which file is ours.

The lock file beside the database is held with flock(2) for the life of the store.

The kernel releases the lock when the process ends, however it ends, so a lock file that is left
behind means nothing. What it says (a process ID) is for people only. It is never unlinked: a
second process may have it open already, and would then lock a file that nobody else can find.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from plexus_registry.errors import StoreInUse

PID_MAX_DIGITS = 20


class Lock:
    """The right to use one database. Made by `acquire`."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    @classmethod
    def acquire(cls, database: Path) -> Lock:
        """Lock ``DATABASE.lock`` and write this process's ID into it.

        Args:
            database: The real path: two symlinks to one database must meet at one lock file.

        Raises:
            StoreInUse: If another store, in this process or another, holds the lock.
            OSError: If the lock file cannot be opened, or its file system has no locks.
        """
        path = database.with_name(f"{database.name}.lock")
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
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its text
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        return cls(fd)

    def release(self) -> None:
        """Empty the lock file and let go of it. Idempotent."""
        fd, self._fd = self._fd, None
        if fd is None:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
        os.close(fd)


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


def _read_pid(fd: int) -> str:
    """Say who holds the lock; the file is empty for a moment after the lock was taken."""
    digits = os.pread(fd, PID_MAX_DIGITS, 0).strip()
    return f"process {digits.decode()}" if digits.isdigit() else "another process"
