# SPDX-License-Identifier: AGPL-3.0-only
"""What happens to a database that is damaged: set aside, and what can be read goes into a new one.

The new one is written whole under another name, with the moment in it; from then on it counts. The
old one is renamed, with its log, and the new one takes its place. The next start does the rest of
that if a power cut came between: the old log must never meet the new database. Nothing is ever
overwritten, and nothing moves if the machine is at fault (no space, no permission, an I/O error).

Only what was ours is moved, see `_check_marks` and `_is_ours`. All of it happens with the lock held
and no connection open.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from plexus_registry.errors import StoreDamaged, StoreInUse
from plexus_registry.store.faults import faults, primary_code
from plexus_registry.store.migrations import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    connect,
    corrupt,
    foreign,
    mode_to_look,
    prepare,
    sync,
    too_new,
    transaction,
)
from plexus_registry.store.pages import HEADER_BYTES, MAGIC, Pages
from plexus_registry.store.port import Salvage
from plexus_registry.store.rows import COLUMNS, Row, decode, is_acceptable, is_readable

logger = logging.getLogger(__name__)

NAMES_MAX = 20
"""How many lost entries are named."""
_SUFFIXES = ("", "-journal", "-wal", "-shm")
_IN_WAL_MODE = b"\2\2"
_DAMAGE = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_TOOBIG,
)
"""What SQLite says of pages that make no sense."""


class Salvager:
    """Brings a database up, if need be by salvaging it.

    Args:
        path: The database; its real path.
        statements: As for `prepare`.
        busy_timeout_s: How long to wait for another program's lock.
    """

    def __init__(self, path: Path, *, statements: Sequence[str], busy_timeout_s: float) -> None:
        self._path = path
        self._statements = statements
        self._busy_timeout_s = busy_timeout_s

    def prepare(self) -> Salvage | None:
        """See to it that the database is sound and of the present version.

        Returns:
            What was salvaged, if it was damaged.

        Raises:
            StoreError, OSError, sqlite3.Error: As `plexus_registry.store.migrations.prepare`; of
                damage only if the file does not seem to be ours. Nothing was moved then.
        """
        finished = _finish(self._path)
        # What is not found twice was no damage, but a read that failed.
        if self._find_damage() and (damage := self._find_damage()):
            return self._salvage(damage)
        if finished is None:
            return None
        with contextlib.closing(self.connect()) as connection:
            (count,) = connection.execute("SELECT count(*) FROM backends").fetchone()
        return Salvage(str(finished), "an earlier start found it damaged", count, None)

    def replace(self, rows: Iterable[Sequence[object]]) -> Path:
        """Put a new database with these rows in the place of the old one; return where that is.

        If an attempt with the same rows was cut short, this does the rest of it.
        """
        if not self._path.exists() and (finished := _finish(self._path)) is not None:
            return finished
        new = self._write(rows)
        try:
            sync(new.parent)
            return _swap(self._path, new)
        except OSError:
            # Who goes on with the old one must not find this at the next start.
            if self._path.exists():
                new.unlink(missing_ok=True)
            raise

    def connect(self) -> sqlite3.Connection:
        """Open a connection to the database.

        Raises:
            sqlite3.Error: If it cannot be opened.
        """
        return self._connect(self._path)

    def _find_damage(self) -> StoreDamaged | None:
        try:
            with faults(self._path, busy=StoreInUse):
                self._prepare(self._path)
        except StoreDamaged as damage:
            return damage
        return None

    def _salvage(self, damage: StoreDamaged) -> Salvage:
        pages = Pages(self._path)
        _check_marks(pages, self._path)
        salvaged, lost = self._collect(pages)
        if not (salvaged or _is_ours(pages)):
            raise corrupt(
                self._path,
                f"{damage.reason}; it does not look like one of plexus-registry either, and was"
                " left untouched",
            ) from damage
        logger.warning("database damaged, salvaging path=%s", self._path)
        aside = self.replace(row[:-1] for row in salvaged)
        self._prepare(self._path)
        return Salvage(
            str(aside),
            damage.reason,
            len(salvaged),
            None if lost is None else len(lost),
            tuple(lost[:NAMES_MAX]) if lost else (),
        )

    # --- reading --------------------------------------------------------------------------------

    def _collect(self, pages: Pages) -> tuple[list[Row], list[str] | None]:
        """Return the rows that make sense, in their order, and the names of others.

        The names are None if nobody can know how many there were.
        """
        rows: dict[int, Row] = {}
        names: dict[int, object] = {}
        # SQLite would delete the log of a file without pages.
        has_table, has_names = (False, False) if pages.is_empty else self._query(rows, names)
        if pages.log_fault:  # there were later changes
            has_table = has_names = False
        if not has_names:
            names.clear()
        for rowid, name in names.items():
            # The table and its index contradict each other: which one is mangled?
            if rowid in rows and rows[rowid][1] != name:
                del rows[rowid]
        if not has_table:
            for row in filter(is_acceptable, pages.rows(len(COLUMNS))):
                # A row that a sound index does not have was deleted.
                was_deleted = has_names and names.get(row[-1]) != row[1]
                known = rows.get(row[-1])
                if not was_deleted and (known is None or _is_newer(row, known)):
                    rows[row[-1]] = row
        is_entry = is_readable if has_table else is_acceptable
        chosen = _distinct(row for _, row in sorted(rows.items()) if is_entry(row))
        found = {row[1] for row in chosen}
        named = {name for name in names.values() if isinstance(name, str)}
        named |= {row[1] for row in rows.values() if isinstance(row[1], str)}
        return chosen, sorted(named - found) if has_table or has_names else None

    def _query(self, rows: dict[int, Row], names: dict[int, object]) -> tuple[bool, bool]:
        """Ask SQLite for the rows, and for the names in the index; tell which are complete."""
        select = f"SELECT {', '.join(COLUMNS)}, rowid FROM backends NOT INDEXED"
        try:
            connection = self._connect(self._path, mode=mode_to_look(self._path))
        except (UnicodeDecodeError, sqlite3.DatabaseError) as exc:
            if not _is_damage(exc):
                raise
            return False, False
        with contextlib.closing(connection):
            connection.text_factory = decode
            has_table = False
            for order in ("", "DESC"):
                has_table = has_table or _take(
                    connection.execute, f"{select} ORDER BY rowid {order}", rows
                )
            entries: dict[int, Row] = {}
            has_names = _take(
                connection.execute, "SELECT name, rowid FROM backends ORDER BY name", entries
            )
        names.update((rowid, name) for rowid, (name, _) in entries.items())
        return has_table, has_names

    # --- writing --------------------------------------------------------------------------------

    def _write(self, rows: Iterable[Sequence[object]]) -> Path:
        """Write a new database beside the old one, down to the disk, and name it as complete."""
        partial = self._path.with_name(f"{self._path.name}.salvaging")
        _remove(partial)
        try:
            self._prepare(partial)
            columns, places = ", ".join(COLUMNS), ", ".join("?" * len(COLUMNS))
            with contextlib.closing(self._connect(partial)) as connection:
                with transaction(connection):
                    connection.executemany(
                        f"INSERT INTO backends ({columns}) VALUES ({places})", rows
                    )
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            os.chmod(partial, self._path.stat().st_mode & 0o777)
            sync(partial)
            new = self._path.with_name(f"{self._path.name}.salvaged-{_moment(self._path)}")
            partial.rename(new)
        except BaseException:
            with contextlib.suppress(OSError):
                _remove(partial)
            raise
        return new

    def _prepare(self, path: Path) -> None:
        prepare(
            path,
            statements=self._statements,
            columns=COLUMNS,
            busy_timeout_s=self._busy_timeout_s,
        )

    def _connect(self, path: Path, mode: str = "rw") -> sqlite3.Connection:
        return connect(path, busy_timeout_s=self._busy_timeout_s, mode=mode)


def _check_marks(pages: Pages, path: Path) -> None:
    """Check that no header says that the database is not ours to move.

    Raises:
        StoreTooNew: If a newer version wrote it.
        StoreError: If another program did.
    """
    if not pages.has_magic:
        return
    if pages.number_at(68) not in (0, APPLICATION_ID):
        raise foreign(path)
    if pages.number_at(68) == APPLICATION_ID and pages.number_at(60) > SCHEMA_VERSION:
        raise too_new(path, pages.number_at(60))


def _is_ours(pages: Pages) -> bool:
    """Tell whether a damaged file without any entry was a database of ours.

    Anything else at the path is a mistake in a setting, and somebody's file.
    """
    is_marked = pages.has_magic and pages.number_at(68) == APPLICATION_ID
    is_named = is_marked or b"TABLE backends" in pages.first
    return is_named or pages.is_empty or _is_stub(pages.first)


def _is_stub(start: bytes) -> bool:
    """Tell whether a file was cut off within its header, and begins as every one of ours does.

    There is no content in that. So few letters of it as the first may be anybody's by chance; they
    are renamed, no more.
    """
    is_new_enough = len(start) < 64 or int.from_bytes(start[60:64], "big") <= SCHEMA_VERSION
    return (
        len(start) < HEADER_BYTES
        and is_new_enough
        and all(
            part.startswith(start[at : at + len(part)])
            for at, part in (
                (0, MAGIC),
                (18, _IN_WAL_MODE),
                (68, APPLICATION_ID.to_bytes(4, "big")),
            )
        )
    )


# --- names --------------------------------------------------------------------------------------


def _moment(path: Path) -> str:
    """Name this moment, so that nothing has the name under which the old database is put."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for number in itertools.count():
        name = f"{moment}-{number}" if number else moment
        aside = _aside(path, name)
        if not any(os.path.lexists(f"{aside}{suffix}") for suffix in _SUFFIXES):
            return name
    raise AssertionError("itertools.count() ended")


def _aside(path: Path, moment: str) -> Path:
    return path.with_name(f"{path.name}.corrupt-{moment}")


def _finish(path: Path) -> Path | None:
    """Do the rest of a replacement that was cut short; return where the old database is."""
    prefix = f"{path.name}.salvaged-"
    finished = None
    for new in sorted(one for one in path.parent.iterdir() if one.name.startswith(prefix)):
        aside = _aside(path, new.name.removeprefix(prefix))
        if path.exists() and aside.exists():
            logger.warning("salvaged database left out, another was put in its place path=%s", path)
            new.rename(f"{aside}-salvaged")
        else:
            finished = _swap(path, new)
    return finished


def _swap(path: Path, new: Path) -> Path:
    """Move the old database aside with its log, then the new one into its place. Repeatable."""
    aside = _aside(path, new.name.removeprefix(f"{path.name}.salvaged-"))
    for suffix in _SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    # The old log is gone for sure before the new database has the name.
    sync(path.parent)
    new.rename(path)
    sync(path.parent)
    return aside


def _remove(path: Path) -> None:
    for suffix in _SUFFIXES:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


# --- rows ---------------------------------------------------------------------------------------


def _take(execute: Callable[[str], Iterator[Row]], statement: str, rows: dict[int, Row]) -> bool:
    """Take rows as far as they can be read; tell whether that was all of them."""
    try:
        for row in execute(statement):
            rows[row[-1]] = row
    except (UnicodeDecodeError, sqlite3.DatabaseError) as exc:
        if not _is_damage(exc):
            raise
        return False
    return True


def _is_damage(exc: Exception) -> bool:
    """Tell damage of the database from faults of the machine."""
    # What is no sqlite3.Error is Python's: the text of a fault quotes rubbish of the schema.
    return not isinstance(exc, sqlite3.Error) or primary_code(exc) in _DAMAGE


def _is_newer(row: Row, known: Row) -> bool:
    """Tell whether a row is a later state of a known one."""
    at = [COLUMNS.index(column) for column in ("updated_at", "last_seen")]
    return row[:2] == known[:2] and [row[i] or 0 for i in at] > [known[i] or 0 for i in at]


def _distinct(rows: Iterable[Row]) -> list[Row]:
    """Leave out what has the id or the name of an earlier row: one of them is a stale copy."""
    chosen: list[Row] = []
    ids: set[object] = set()
    names: set[object] = set()
    for row in rows:
        if row[0] not in ids and row[1] not in names:
            chosen.append(row)
            ids.add(row[0])
            names.add(row[1])
    return chosen
