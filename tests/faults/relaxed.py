# SPDX-License-Identifier: AGPL-3.0-only
"""The daemon with synchronous=NORMAL, which loses what it acknowledged: a test must notice."""

from __future__ import annotations

import functools
import sqlite3
from typing import Any

from plexus_registry.cli.daemon import main


class Relaxed(sqlite3.Connection):
    """A connection that does not wait for the disk at each commit."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Execute a statement, unless it asks for more care."""
        relaxed = sql.replace("synchronous = FULL", "synchronous = NORMAL")
        return super().execute(relaxed, parameters)


if __name__ == "__main__":
    sqlite3.connect = functools.partial(sqlite3.connect, factory=Relaxed)  # type: ignore[assignment]
    main()
