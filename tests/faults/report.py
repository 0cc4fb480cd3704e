# SPDX-License-Identifier: AGPL-3.0-only
"""Put what the tests of faults and of limits found into the tables of docs/reliability.md.

Each test that has figures writes them as a JSON file into the folder that PLEXUS_FAULT_REPORT
names. ``kind`` tells the table, ``name`` the row.

Usage: report.py [--keep] FOLDER DOCUMENT
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

Figures = dict[str, Any]


class Column(NamedTuple):
    """One column of a table: its heading, the key of its figure, and how that is shown."""

    heading: str
    key: str
    show: Callable[[Any], str] = str


def count(value: int) -> str:
    """Show a number."""
    return f"{value:,}"


def seconds(value: float) -> str:
    """Show a time that a person would wait."""
    return f"{value:.2f} s"


def milliseconds(value: float) -> str:
    """Show a time that a program would wait."""
    return f"{value:.1f} ms"


TABLES: Final[dict[str, tuple[Column, ...]]] = {
    "fault": (
        Column("fault", "name"),
        Column("rounds", "rounds", count),
        Column("acknowledged", "acknowledged", count),
        Column("lost", "lost", count),
        Column("recovered within", "recover_s", seconds),
        Column("what else", "note"),
    ),
    "attack": (
        Column("attack", "name"),
        Column("what the attacker got", "attacker"),
        Column("p99 of another client, alone", "alone_p99_ms", milliseconds),
        Column("and beside the attacker", "p99_ms", milliseconds),
    ),
}
NOTHING: Final = "–"


def read(folder: Path) -> list[Figures]:
    """Read all figures, in the order in which they were written."""
    files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def row(columns: Sequence[Column], figures: Figures) -> str:
    """Make a row of a table."""
    shown = (
        NOTHING if figures.get(column.key) is None else column.show(figures[column.key])
        for column in columns
    )
    return f"| {' | '.join(cell.replace('|', '/') for cell in shown)} |"


def table(columns: Sequence[Column], rows: Sequence[str], made: str) -> str:
    """Make a table, with where it was made below."""
    heading = f"| {' | '.join(column.heading for column in columns)} |"
    return "\n".join([heading, "|---" * len(columns) + "|", *rows, "", made])


def replace(document: str, kind: str, found: Sequence[Figures], made: str, *, keep: bool) -> str:
    """Return the document with another table between the marks of *kind*.

    Args:
        document: All of it.
        kind: Of the figures.
        found: All figures; without any of the kind, the table stays.
        made: Where and when.
        keep: Keep the rows that are not among the figures.
    """
    columns = TABLES[kind]
    rows = {one["name"]: row(columns, one) for one in found if one["kind"] == kind}
    begin, end = f"<!-- {kind}s: made by make fault-test -->\n", f"\n<!-- end of {kind}s -->"
    before, _, rest = document.partition(begin)
    old, mark, after = rest.partition(end)
    if not mark:
        raise SystemExit(f"the document has no {begin.strip()} or no {end.strip()}")
    if not rows:
        return document
    if keep:
        lines = old.splitlines()[2:]
        kept = {line.split(" | ")[0][2:]: line for line in lines if line.startswith("| ")}
        rows = {**kept, **rows}
    return before + begin + table(columns, list(rows.values()), made) + end + after


def main(arguments: Sequence[str] | None = None) -> None:
    """Rewrite the tables that there are figures for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep rows of tests that did not run")
    parser.add_argument("folder", type=Path)
    parser.add_argument("document", type=Path)
    asked = parser.parse_args(arguments)
    found = read(asked.folder)
    linux = re.match(r"[\d.]*\d", platform.release())
    made = (
        f"Made on {datetime.now(UTC):%Y-%m-%d} with Linux {linux[0] if linux else '?'},"
        f" SQLite {sqlite3.sqlite_version}, Python {platform.python_version()}."
    )
    document = asked.document.read_text(encoding="utf-8")
    for kind in TABLES:
        document = replace(document, kind, found, made, keep=asked.keep)
    asked.document.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main()
