# SPDX-License-Identifier: AGPL-3.0-only
"""What is committed is there after a reopening: all of it, in order, or none of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plexus_registry.backend import Backend, Change, Put, Remove, Source
from plexus_registry.errors import StoreRejected, StoreUnavailable
from plexus_registry.store.sqlite import SqliteStore

MakeBackend = Callable[..., Backend]
Execute = Callable[..., list[tuple[object, ...]]]


def names(store: SqliteStore) -> list[str]:
    """Return the names of the entries in their order."""
    return [backend.name for backend in store.load()]


def test_put_survives_reopening(path: Path, backend: MakeBackend) -> None:
    """Every field of an entry comes back as it went in."""
    entry = backend(
        "größe-日本",
        description="tab\tand 😀",
        namespace="ns",
        version="1.0",
        metadata='{"a":1}',
        source=Source.ENV,
        is_active=False,
        last_seen=2**40,
    )
    with SqliteStore.open(path) as store:
        store.commit([Put(entry)])
    with SqliteStore.open(path) as store:
        assert store.load() == [entry]


@pytest.mark.parametrize("source", list(Source))
def test_put_keeps_source(store: SqliteStore, backend: MakeBackend, source: Source) -> None:
    """Each source is stored under its own name."""
    store.commit([Put(backend("a", source=source))])
    assert store.load()[0].source is source


@pytest.mark.parametrize("new_id", ["id-a", "another"])
def test_put_of_known_name_keeps_place(
    store: SqliteStore, backend: MakeBackend, new_id: str
) -> None:
    """An entry that is replaced stays where it is in the order, also with a new id."""
    store.commit([Put(backend("a")), Put(backend("b"))])
    store.commit([Put(backend("a", id=new_id, port=1))])
    first, second = store.load()
    assert (first.id, first.port, second.name) == (new_id, 1, "b")


def test_removed_name_that_returns_goes_to_the_end(
    store: SqliteStore, backend: MakeBackend
) -> None:
    """Changes of one name are carried out in their order."""
    store.commit([Put(backend("a")), Put(backend("b")), Remove("a"), Put(backend("a"))])
    assert names(store) == ["b", "a"]


def test_remove_of_unknown_name_changes_nothing(store: SqliteStore, backend: MakeBackend) -> None:
    """Removing what is not there is no fault."""
    store.commit([Put(backend("a"))])
    store.commit([Remove("b")])
    assert names(store) == ["a"]


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "id-a"},
        {"port": 2**63},
        {"description": "lone surrogate \ud800"},
        {"metadata": {"not": "text"}},
    ],
    ids=["id of another entry", "integer beyond 64 bits", "surrogate", "type"],
)
def test_rejected_change_names_itself_and_undoes_its_group(
    store: SqliteStore, backend: MakeBackend, fields: dict[str, object]
) -> None:
    """One change that cannot be written takes its group with it, and the store goes on."""
    store.commit([Put(backend("a"))])
    with pytest.raises(StoreRejected, match='backend "culprit" cannot be written'):
        store.commit([Put(backend("b")), Put(backend("culprit", **fields)), Put(backend("c"))])
    assert names(store) == ["a"]
    store.commit([Put(backend("d"))])
    assert names(store) == ["a", "d"]


def test_name_of_remove_that_cannot_be_written(store: SqliteStore) -> None:
    """A name that is no text in UTF-8 is refused like any other value."""
    with pytest.raises(StoreRejected, match=r'backend "\\ud800"'):
        store.commit([Remove("\ud800")])


def test_put_replaces_unreadable_row_of_that_name(
    path: Path, execute: Execute, backend: MakeBackend
) -> None:
    """An unreadable row gives way to a new entry, which is the youngest, on disk as in memory."""
    with SqliteStore.open(path) as store:
        store.commit([Put(backend("a")), Put(backend("b"))])
        execute("UPDATE backends SET port = 'no number' WHERE name = 'a'")
        assert names(store) == ["b"]
        store.commit([Put(backend("a"))])
        store.commit([Put(backend("a", port=1))])
        assert names(store) == ["b", "a"]
    assert execute("SELECT count(*) FROM backends") == [(2,)]


def test_put_of_known_id_writes_one_page(
    store: SqliteStore, path: Path, backend: MakeBackend
) -> None:
    """A heartbeat costs one page of the log and its frame header, not one for each index."""
    store.commit([Put(backend("a"))])
    wal = path.with_name(f"{path.name}-wal")
    before = wal.stat().st_size
    store.commit([Put(backend("a", last_seen=5))])
    assert wal.stat().st_size - before == 4096 + 24


def test_closed_store_refuses(path: Path) -> None:
    """A closed store says so, and can be closed again."""
    store = SqliteStore.open(path)
    store.close()
    store.close()
    for method in (store.load, lambda: store.commit([]), lambda: store.backup(path)):
        with pytest.raises(StoreUnavailable, match="is closed"):
            method()


NAMES = st.sampled_from(["a", "b", "c", "é", "😀", "x" * 128])
TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INTEGERS = st.integers(-(2**63), 2**63 - 1)


@st.composite
def puts(draw: st.DrawFn) -> Put:
    """Draw a `Put` whose id no other name has."""
    name = draw(NAMES)
    return Put(
        Backend(
            id=f"{name}-{draw(st.integers(0, 2))}",
            name=name,
            host=draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=20)),
            port=draw(st.integers(0, 65535)),
            protocol=draw(st.sampled_from(["ws", "wss"])),
            source=draw(st.sampled_from(Source)),
            is_active=draw(st.booleans()),
            description=draw(TEXTS),
            namespace=draw(TEXTS),
            version=draw(TEXTS),
            metadata=draw(TEXTS),
            registered_at=draw(INTEGERS),
            last_seen=draw(st.none() | INTEGERS),
            created_at=draw(INTEGERS),
            updated_at=draw(INTEGERS),
        )
    )


GROUPS = st.lists(st.lists(puts() | st.builds(Remove, NAMES), max_size=8), max_size=6)


@settings(max_examples=100, deadline=None, database=None)
@given(GROUPS)
def test_reopened_store_equals_model(groups: list[list[Change]]) -> None:
    """Whatever is committed, the store holds what a dict would hold, in its order."""
    model: dict[str, Backend] = {}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "registry.db")
        with SqliteStore.open(path) as store:
            for group in groups:
                store.commit(group)
        for change in (change for group in groups for change in group):
            if isinstance(change, Put):
                model[change.name] = change.backend
            else:
                model.pop(change.name, None)
        with SqliteStore.open(path) as store:
            assert store.load() == list(model.values())
