# SPDX-License-Identifier: AGPL-3.0-only
"""The table for people, JSON for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Final

from bench.results import Row

HEADINGS: Final = ("row", "figure", "bar", "ratio", "")
FIGURE_MAX_CHARACTERS: Final = 74


def machine_text(machine: Mapping[str, str]) -> str:
    """Describe the machine, one fact a line."""
    width = max(map(len, machine))
    return "\n".join(f"{name:{width}}  {fact}" for name, fact in machine.items())


def table(rows: Sequence[Row], *, is_short: bool) -> str:
    """Align the rows."""
    cells = [HEADINGS, *(_cells(row, is_short=is_short) for row in rows)]
    widths = [
        min(max(map(len, column)), FIGURE_MAX_CHARACTERS) for column in zip(*cells, strict=True)
    ]
    lines = []
    for number, line in enumerate(cells):
        wrapped = [
            textwrap.wrap(cell, width) or [""] for cell, width in zip(line, widths, strict=True)
        ]
        for index in range(max(map(len, wrapped))):
            parts = (
                (column[index] if index < len(column) else "").ljust(width)
                for column, width in zip(wrapped, widths, strict=True)
            )
            lines.append("  ".join(parts).rstrip())
        if number == 0:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _cells(row: Row, *, is_short: bool) -> tuple[str, ...]:
    verdict = "ran" if is_short and row.answers and not row.has_failed else row.verdict
    refused = f"; refused {row.refused:,} of {row.answers:,}" if row.refused else ""
    return row.what, row.figure + refused, row.bar, row.ratio, verdict


def to_json(machine: Mapping[str, str], rows: Sequence[Row], *, is_short: bool) -> str:
    """Encode everything that was measured."""
    document = {
        "short": is_short,
        "machine": dict(machine),
        "rows": [{**asdict(row), "margin": row.margin, "verdict": row.verdict} for row in rows],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
