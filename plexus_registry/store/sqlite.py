# SPDX-License-Identifier: AGPL-3.0-only
"""The store that a single machine uses: one SQLite database in WAL mode.

It owns the database file, its connection and its lock, and translates every fault of SQLite and
of the file system into a `StoreError`. It must not decide anything about backends.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Self

import msgspec

from plexus_registry.backend import Backend, Change, Put, Remove
from plexus_registry.errors import (
    StoreInUse,
    StoreRejected,
    StoreUnavailable,
    quote,
)
from plexus_registry.store.backup import backup
from plexus_registry.store.faults import VALUE_FAULTS, check_writable, faults, primary_code
from plexus_registry.store.lock import Lock, identity_of, size_of
from plexus_registry.store.losses import tell_losses
from plexus_registry.store.migrations import (
    BUSY_TIMEOUT_S,
    corrupt,
    enter_wal,
    make_directories,
    telling_strangers,
    transaction,
)
from plexus_registry.store.port import Salvage
from plexus_registry.store.renewal import Flushes
from plexus_registry.store.rows import (
    COLUMNS,
    Row,
    decode,
    describe,
    read_rows,
    report_odd,
    report_skipped,
)
from plexus_registry.store.salvage import Salvager

logger = logging.getLogger(__name__)

_SELECT = f"SELECT {', '.join(COLUMNS)}, rowid FROM backends ORDER BY rowid"
_SELECT_ONE = f"SELECT {', '.join(COLUMNS)} FROM backends WHERE name = ?"
_DELETE = "DELETE FROM backends WHERE name = ?"


def _put_rows(count: int) -> str:
    """Return the statement that inserts so many rows, or updates those whose names are known.

    An update that names `id` would write its index anew even if the value is the same: one page
    more in every commit. So it leaves out rows whose id differs, and `rowcount` tells.
    """
    row = f"({', '.join('?' * len(COLUMNS))})"
    changed = ", ".join(f"{column} = excluded.{column}" for column in COLUMNS[2:])
    return (
        f"INSERT INTO backends ({', '.join(COLUMNS)}) VALUES {', '.join([row] * count)}"
        f" ON CONFLICT (name) DO UPDATE SET {changed} WHERE id = excluded.id"
    )


# Python lets go of its global lock in every execution, and gets it back only when the event loop
# is kind enough: so as few as can be. 32 rows stay below 999 parameters, SQLite's old limit.
_PUT = {count: _put_rows(count) for count in (32, 8, 1)}
_UPDATE = f"UPDATE backends SET {', '.join(f'{column} = ?' for column in COLUMNS)} WHERE name = ?"
_STATEMENTS = (_SELECT, _SELECT_ONE, *_PUT.values(), _UPDATE, _DELETE)


class SqliteStore:
    """Entries in one SQLite database, as `plexus_registry.store.port.Store` promises.

    Made by `open`. Not thread-safe, but not bound to one thread either; only `backup` may run
    beside the other methods.

    Attributes:
        salvage: What became of the database that was found damaged, if it was.
        bytes: What database and log take on disk since the last commit; may be read anywhere.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, lock: Lock, salvager: Salvager
    ) -> None:
        self.salvage: Salvage | None = None
        self._path = path
        self._lock = lock
        self._salvager = salvager
        self._connection: sqlite3.Connection | None = None
        self._renewing = threading.Lock()  # or copying: see Flushes.renew()
        self._damage = ""  # why there is no connection, while a rebuilding is not finished
        self._aside: Path | None = None  # where the damaged one is, once a new one has its place
        self._use(connection)
        self._unreadable: frozenset[str] = frozenset()

    @classmethod
    def open(cls, path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Self:
        """Open the database, create it or bring it to the present version.

        A damaged one is set aside, and what can be read of it is in the new one: see `salvage`.

        Args:
            path: The database. Missing directories are made, with mode 0700.
            busy_timeout_s: How long to wait for another program's lock.

        Raises:
            StoreInUse: If another process has the database.
            StoreTooNew: If a newer version of the program wrote it; it is left untouched.
            StoreCorrupt: If it is no database and never was ours; it is left untouched.
            StoreUnavailable: If it cannot be opened, read or written.
            StoreError: If it is another program's database, or cannot have a write-ahead log.
        """
        with contextlib.ExitStack() as stack, faults(path, busy=StoreInUse):
            # Symlinks to one database have to meet at one lock file, and SQLite puts its log
            # beside the real file too.
            path = Path(os.path.realpath(path))
            make_directories(path.parent)
            check_writable(path)
            lock = Lock.acquire(path)
            stack.callback(lock.release)
            tell_losses(path, has_lost_log=lock.has_lost_log)
            salvager = Salvager(path, statements=_STATEMENTS, busy_timeout_s=busy_timeout_s)
            salvage = salvager.prepare()
            connection = _begin(salvager, path)
            stack.callback(connection.close)
            store = cls(path, connection, lock, salvager)
            store.salvage = salvage
            stack.pop_all()
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def load(self) -> list[Backend]:
        """Return all readable entries, the oldest insertion first.

        A row that cannot be read stays in the database and is logged. A row with values that
        would not be accepted today is returned as it is: the Rust program never validated.

        Raises:
            StoreUnavailable: If the database cannot be read now.
            StoreCorrupt: If it is damaged.
        """
        connection = self._open_connection()
        with faults(self._path):
            try:
                backends, skipped = read_rows(connection.execute(_SELECT))
            except sqlite3.OperationalError as exc:
                if primary_code(exc) != sqlite3.SQLITE_OK:
                    raise
                # Python's, not SQLite's: a text is not UTF-8. Read again, such texts as bytes.
                with _undecoded(connection):
                    backends, skipped = read_rows(connection.execute(_SELECT))
        report_skipped(skipped)
        report_odd(backends)
        self._unreadable = frozenset(row[1] for row in skipped if isinstance(row[1], str))
        return backends

    @property
    def unreadable_names(self) -> frozenset[str]:
        """The names of rows that `load` skipped and that nothing has replaced since."""
        return self._unreadable

    def check(self) -> None:
        """Read from the database, to see that it can be read.

        Raises:
            StoreUnavailable: If it cannot be read now, or is not where it was.
            StoreCorrupt: If it is damaged.
        """
        connection = self._open_connection()
        with faults(self._path):
            self._check_identity()
            connection.execute("SELECT name FROM backends LIMIT 1").fetchone()

    def commit(self, changes: Sequence[Change]) -> None:
        """Write all changes, in their order, or none.

        Raises:
            StoreRejected: If a change holds a value that cannot be written, or another entry's id.
            StoreUnavailable: If the disk is full or read-only, fails, or another program holds
                the lock. The same commit may work later.
            StoreDamaged: If the database is damaged.
            StoreCorrupt: If another program's index or trigger does not work.
        """
        connection = self._open_connection()
        replaced: dict[str, list[Row]] = {}
        with faults(self._path):
            self._check_identity()
            if not self._flushes.is_trusted:
                connection = self._renew()
            before = connection.total_changes
            strangers = telling_strangers(connection, self._path)
            with strangers, self._flushes.watching(), transaction(connection):
                for change in changes if self._unreadable else ():
                    if change.name in self._unreadable and change.name not in replaced:
                        replaced[change.name] = _take(connection, change.name)
                for _, group in itertools.groupby(changes, type):
                    alike = list(group)
                    _put(connection, [one.backend for one in alike if isinstance(one, Put)])
                    _remove(connection, [one.name for one in alike if isinstance(one, Remove)])
        for row in itertools.chain.from_iterable(replaced.values()):
            logger.warning("unreadable row replaced %s", describe(row))
        if self._unreadable:
            self._unreadable = self._unreadable.difference(change.name for change in changes)
        if connection.total_changes == before:
            return  # nothing went to the log, and no note may say so
        if self._flushes.committed(len(changes)):
            self._lock.forget_log()
        else:
            self._lock.note_log()
        self.bytes = size_of(self._path)

    def rebuild(self, entries: Sequence[Backend], reason: str) -> Salvage:
        """Set a database aside that was found damaged, and go on in a new one.

        Rows that could not be read stay in the old one. Until this works, `commit` and `check` fail
        as they did with the damaged database.

        Args:
            entries: All there are, the oldest insertion first.
            reason: What is wrong with the old database.

        Raises:
            StoreUnavailable: If the new one cannot be written or opened now; to be called again
                then, with the same entries.
        """
        with faults(self._path):
            if not self._damage:
                old = self._open_connection()
                self._check_identity()
                old.close()
                self._damage = reason
            if self._aside is None:
                self._aside = self._salvager.replace(map(msgspec.structs.astuple, entries))
            self._use(_begin(self._salvager, self._path))
        self.salvage = Salvage(str(self._aside), self._damage, len(entries), 0)
        self._damage, self._aside = "", None
        self._unreadable = frozenset()
        return self.salvage

    def backup(self, path: Path) -> None:
        """Copy the database, as it is at one moment, into a new file of its own.

        May run in another thread beside `commit`. The copy is on disk and checked when this
        returns; a copy that could not be finished is removed.

        Raises:
            StoreRejected: If *path* exists.
            StoreUnavailable: If *path* cannot be written.
            StoreCorrupt: If the copy does not pass its check.
        """
        self._open_connection()
        with self._renewing:
            backup(self._path, path)

    def close(self) -> None:
        """Release the database. The store cannot be used afterwards. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            with contextlib.suppress(sqlite3.Error):  # the log is as good a place for the changes
                (is_left, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if not is_left:
                    self._lock.forget_log()
            connection.close()
        finally:
            self._lock.release()

    def _check_identity(self) -> None:
        """Check that what is written now would not go to a file without a name."""
        if identity_of(self._path) != self._identity:
            raise StoreUnavailable(
                f"database {self._path} or its write-ahead log was moved or replaced while it"
                " was in use, nothing was written: restart to use the file that is there now"
            )

    def _use(self, connection: sqlite3.Connection) -> None:
        begin = partial(_begin, self._salvager, self._path)
        self._flushes = Flushes(self._path, connection, begin)
        self._connection = connection
        self._identity = identity_of(self._path)
        self.bytes = size_of(self._path)

    def _renew(self) -> sqlite3.Connection:
        try:
            with self._renewing:
                self._flushes.renew()
        finally:
            self._connection = self._flushes.connection
            self._identity = identity_of(self._path)
        return self._flushes.connection

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnavailable(f"database {self._path} is closed")
        if self._damage:
            raise corrupt(self._path, self._damage)
        return self._connection


def _begin(salvager: Salvager, path: Path) -> sqlite3.Connection:
    """Open the connection that a store keeps, with its log."""
    connection = salvager.connect()
    try:
        enter_wal(connection, path)
        with transaction(connection):
            pass  # finds a writer now rather than at the first change; no missing permission
    except BaseException:
        connection.close()
        raise
    return connection


# --- writing --------------------------------------------------------------------------------------


def _put(connection: sqlite3.Connection, backends: Sequence[Backend]) -> None:
    """Insert or update rows, in their order; they share executions as far as can be.

    Raises:
        StoreRejected: Naming the one that cannot be written.
    """
    start = 0
    for count, statement in _PUT.items():
        while len(backends) - start >= count:
            rows = [msgspec.structs.astuple(one) for one in backends[start : start + count]]
            start += count
            try:
                written = connection.execute(statement, [*itertools.chain(*rows)]).rowcount
            except VALUE_FAULTS:
                written = 0
            if written != count:
                for row in rows:
                    _put_one(connection, row)


def _put_one(connection: sqlite3.Connection, row: Row) -> None:
    with _naming(row[1]):
        if connection.execute(_PUT[1], row).rowcount == 0:
            connection.execute(_UPDATE, (*row, row[1]))


def _remove(connection: sqlite3.Connection, names: Sequence[str]) -> None:
    for name in names:
        with _naming(name):
            connection.execute(_DELETE, (name,))


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say whose value it is that cannot be written."""
    try:
        yield
    except VALUE_FAULTS as exc:
        raise StoreRejected(f"backend {quote(name)} cannot be written, nothing was: {exc}") from exc


# --- unreadable rows ------------------------------------------------------------------------------


@contextlib.contextmanager
def _undecoded(connection: sqlite3.Connection) -> Iterator[None]:
    """Read texts inside that are not UTF-8 as bytes, rather than fail."""
    connection.text_factory = decode
    try:
        yield
    finally:
        connection.text_factory = str


def _take(connection: sqlite3.Connection, name: str) -> list[Row]:
    """Delete an unreadable row and return it.

    Nobody was shown it, so what comes in its place is a new entry: at the end of the order.
    """
    with _undecoded(connection):
        rows = connection.execute(_SELECT_ONE, (name,)).fetchall()
    connection.execute(_DELETE, (name,))
    return rows
