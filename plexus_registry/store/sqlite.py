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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, get_args

import msgspec

from plexus_registry import backend as fields
from plexus_registry.backend import Backend, Change, Put, Remove, Source
from plexus_registry.errors import (
    InvalidValue,
    StoreInUse,
    StoreRejected,
    StoreUnavailable,
    quote,
)
from plexus_registry.store.backup import backup
from plexus_registry.store.faults import VALUE_FAULTS, check_writable, faults, primary_code
from plexus_registry.store.lock import Lock, identity_of
from plexus_registry.store.migrations import (
    BUSY_TIMEOUT_S,
    connect,
    enter_wal,
    make_directories,
    prepare,
    transaction,
)

logger = logging.getLogger(__name__)

SKIPPED_MAX_LINES = 20
"""How many unreadable rows `SqliteStore.load` logs one by one."""

COLUMNS = Backend.__struct_fields__
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


def _stored_types(declared: Any) -> tuple[type, ...]:
    """Return the types that SQLite gives for the values of a field of `Backend`."""
    stored = {bool: int, Source: str}
    return tuple(stored.get(one, one) for one in get_args(declared) or (declared,))


_COLUMN_TYPES = {one.name: _stored_types(one.type) for one in msgspec.structs.fields(Backend)}
_READABLE_TYPES = frozenset(itertools.product(*_COLUMN_TYPES.values(), (int,)))  # and the rowid
_SOURCE = COLUMNS.index("source")
_SOURCES = {source.value: source for source in Source}

_Row = tuple[Any, ...]


class SqliteStore:
    """Entries in one SQLite database, as `plexus_registry.store.port.Store` promises.

    Made by `open`. Not thread-safe, but not bound to one thread either; only `backup` may run
    beside the other methods.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: Lock) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = connection
        self._lock = lock
        self._identity = identity_of(path)
        self._unreadable: frozenset[str] = frozenset()

    @classmethod
    def open(cls, path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Self:
        """Open the database, create it or bring it to the present version.

        Args:
            path: The database. Missing directories are made, with mode 0700.
            busy_timeout_s: How long to wait for another program's lock.

        Raises:
            StoreInUse: If another process has the database.
            StoreTooNew: If a newer version of the program wrote it; it is left untouched.
            StoreCorrupt: If it is no sound database; it is left untouched.
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
            prepare(path, statements=_STATEMENTS, columns=COLUMNS, busy_timeout_s=busy_timeout_s)
            connection = connect(path, busy_timeout_s=busy_timeout_s)
            stack.callback(connection.close)
            enter_wal(connection, path)
            with transaction(connection):
                pass  # finds a writer now rather than at the first change; no missing permission
            store = cls(path, connection, lock)
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
                backends, skipped = _read(connection.execute(_SELECT))
            except sqlite3.OperationalError as exc:
                if primary_code(exc) != sqlite3.SQLITE_OK:
                    raise
                # Python's, not SQLite's: a text is not UTF-8. Read again, such texts as bytes.
                with _undecoded(connection):
                    backends, skipped = _read(connection.execute(_SELECT))
        _report_skipped(skipped)
        _report_odd(backends)
        self._unreadable = frozenset(row[1] for row in skipped if isinstance(row[1], str))
        return backends

    @property
    def unreadable_names(self) -> frozenset[str]:
        """The names of rows that `load` skipped and that nothing has replaced since."""
        return self._unreadable

    def commit(self, changes: Sequence[Change]) -> None:
        """Write all changes, in their order, or none.

        Raises:
            StoreRejected: If a change holds a value that cannot be written, or another entry's id.
            StoreUnavailable: If the disk is full or read-only, fails, or another program holds
                the lock. The same commit may work later.
            StoreCorrupt: If the database is damaged.
        """
        connection = self._open_connection()
        replaced: dict[str, list[_Row]] = {}
        with faults(self._path):
            if identity_of(self._path) != self._identity:
                # What is written now would go to a file without a name.
                raise StoreUnavailable(
                    f"database {self._path} or its write-ahead log was moved or replaced while it"
                    " was in use, nothing was written: restart to use the file that is there now"
                )
            with transaction(connection):
                for change in changes if self._unreadable else ():
                    if change.name in self._unreadable and change.name not in replaced:
                        replaced[change.name] = _take(connection, change.name)
                for _, group in itertools.groupby(changes, type):
                    alike = list(group)
                    _put(connection, [one.backend for one in alike if isinstance(one, Put)])
                    _remove(connection, [one.name for one in alike if isinstance(one, Remove)])
        for row in itertools.chain.from_iterable(replaced.values()):
            logger.warning("unreadable row replaced %s", _describe(row))
        if self._unreadable:
            self._unreadable = self._unreadable.difference(change.name for change in changes)

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
        backup(self._path, path)

    def close(self) -> None:
        """Release the database. The store cannot be used afterwards. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            with contextlib.suppress(sqlite3.Error):  # the log is as good a place for the changes
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
        finally:
            self._lock.release()

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnavailable(f"database {self._path} is closed")
        return self._connection


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


def _put_one(connection: sqlite3.Connection, row: _Row) -> None:
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


# --- rows ---------------------------------------------------------------------------------------


def _decode(text: bytes) -> str | bytes:
    """Decode a text of the database; one that is not UTF-8 stays bytes, which no column takes."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text


@contextlib.contextmanager
def _undecoded(connection: sqlite3.Connection) -> Iterator[None]:
    """Read texts inside that are not UTF-8 as bytes, rather than fail."""
    connection.text_factory = _decode
    try:
        yield
    finally:
        connection.text_factory = str


def _take(connection: sqlite3.Connection, name: str) -> list[_Row]:
    """Delete an unreadable row and return it.

    Nobody was shown it, so what comes in its place is a new entry: at the end of the order.
    """
    with _undecoded(connection):
        rows = connection.execute(_SELECT_ONE, (name,)).fetchall()
    connection.execute(_DELETE, (name,))
    return rows


def _describe(row: _Row) -> str:
    """Show what a row holds, each value quoted and bounded."""
    shown = [one.decode(errors="backslashreplace") if type(one) is bytes else one for one in row]
    values = zip(COLUMNS, shown, strict=True)
    return " ".join(f"{column}={quote(one)}" for column, one in values if one is not None)


def _read(rows: sqlite3.Cursor) -> tuple[list[Backend], list[_Row]]:
    """Make backends of rows; what cannot be one is returned as it is."""
    backends: list[Backend] = []
    skipped: list[_Row] = []
    for row in rows:
        values = dict(zip(COLUMNS, row, strict=False))  # the rowid stays behind
        source = _SOURCES.get(values["source"])
        if source is None or tuple(map(type, row)) not in _READABLE_TYPES:
            skipped.append(row)
        else:
            values.update(source=source, is_active=values["is_active"] != 0)
            backends.append(Backend(**values))
    return backends, skipped


def _report_skipped(rows: Sequence[_Row]) -> None:
    for row in rows[:SKIPPED_MAX_LINES]:
        logger.warning(
            "unreadable row skipped rowid=%d name=%s reason=%s", row[-1], quote(row[1]), _fault(row)
        )
    more = len(rows) - SKIPPED_MAX_LINES
    if more > 0:
        logger.warning("more unreadable rows skipped count=%d", more)


def _fault(row: _Row) -> str:
    """Say which column makes a row unreadable."""
    for (column, types), value in zip(_COLUMN_TYPES.items(), row, strict=False):
        if type(value) not in types:
            return f"{column} is {quote(value)}"
    return f"source is {quote(row[_SOURCE])}"


def _report_odd(backends: Sequence[Backend]) -> None:
    odd = [backend.name for backend in backends if not _is_accepted(backend)]
    if odd:
        message = "entries loaded that would not be accepted today count=%d first=%s"
        logger.warning(message, len(odd), quote(odd[0]))


def _is_accepted(backend: Backend) -> bool:
    """Tell whether the entry could be registered with just these values."""
    try:
        fields.check_name(backend.name)
        fields.check_port(backend.port)
        fields.check_protocol(backend.protocol)
        fields.check_description(backend.description)
        fields.check_namespace(backend.namespace)
        fields.check_version(backend.version)
        fields.check_metadata(backend.metadata)
        return fields.check_host(backend.host) == backend.host
    except InvalidValue:
        return False
