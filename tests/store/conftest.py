# SPDX-License-Identifier: AGPL-3.0-only
"""What the store's tests share: a path, an open store, backends, and the Rust program's file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from plexus_registry.backend import Backend, Source
from plexus_registry.store.sqlite import SqliteStore
from support.rust import RUST_ROWS, RUST_SCHEMA, make_rust_database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database that does not exist yet."""
    return tmp_path / "registry.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    """An open, empty store at `path`, which does not wait long for others."""
    with SqliteStore.open(path, busy_timeout_s=0.1) as opened:
        yield opened


@pytest.fixture
def execute(path: Path) -> Callable[..., list[tuple[object, ...]]]:
    """Run SQL on `path` as another program would."""

    def run(sql: str, *parameters: object) -> list[tuple[object, ...]]:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            return connection.execute(sql, parameters).fetchall()

    return run


@pytest.fixture
def backend() -> Callable[..., Backend]:
    """Make a backend of that name; keywords replace its fields."""

    def make(name: str, **given: object) -> Backend:
        entry = Backend(
            id=f"id-{name}",
            name=name,
            host="127.0.0.1",
            port=4444,
            protocol="ws",
            source=Source.MANUAL,
            is_active=True,
            registered_at=1,
            created_at=1,
            updated_at=1,
        )
        return msgspec.structs.replace(entry, **given)

    return make


@pytest.fixture
def rust_schema() -> str:
    """What the Rust program executes at every start."""
    return RUST_SCHEMA


@pytest.fixture
def rust_database(path: Path) -> list[tuple[object, ...]]:
    """Make `path` as the Rust program would, and return its rows."""
    make_rust_database(path)
    return list(RUST_ROWS)


@pytest.fixture
def python(path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start Python code in a process of its own, with `path` as its argument."""
    children: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(path)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture
def files(path: Path) -> Callable[[], dict[str, bytes]]:
    """Take a picture of all files of the database, without the lock file."""

    def picture() -> dict[str, bytes]:
        found = sorted(path.parent.glob(f"{path.name}*"))
        return {one.name: one.read_bytes() for one in found if one.suffix != ".lock"}

    return picture
