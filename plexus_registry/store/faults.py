# SPDX-License-Identifier: AGPL-3.0-only
"""Faults of SQLite and of the file system, told apart by what can be done about them."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from plexus_registry.errors import StoreError, StoreInUse, StoreUnavailable, quote
from plexus_registry.store.migrations import corrupt

VALUE_FAULTS = (
    sqlite3.IntegrityError,  # SQLITE_CONSTRAINT, SQLITE_MISMATCH
    sqlite3.DataError,  # SQLITE_TOOBIG
    sqlite3.InterfaceError,  # SQLITE_RANGE
    sqlite3.ProgrammingError,  # a type that SQLite does not have
    OverflowError,  # an integer beyond 64 bits
    UnicodeEncodeError,  # a lone surrogate
)
"""What Python raises if one value cannot be written, while others can."""

_UNAVAILABLE = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "reading or writing failed",
    sqlite3.SQLITE_READONLY: "the file or its file system is read-only",
    sqlite3.SQLITE_BUSY: "another program holds its lock",
    sqlite3.SQLITE_LOCKED: "another connection holds its lock",
    sqlite3.SQLITE_PROTOCOL: "another program holds its lock",
    sqlite3.SQLITE_CANTOPEN: "the file, its log or its directory cannot be opened",
    sqlite3.SQLITE_PERM: "access is not permitted",
}


_DAMAGED = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,  # but see telling_strangers(): our statements are sound
)
_NO_UTF8 = (sqlite3.SQLITE_OK, sqlite3.OperationalError)  # Python's: the name of a column
READ_BYTES = 1024 * 1024

_NOT_PERMITTED_BY_SQLITE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
_NOT_PERMITTED = (errno.EACCES, errno.EPERM, errno.EROFS)


def check_writable(path: Path) -> None:
    """Check that we may write a database that exists, before SQLite is asked to.

    SQLite opens what it may not write for reading only, begins a transaction for writing there
    all the same, and leaves a log of the same mode behind, which fails the next start.

    Raises:
        StoreUnavailable: Naming the file that cannot be written.
    """
    if path.exists():
        refusal = _refusal(path)
        if refusal is not None:
            raise StoreUnavailable(f"{path} cannot be used: {refusal}")


def _refusal(path: Path, *, is_read_only: bool = False) -> str | None:
    """Say what of a database cannot be read or written, a file of it or the directory, and why.

    Who only reads needs no lock of ours, but an index of the log, which SQLite makes if need be.

    Looks by name only. To open and close a file of a database that is in use would drop its
    locks, see `plexus_registry.store.migrations`.
    """
    directory = path.parent
    for one in reversed([directory, *directory.parents]):
        if not os.access(one, os.X_OK):
            return _forbidden(one, "may not be entered", "enter") if one.is_dir() else None
    suffixes = ("", "-wal", "-shm") if is_read_only else ("", "-wal", "-shm", ".lock")
    beside = [path.with_name(path.name + suffix) for suffix in suffixes]
    files = [one for one in beside if one.is_file()]
    for one in files:
        if not os.access(one, os.R_OK):
            return _forbidden(one, "is not readable", "read")
    if is_read_only:
        has_index = path.with_name(f"{path.name}-shm") in files
        files, directory = [], files[-1] if has_index else directory
    for one in [*files, directory]:
        if not os.access(one, os.W_OK):
            return _forbidden(one, "is not writable", "write")
    return None


def _is_on_read_only(path: Path) -> bool:
    """Tell whether the file system of a database that is in use became read-only.

    SQLite only knows that writing failed, and flags of the mount need not tell after an error of
    the file system; the lock file can be opened and closed without harm.
    """
    try:
        os.close(os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_NOFOLLOW))
    except OSError as exc:
        return exc.errno == errno.EROFS
    return False


def _on_read_only(culprit: Path) -> str:
    kind = "directory" if culprit.is_dir() else "file"
    return f"{os.strerror(errno.EROFS)} (the {kind} {culprit} is on it)"


def _forbidden(culprit: Path, problem: str, verb: str) -> str:
    """Say why a file or directory cannot be read or written, and what to do."""
    kind = "directory" if culprit.is_dir() else "file"
    if verb == "write" and os.statvfs(culprit).f_flag & os.ST_RDONLY:
        return _on_read_only(culprit)
    advice = f"permit user {os.getuid()} to {verb} it"
    return f"{os.strerror(errno.EACCES)} (the {kind} {culprit} {problem}, {advice})"


def unread(path: Path) -> OSError | None:
    """Find out whether the disk does not give a file of the database: SQLite calls that corrupt.

    A file that this process has open is read through the descriptor that is there, for to open
    and close it would drop SQLite's locks, see `plexus_registry.store.migrations`.
    """
    held = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed since
            held[os.readlink(f"/proc/self/fd/{number}")] = int(number)
    for one in (path, path.with_name(f"{path.name}-wal")):
        try:
            if str(one) in held:
                _read_through(held[str(one)])
            elif one.exists():
                with one.open("rb") as file:
                    _read_through(file.fileno())
        except OSError as exc:
            exc.filename = str(one)
            return exc
    return None


def _read_through(fd: int) -> None:
    offset = 0
    while read := len(os.pread(fd, READ_BYTES, offset)):
        offset += read


def primary_code(exc: sqlite3.Error) -> int:
    """Return SQLite's primary result code; 0 if Python raised the error by itself."""
    return int(getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_OK)) & 0xFF


@contextlib.contextmanager
def faults(
    path: Path, *, busy: type[StoreError] = StoreUnavailable, is_read_only: bool = False
) -> Iterator[None]:
    """Raise faults of SQLite and of the file system as errors of the store, naming *path*.

    Args:
        path: The database that is used inside.
        busy: What it is if another program holds the lock.
        is_read_only: It is only read inside.
    """
    try:
        yield
    except OSError as exc:
        is_refused = exc.errno in _NOT_PERMITTED
        refusal = _refusal(path, is_read_only=is_read_only) if is_refused else None
        if refusal is not None:
            raise StoreUnavailable(f"{path} cannot be used: {refusal}") from exc
        culprit = f" ({exc.filename})" if exc.filename not in (None, str(path)) else ""
        raise StoreUnavailable(f"{path} cannot be used: {exc.strerror}{culprit}") from exc
    except UnicodeDecodeError as exc:  # SQLite quotes what is no UTF-8: the schema is rubbish
        raise corrupt(path, "its schema cannot be read") from exc
    except ValueError as exc:  # os.open(): a null character, or a surrogate, in the path
        raise StoreUnavailable(f"{quote(str(path))} cannot be used: {exc}") from exc
    except sqlite3.Error as exc:
        code = primary_code(exc)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL) and busy is StoreInUse:
            raise StoreInUse(
                f"database {path} is locked by another program: stop that one first, or give this"
                " one another database"
            ) from exc
        if code in _UNAVAILABLE:
            is_refused = code in _NOT_PERMITTED_BY_SQLITE
            refusal = _refusal(path, is_read_only=is_read_only) if is_refused else None
            what = refusal or _UNAVAILABLE[code]
            if code == sqlite3.SQLITE_IOERR and _is_on_read_only(path):
                what = _on_read_only(path)
            raise StoreUnavailable(
                f"database {path} cannot be used: {what} ({exc.sqlite_errorname})"
            ) from exc
        failed = unread(path) if code == sqlite3.SQLITE_CORRUPT else None
        if failed is not None:
            raise StoreUnavailable(
                f"database {path} cannot be used: reading {failed.filename} failed:"
                f" {failed.strerror}"
            ) from exc
        if code in _DAMAGED or (code, type(exc)) == _NO_UTF8:
            raise corrupt(path, exc) from exc
        raise StoreUnavailable(f"database {path} cannot be used: {exc}") from exc
