# SPDX-License-Identifier: AGPL-3.0-only
"""Memory and descriptors over time, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from bench.chart import text_element
from bench.soak.samples import Sample

WIDTH: Final = 1080
LEFT, RIGHT, TOP = 60, 150, 64
PANEL, GAP = 190, 50
PANELS: Final = (
    ("memory, MiB", {"rss": ("resident (RSS)", "#2f5d8a"), "pss": ("proportional", "#7aa6d1")}),
    ("open descriptors", {"descriptors": ("descriptors", "#2f7d4f")}),
)


def plot(machine: Mapping[str, str], samples: Sequence[Sample]) -> str:
    """Draw both, each from zero, so that what is flat looks flat."""
    height = TOP + len(PANELS) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        f' viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        text_element(12, 22, f"A registry under mixed load for {samples[-1].at_s:.0f} s", size=15),
        text_element(12, 42, f"{machine['processor']}, Python {machine['Python']}", colour="#666"),
    ]
    for number, (title, lines) in enumerate(PANELS):
        parts += _panel(title, lines, samples, TOP + number * (PANEL + GAP))
    return "\n".join([*parts, "</svg>", ""])


def _panel(
    title: str, lines: Mapping[str, tuple[str, str]], samples: Sequence[Sample], top: int
) -> list[str]:
    highest = max(one.values[key] for one in samples for key in lines)
    end_s, bottom = samples[-1].at_s, top + PANEL
    right = WIDTH - RIGHT

    def x(at_s: float) -> float:
        return LEFT + at_s / end_s * (right - LEFT)

    def y(value: float) -> float:
        return bottom - value / highest * PANEL

    parts = [text_element(LEFT, top - 6, title, colour="#666")]
    for tenth in range(0, 11, 2):
        at_s, value = end_s * tenth / 10, highest * tenth / 10
        parts += [
            f'<line x1="{LEFT}" y1="{y(value):.1f}" x2="{right}" y2="{y(value):.1f}"'
            ' stroke="#ddd"/>',
            text_element(LEFT - 8, round(y(value)) + 4, f"{value:.0f}", anchor="end"),
            text_element(round(x(at_s)), bottom + 18, f"{at_s:.0f} s", anchor="middle"),
        ]
    for key, (label, colour) in lines.items():
        points = " ".join(f"{x(one.at_s):.1f},{y(one.values[key]):.1f}" for one in samples)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        last = samples[-1].values[key]
        parts.append(text_element(right + 8, round(y(last)) + 4, label, colour=colour))
    return parts
