# SPDX-License-Identifier: AGPL-3.0-only
"""On which line of a TOML text a key or table stands, which `tomllib` does not tell.

Works on text that `tomllib` has accepted, and only when a fault or an origin has to be shown, so
that reading sound files costs nothing. On any other text the layout ends where the scanner no
longer understands; it never raises and never loops.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from bisect import bisect_left
from dataclasses import dataclass, field

# Only patterns that cannot go back: strings are searched by hand, because what would do it in one
# pattern, possessive quantifiers, matches wrongly in Python 3.11.2, which Debian 12 has.
_SPACE = re.compile(r"[ \t\r\n]*")
_SPACE_OR_COMMA = re.compile(r"[ \t\r\n,]*")
_HEADER = re.compile(r"\[(?P<array>\[)?[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_DOT = re.compile(r"[ \t]*\.[ \t]*")
_EQUALS = re.compile(r"[ \t\r\n]*=[ \t\r\n]*")
_PLAIN_VALUE = re.compile(r"[^\[\]{},\n#\"']+")
_NOT_NESTING = re.compile(r"[^\[\]{}#\"']*")
_QUOTES = ('"', "'")
_OPENING = ("[", "{")
_MAX_QUOTES_AT_END = 2


@dataclass(frozen=True, slots=True)
class Table:
    """Where one table of an array of tables stands.

    Attributes:
        line: Line of its header, or of its opening brace in the inline form.
        keys: Line on which each of its keys first appears.
    """

    line: int
    keys: dict[str, int] = field(default_factory=dict)

    def line_of(self, key: str) -> int:
        """Return the line of *key*, or of the table if it has no such key."""
        return self.keys.get(key, self.line)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a TOML text stand.

    Attributes:
        keys: Line on which each top-level key or table first appears.
        tables: The tables of the array of tables that was asked for, in order.
    """

    keys: dict[str, int] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)

    def line_of(self, key: str) -> int:
        """Return the line of the top-level *key*, 0 if it is nowhere."""
        return self.keys.get(key, 0)

    def table(self, index: int) -> Table:
        """Return the table number *index*, one on line 0 if there are not so many."""
        return self.tables[index] if index < len(self.tables) else Table(0)


def scan(text: str, array: str = "") -> Layout:
    """Find the lines of all top-level keys, and of the tables of the array named *array*."""
    layout = Layout()
    scanner = _Scanner(text, array, layout)
    with contextlib.suppress(_ScanError):
        scanner.scan_document()
    return layout


class _ScanError(Exception):
    """The text is not what the scanner expects here."""


class _Scanner:
    def __init__(self, text: str, array: str, layout: Layout) -> None:
        self._text = text
        self._array = array
        self._layout = layout
        self._at = 0
        self._ends = [match.start() for match in re.finditer("\n", text)]

    def scan_document(self) -> None:
        keys: dict[str, int] = self._layout.keys
        while self._skip_blank():
            line = self._line()
            if self._text[self._at] == "[":
                keys = self._scan_header(line)
                continue
            path = self._scan_key()
            keys.setdefault(path[0], line)
            self._take(_EQUALS)
            if keys is self._layout.keys and path == [self._array] and self._next_is("["):
                self._scan_tables()
            else:
                self._skip_value()

    def _scan_header(self, line: int) -> dict[str, int]:
        """Scan ``[a.b]`` or ``[[a.b]]`` and return where the lines of the keys below it go."""
        is_array = self._take(_HEADER)["array"] is not None
        path = self._scan_key()
        self._skip_line()
        self._layout.keys.setdefault(path[0], line)
        if path[0] != self._array:
            return {}
        if is_array and len(path) == 1:
            table = Table(line)
            self._layout.tables.append(table)
            return table.keys
        if len(path) > 1 and self._layout.tables:
            self._layout.tables[-1].keys.setdefault(path[1], line)
        return {}

    def _scan_tables(self) -> None:
        """Scan ``[{...}, {...}]``; an element that is no table counts as one without keys."""
        self._at += 1
        while True:
            self._skip_blank(_SPACE_OR_COMMA)
            if self._next_is("]"):
                self._at += 1
                return
            table = Table(self._line())
            self._layout.tables.append(table)
            if self._next_is("{"):
                self._scan_inline_table(table)
            else:
                self._skip_value()

    def _scan_inline_table(self, table: Table) -> None:
        self._at += 1
        while True:
            self._skip_blank(_SPACE_OR_COMMA)
            if self._next_is("}"):
                self._at += 1
                return
            line = self._line()
            table.keys.setdefault(self._scan_key()[0], line)
            self._take(_EQUALS)
            self._skip_value()

    def _scan_key(self) -> list[str]:
        path = [self._scan_key_part()]
        while match := _DOT.match(self._text, self._at):
            self._at = match.end()
            path.append(self._scan_key_part())
        return path

    def _scan_key_part(self) -> str:
        if not self._next_is(*_QUOTES):
            return self._take(_BARE_KEY)[0]
        start = self._at
        self._skip_string()
        try:
            value = tomllib.loads(f"key = {self._text[start : self._at]}")["key"]
        except tomllib.TOMLDecodeError:
            raise _ScanError from None
        return str(value)

    def _skip_value(self) -> None:
        if self._next_is(*_QUOTES):
            self._skip_string()
        elif self._next_is(*_OPENING):
            self._skip_nested()
        else:
            self._take(_PLAIN_VALUE)

    def _skip_nested(self) -> None:
        """Skip an array or inline table with all that is in it."""
        depth = 0
        while True:
            self._take(_NOT_NESTING)
            if self._next_is(*_QUOTES):
                self._skip_string()
            elif self._next_is("#"):
                self._skip_line()
            elif self._at == len(self._text):
                raise _ScanError
            else:
                depth += 1 if self._next_is(*_OPENING) else -1
                self._at += 1
                if depth == 0:
                    return

    def _skip_string(self) -> None:
        quote = self._text[self._at]
        is_multiline = self._next_is(quote * 3)
        closing = quote * 3 if is_multiline else quote
        end = self._at + len(closing)
        while (end := self._text.find(closing, end)) >= 0:
            if quote == '"' and self._is_escaped(end):
                end += 1
                continue
            self._at = end + len(closing)
            # It may end in quotes of its own, before those that close (TOML 1.0, "String").
            for _ in range(_MAX_QUOTES_AT_END if is_multiline else 0):
                self._at += self._next_is(quote)
            return
        raise _ScanError

    def _is_escaped(self, at: int) -> bool:
        before = at
        while self._text[before - 1] == "\\":
            before -= 1
        return (at - before) % 2 == 1

    def _skip_line(self) -> None:
        end = self._text.find("\n", self._at)
        self._at = len(self._text) if end < 0 else end

    def _line(self) -> int:
        return bisect_left(self._ends, self._at) + 1

    def _next_is(self, *tokens: str) -> bool:
        return self._text.startswith(tokens, self._at)

    def _skip_blank(self, space: re.Pattern[str] = _SPACE) -> bool:
        """Skip white space and comments, and tell whether anything is left."""
        self._take(space)
        while self._next_is("#"):
            self._skip_line()
            self._take(space)
        return self._at < len(self._text)

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise _ScanError
        self._at = match.end()
        return match
