# SPDX-License-Identifier: AGPL-3.0-only
"""The database of the Rust program of the same name."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

RUST_SCHEMA = """
    CREATE TABLE IF NOT EXISTS backends (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, host TEXT NOT NULL, port INTEGER NOT NULL,
        protocol TEXT NOT NULL, description TEXT, namespace TEXT, version TEXT, metadata TEXT,
        source TEXT NOT NULL, is_active INTEGER NOT NULL DEFAULT 1, registered_at INTEGER NOT NULL,
        last_seen INTEGER, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL
    );
    CREATE INDEX IF NOT EXISTS idx_backends_name ON backends(name);
    CREATE INDEX IF NOT EXISTS idx_backends_active ON backends(is_active);
    CREATE INDEX IF NOT EXISTS idx_backends_source ON backends(source);
"""
RUST_ROWS = [
    ("1", "zeta", "127.0.0.1", 4444, "ws", "Z", "ns", "1.0", "{}", "auto", 1, 10, 20, 10, 10),
    ("2", "alpha", "::1", 4445, "wss", None, None, None, None, "file", 0, 11, None, 11, 12),
    ("3", "größe-日本", "h", 1, "ws", "😀\n\0", None, None, "[1]", "env", 1, 12, None, 12, 12),
    ("4", "port 0 / odd", "no host!", 0, "http", None, None, None, None, "manual", 7, 0, 0, 0, 0),
    ("5", "alien", "h", 1, "ws", None, None, None, None, "consul", 1, 13, None, 13, 13),
]


def make_rust_database(path: Path) -> None:
    """Make a database as that program would, with `RUST_ROWS`."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(RUST_SCHEMA)
        connection.executemany(f"INSERT INTO backends VALUES ({','.join('?' * 15)})", RUST_ROWS)
        connection.commit()
