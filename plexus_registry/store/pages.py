# SPDX-License-Identifier: AGPL-3.0-only
"""The rows in a database file, page by page, without SQLite: for when the way to them is lost.

Every leaf of a table is looked at, whether a tree leads there or not. A page that SQLite has freed
may hold rows that were deleted, so free pages are left out as far as their list can be followed.
Format: sqlite.org/fileformat2.html, sections 1 and 2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from plexus_registry.store.rows import Row
from plexus_registry.store.wal import read_log

MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100
PAGE_SIZE = 4096
"""What SQLite takes for a new database."""
_PAGE_SIZES = frozenset(1 << bits for bits in range(9, 17))
_TABLE_LEAF = 0x0D
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
"""Serial types of integers, with their bytes."""


class Pages:
    """A picture of a database and its log, as committed. No connection is needed, or disturbed.

    Raises:
        OSError: If a file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        # SQLite's locks go if this process closes the file: no connection may be open here.
        self._content = path.read_bytes()
        self._log = read_log(path)
        self.header = self.page_of_bytes(PAGE_SIZE)[:HEADER_BYTES]
        self._size = self._page_size()
        self.first = self.page_of_bytes(self._size)
        self._usable = self._size - (self.first[20] if self.has_magic else 0)
        self._count = max((len(self._content) // self._size, *self._log.pages))

    def page_of_bytes(self, size: int) -> bytes:
        """Return the first page, taken to have *size* bytes."""
        return self._log.pages.get(1) or self._content[:size]

    @property
    def has_magic(self) -> bool:
        """Whether the file says that it is a database."""
        return self.header.startswith(MAGIC) and len(self.header) == HEADER_BYTES

    @property
    def is_empty(self) -> bool:
        """Whether the file holds nothing, or zeros only: what a power cut may leave of a file."""
        return not self._content.strip(b"\0")

    @property
    def log_fault(self) -> str:
        """Why changes in the log may be missing; empty if none are."""
        return self._log.fault

    def number_at(self, offset: int) -> int:
        """Return a 32-bit number of the header."""
        return int.from_bytes(self.header[offset : offset + 4], "big")

    def rows(self, columns: int) -> Iterator[Row]:
        """Find every record that has at least that many *columns*; further ones are left out.

        The rowid comes last.
        """
        free = self._free_pages()
        for number in range(2, self._count + 1):
            page = self._page(number)
            if number in free or len(page) != self._size or page[0] != _TABLE_LEAF:
                continue
            (cells,) = struct.unpack(">H", page[3:5])
            for index in range(min(cells, self._size // 4)):
                try:
                    (cell,) = struct.unpack_from(">H", page, 8 + 2 * index)
                    row = self._record(page, cell, columns)
                except (IndexError, ValueError, struct.error):  # no cell, or not whole
                    continue
                yield row

    def _page_size(self) -> int:
        size = int.from_bytes(self.header[16:18], "big") if self.has_magic else 0
        size = 65536 if size == 1 else size
        return next((one for one in (size, self._log.page_size) if one in _PAGE_SIZES), PAGE_SIZE)

    def _page(self, number: int) -> bytes:
        start = (number - 1) * self._size
        return self._log.pages.get(number) or self._content[start : start + self._size]

    def _free_pages(self) -> set[int]:
        free: set[int] = set()
        trunk = self.number_at(32) if self.has_magic else 0
        while 1 < trunk <= self._count and trunk not in free:
            free.add(trunk)
            words = struct.unpack(
                f">{self._size // 4}I", self._page(trunk).ljust(self._size, b"\0")
            )
            trunk, leaves = words[:2]
            free.update(words[2 : 2 + min(leaves, self._usable // 4 - 2)])
        return free

    def _record(self, page: bytes, cell: int, columns: int) -> Row:
        """Read one record.

        Raises:
            ValueError, IndexError, struct.error: If there is none that makes sense.
        """
        size, start = _varint(page, cell)
        rowid, start = _varint(page, start)
        payload = self._payload(page, start, size)
        header_size, at = _varint(payload, 0)
        types = []
        while at < header_size:
            one, at = _varint(payload, at)
            types.append(one)
        values = []
        for one in types:
            value, at = _value(payload, at, one)
            values.append(value)
        if at != len(payload) or len(values) < columns:
            raise ValueError("the record does not fill its cell, or lacks columns")
        return (*values[:columns], rowid - (1 << 64) if rowid >> 63 else rowid)

    def _payload(self, page: bytes, start: int, size: int) -> bytes:
        """Collect a payload from its cell and the pages that it overflows to."""
        if size > self._count * self._size:
            raise ValueError("the payload is larger than the file")
        local = size
        if size > self._usable - 35:
            least = (self._usable - 12) * 32 // 255 - 23
            local = least + (size - least) % (self._usable - 4)
            local = local if local <= self._usable - 35 else least
        parts = [page[start : start + local]]
        missing = size - local
        (following,) = struct.unpack_from(">I", page, start + local) if missing else (0,)
        while missing > 0:
            page = self._page(following) if following else b""
            part = page[4 : min(self._usable, 4 + missing)]
            if not part:
                raise ValueError("an overflow page is missing")
            parts.append(part)
            missing -= len(part)
            (following,) = struct.unpack_from(">I", page)
        payload = b"".join(parts)
        if len(payload) != size:
            raise ValueError("the payload is cut off")
        return payload


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read an integer of variable length; return it and where the next thing begins."""
    value = 0
    for index in range(8):
        byte = data[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    return value << 8 | data[at + 8], at + 9


def _value(data: bytes, at: int, kind: int) -> tuple[object, int]:
    """Read a value of a serial type; return it and where the next one begins."""
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    size = _INTEGERS.get(kind) or (8 if kind == 7 else (kind - 12) // 2)
    part = data[at : at + size]
    if kind in (10, 11) or len(part) != size:
        raise ValueError("no such type, or cut off")
    if kind in _INTEGERS:
        return int.from_bytes(part, "big", signed=True), at + size
    if kind == 7:
        return struct.unpack(">d", part)[0], at + size
    return (part.decode() if kind % 2 else part), at + size
