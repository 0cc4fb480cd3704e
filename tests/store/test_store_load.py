# SPDX-License-Identifier: AGPL-3.0-only
"""Loading takes what can be read, says what cannot, and leaves the database alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from plexus_registry.backend import Backend, Put
from plexus_registry.errors import StoreRejected
from plexus_registry.store import rows
from plexus_registry.store.sqlite import SqliteStore

MakeBackend = Callable[..., Backend]
Execute = Callable[..., list[tuple[object, ...]]]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings that were logged."""
    return [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


@pytest.mark.parametrize(
    "case",
    [
        ("id", None, "id is null"),
        ("id", b"\1", "id is a bytes"),
        ("name", b"\1", "name is a bytes"),
        ("port", "http", 'port is "http"'),
        ("port", 1.5, "port is 1.5"),
        ("host", b"h", "host is a bytes"),
        ("description", b"d", "description is a bytes"),
        ("source", "consul", 'source is "consul"'),
        ("is_active", "yes", 'is_active is "yes"'),
        ("last_seen", "never", 'last_seen is "never"'),
    ],
    ids=lambda case: case[2],
)
def test_unreadable_row_is_skipped_and_stays(
    store: SqliteStore,
    execute: Execute,
    backend: MakeBackend,
    caplog: pytest.LogCaptureFixture,
    case: tuple[str, object, str],
) -> None:
    """One row of the wrong type hides itself only, with one warning that says why."""
    column, value, reason = case
    store.commit([Put(backend("a")), Put(backend("b")), Put(backend("c"))])
    execute(f"UPDATE backends SET {column} = ? WHERE name = 'b'", value)
    assert [one.name for one in store.load()] == ["a", "c"]
    (line,) = warnings(caplog)
    assert line.startswith("unreadable row skipped rowid=2 ")
    assert line.endswith(reason)
    assert execute(f"SELECT {column} FROM backends WHERE rowid = 2") == [(value,)]


@pytest.mark.parametrize("column", ["name", "description"])
def test_text_that_is_not_utf8_is_skipped(
    store: SqliteStore,
    execute: Execute,
    backend: MakeBackend,
    caplog: pytest.LogCaptureFixture,
    column: str,
) -> None:
    """A text in another encoding makes its row unreadable, not the whole table."""
    store.commit([Put(backend("a")), Put(backend("b")), Put(backend("c", description="é"))])
    execute(f"UPDATE backends SET {column} = CAST(x'e9' AS TEXT) WHERE name = 'b'")
    assert [(one.name, one.description) for one in store.load()] == [("a", None), ("c", "é")]
    (line,) = warnings(caplog)
    assert line.endswith(f"{column} is a bytes")


def test_missing_value_is_skipped(
    path: Path,
    execute: Execute,
    rust_schema: str,
    backend: MakeBackend,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """NULL where a value is needed, in a table that allows it, makes the row unreadable."""
    execute(rust_schema.split(";", maxsplit=1)[0].replace(" NOT NULL", ""))
    with SqliteStore.open(path) as store:
        store.commit([Put(backend("a")), Put(backend("b"))])
        execute("UPDATE backends SET host = NULL WHERE name = 'a'")
        assert [one.name for one in store.load()] == ["b"]
    assert warnings(caplog) == ['unreadable row skipped rowid=1 name="a" reason=host is null']


def test_warnings_of_unreadable_rows_are_bounded(
    store: SqliteStore, execute: Execute, backend: MakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """A table full of rubbish gives a few lines and a sum."""
    store.commit([Put(backend(f"b{number}")) for number in range(50)])
    execute("UPDATE backends SET source = 'x'")
    assert store.load() == []
    lines = warnings(caplog)
    assert len(lines) == rows.SKIPPED_MAX_LINES + 1
    assert lines[-1] == "more unreadable rows skipped count=30"


@pytest.mark.parametrize(
    "fields",
    [
        {"port": 0},
        {"host": "no host!"},
        {"host": "[::1]"},
        {"protocol": "http"},
        {"description": "x" * (2**20 + 1)},
        {"version": "\0"},
    ],
    ids=str,
)
def test_values_that_are_not_accepted_today_are_loaded(
    store: SqliteStore,
    backend: MakeBackend,
    caplog: pytest.LogCaptureFixture,
    fields: dict[str, object],
) -> None:
    """What the Rust program let in is loaded as it is, and summed up in one warning."""
    entries = [backend("fine"), backend("odd", **fields), backend("also odd")]
    store.commit([Put(entry) for entry in entries])
    assert store.load() == entries
    assert warnings(caplog) == [
        'entries loaded that would not be accepted today count=2 first="odd"'
    ]


def test_row_that_is_replaced_is_logged_with_what_it_held(
    store: SqliteStore, execute: Execute, backend: MakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Its values are quoted and bounded; what comes in its place is written and readable."""
    store.commit([Put(backend("a", host="precious", description="d")), Put(backend("b"))])
    execute("UPDATE backends SET source = 'consul', version = ? WHERE name = 'a'", "v\n" * 999)
    execute("UPDATE backends SET description = CAST(x'64e9' AS TEXT) WHERE name = 'a'")
    assert [one.name for one in store.load()] == ["b"]
    assert store.unreadable_names == {"a"}
    caplog.clear()

    entries = [backend("a", id="new"), backend("a", id="new", port=2)]
    store.commit([Put(entry) for entry in entries])

    (line,) = warnings(caplog)
    assert line.startswith(
        'unreadable row replaced id="id-a" name="a" host="precious" port=4444 protocol="ws"'
        ' description="d\\\\xe9" version="v\\nv\\n'
    )
    assert "(1998 characters)" in line
    assert 'source="consul"' in line
    assert len(line) < 1000
    assert store.unreadable_names == frozenset()
    assert store.load() == [backend("b"), entries[1]]


def test_row_stays_unreadable_if_its_replacement_could_not_be_written(
    store: SqliteStore, execute: Execute, backend: MakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """A commit that fails has replaced nothing, and says nothing of it."""
    store.commit([Put(backend("a"))])
    execute("UPDATE backends SET source = 'consul'")
    store.load()
    caplog.clear()

    with pytest.raises(StoreRejected):
        store.commit([Put(backend("a", id="new")), Put(backend("b", port=2**70))])

    assert warnings(caplog) == []
    assert store.unreadable_names == {"a"}
    assert execute("SELECT source FROM backends") == [("consul",)]


def test_sound_entries_are_loaded_silently(
    store: SqliteStore, backend: MakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is said about a table in order."""
    store.commit([Put(backend(f"b{number}", host="::1")) for number in range(50)])
    assert len(store.load()) == 50
    assert warnings(caplog) == []
