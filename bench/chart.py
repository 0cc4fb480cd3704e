# SPDX-License-Identifier: AGPL-3.0-only
"""A plot of how often each bar was met, as SVG; on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

from bench.results import NOISY, Row

WIDTH: Final = 1080
LABELS: Final = 500
NUMBERS: Final = 60
LINE: Final = 22
TOP: Final = 58
DECADES: Final = (-1, 2)
"""The scale ends at a tenth of a bar and at a hundred times a bar."""

MET, MISSED, UNPROVEN = "#2f7d4f", "#b3402c", "#8a8a8a"


def chart(machine: Mapping[str, str], rows: Sequence[Row]) -> str:
    """Draw the rows that have a bar and were measured."""
    drawn = [row for row in rows if row.margin is not None]
    height = TOP + LINE * len(drawn) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        f' viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        text_element(
            12,
            22,
            "How often each bar is met (1 is just met, right is better; grey is too noisy)",
            size=15,
        ),
        text_element(12, 42, f"{machine['processor']}, Python {machine['Python']}", colour="#666"),
    ]
    for power in range(DECADES[0], DECADES[1] + 1):
        x, value = _x(10.0**power), f"{10.0**power:g}×"
        colour = "#333" if power == 0 else "#ddd"
        end = height - 24
        parts.append(f'<line x1="{x}" y1="{TOP - 6}" x2="{x}" y2="{end}" stroke="{colour}"/>')
        parts.append(text_element(x, height - 8, value, anchor="middle", colour="#666"))
    for index, row in enumerate(drawn):
        parts += _bar(row, TOP + LINE * index)
    return "\n".join([*parts, "</svg>", ""])


def _bar(row: Row, y: int) -> list[str]:
    assert row.margin is not None
    one, x = _x(1.0), _x(row.margin)
    colour = MET if row.margin >= 1 else MISSED
    if row.has_failed or row.verdict == NOISY:
        colour = UNPROVEN
    left, width = min(one, x), max(abs(x - one), 1)
    return [
        text_element(LABELS - 12, y + 12, f"{row.what} ({row.bar})", anchor="end"),
        f'<rect x="{left}" y="{y}" width="{width}" height="{LINE - 6}" fill="{colour}"/>',
        text_element(WIDTH - 12, y + 12, f"{row.margin:.2f}×", anchor="end", colour=colour),
    ]


def _x(margin: float) -> int:
    low, high = DECADES
    place = (math.log10(max(margin, 10.0**low)) - low) / (high - low)
    return LABELS + round(min(place, 1.0) * (WIDTH - LABELS - NUMBERS))


def text_element(
    x: int, y: int, text: str, *, anchor: str = "start", colour: str = "#222", size: int = 12
) -> str:
    """Return a line of text as SVG."""
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">'
        f"{escape(text)}</text>"
    )
