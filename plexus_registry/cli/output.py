# SPDX-License-Identifier: AGPL-3.0-only
"""What ``plexus-registryctl`` prints: tables for people, one line an entry or JSON for scripts.

What backends say about themselves never steers a terminal: what is not printable is shown as an
escape.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import click
import msgspec

from plexus_registry.backend import Source
from plexus_registry.cli import streams
from plexus_registry.service import log

PROGRAM = "plexus-registryctl"

json_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, for scripts."
)

source_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--source",
    type=click.Choice([source.value for source in Source]),
    help="Only those from there.",
)


def tell(text: str) -> None:
    """Print a line; with a priority where it goes to the journal."""
    click.echo(log.priority_prefix(logging.INFO, sys.stdout, os.environ) + safe(text))


def complain(text: str, level: int = logging.ERROR) -> None:
    """Print a line about what went wrong, or should be known."""
    prefix = log.priority_prefix(level, sys.stderr, os.environ)
    streams.tell_line(f"{prefix}{PROGRAM}: {safe(text)}")


def tell_json(value: object) -> None:
    """Print *value* as JSON, indented."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    click.echo(escaped(text, in_json))


def safe(text: str) -> str:
    """Show what is not printable as escapes: control characters, and marks that reorder text."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode()
        for one in text
    )


def escaped(text: str, escape: Callable[[str], str]) -> str:
    """Escape what is not printable in the strings of a text; line ends stay."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else escape(one) for one in text)


def in_json(one: str) -> str:
    """Write a character as JSON does in a string (RFC 8259, 7)."""
    return json.dumps(one)[1:-1] if one != "\x7f" else "\\u007f"


def in_toml(one: str) -> str:
    """Write a character as TOML does in a basic string (toml.io, v1.0.0)."""
    return f"\\u{ord(one):04x}" if ord(one) <= 0xFFFF else f"\\U{ord(one):08x}"


def tell_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: on a terminal with a heading, else one line a row, separated by tabs."""
    cells = [[safe(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in cells:
            click.echo("\t".join(row))
        return
    # Imported late: scripts need no tables, and it takes longer than the rest.
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def seconds_in_words(seconds: float) -> str:
    """Say how long something lasts, in its two largest units."""
    left = max(0, int(seconds))
    words: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not words):
            words.append(f"{count} {unit}")
    return " ".join(words[:2])


def ago(at: int | None) -> str:
    """Say how long ago a moment in Unix seconds was; a dash for never."""
    return "-" if at is None else f"{seconds_in_words(time.time() - at)} ago"


def moment(at: int) -> str:
    """Write a moment in Unix seconds in the local time, ISO 8601; as it is beyond the year 9999."""
    try:
        return datetime.datetime.fromtimestamp(at).astimezone().isoformat(sep=" ")
    except (ValueError, OverflowError, OSError):
        return str(at)


def bytes_in_words(count: int) -> str:
    """Write a size in binary units."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
