# SPDX-License-Identifier: AGPL-3.0-only
"""Rows of the table ``backends``: which are entries, and what is said of those that are not."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from typing import Any, get_args

import msgspec

from plexus_registry import backend as fields
from plexus_registry.backend import Backend, Source
from plexus_registry.errors import InvalidValue, quote

logger = logging.getLogger(__name__)

SKIPPED_MAX_LINES = 20
"""How many unreadable rows are logged one by one."""

COLUMNS = Backend.__struct_fields__

Row = tuple[Any, ...]
"""The values of the columns, and mostly the rowid after them."""


def _stored_types(declared: Any) -> tuple[type, ...]:
    """Return the types that SQLite gives for the values of a field of `Backend`."""
    stored = {bool: int, Source: str}
    return tuple(stored.get(one, one) for one in get_args(declared) or (declared,))


_COLUMN_TYPES = {one.name: _stored_types(one.type) for one in msgspec.structs.fields(Backend)}
_READABLE_TYPES = frozenset(itertools.product(*_COLUMN_TYPES.values(), (int,)))  # and the rowid
_SOURCE = COLUMNS.index("source")
_SOURCES = {source.value: source for source in Source}


def decode(text: bytes) -> str | bytes:
    """Decode a text of the database; one that is not UTF-8 stays bytes, which no column takes."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text


def is_readable(row: Row) -> bool:
    """Tell whether `load` would take a row, its rowid included."""
    return bool(read_rows([row])[0])


def is_acceptable(row: Row) -> bool:
    """Tell whether a row, its rowid included, could be registered with just these values."""
    return any(map(_is_accepted, read_rows([row])[0]))


def describe(row: Row) -> str:
    """Show what a row holds, each value quoted and bounded."""
    shown = [one.decode(errors="backslashreplace") if type(one) is bytes else one for one in row]
    values = zip(COLUMNS, shown, strict=True)
    return " ".join(f"{column}={quote(one)}" for column, one in values if one is not None)


def read_rows(rows: Iterable[Row]) -> tuple[list[Backend], list[Row]]:
    """Make backends of rows; what cannot be one is returned as it is."""
    backends: list[Backend] = []
    skipped: list[Row] = []
    for row in rows:
        values = dict(zip(COLUMNS, row, strict=False))  # the rowid stays behind
        source = _SOURCES.get(values["source"])
        if source is None or tuple(map(type, row)) not in _READABLE_TYPES:
            skipped.append(row)
        else:
            values.update(source=source, is_active=values["is_active"] != 0)
            backends.append(Backend(**values))
    return backends, skipped


def report_skipped(rows: Sequence[Row]) -> None:
    """Log rows that are no entries, and why; not too many."""
    for row in rows[:SKIPPED_MAX_LINES]:
        logger.warning(
            "unreadable row skipped rowid=%d name=%s reason=%s", row[-1], quote(row[1]), _fault(row)
        )
    more = len(rows) - SKIPPED_MAX_LINES
    if more > 0:
        logger.warning("more unreadable rows skipped count=%d", more)


def _fault(row: Row) -> str:
    """Say which column makes a row unreadable."""
    for (column, types), value in zip(_COLUMN_TYPES.items(), row, strict=False):
        if type(value) not in types:
            return f"{column} is {quote(value)}"
    return f"source is {quote(row[_SOURCE])}"


def report_odd(backends: Sequence[Backend]) -> None:
    """Log how many entries could not be registered today."""
    odd = [backend.name for backend in backends if not _is_accepted(backend)]
    if odd:
        message = "entries loaded that would not be accepted today count=%d first=%s"
        logger.warning(message, len(odd), quote(odd[0]))


def _is_accepted(backend: Backend) -> bool:
    """Tell whether the entry could be registered with just these values."""
    try:
        fields.check_name(backend.name)
        fields.check_port(backend.port)
        fields.check_protocol(backend.protocol)
        fields.check_description(backend.description, fields.GREATEST_LIMITS)
        fields.check_namespace(backend.namespace)
        fields.check_version(backend.version)
        fields.check_metadata(backend.metadata, fields.GREATEST_LIMITS)
        return fields.check_host(backend.host) == backend.host
    except InvalidValue:
        return False
