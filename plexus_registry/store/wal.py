# SPDX-License-Identifier: AGPL-3.0-only
"""What a write-ahead log holds, read without SQLite: which pages, and whether it is whole.

SQLite takes a log up to the first frame whose checksum is wrong, for that is where a power cut
ends it, and says nothing about what follows. It is right to: a commit is flushed before the next
one begins, so at most the last one can be torn. More than one commit behind a wrong checksum is
damage, and was acknowledged. So is a header that is wrong: it is flushed before the first frame.
Format: sqlite.org/fileformat2.html, section 4.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HEADER = 32
FRAME_HEADER = 24
_PAGE_SIZE = 4096
_MAGICS = {0x377F0682: "<", 0x377F0683: ">"}  # the byte order of the checksums
_HOST_ORDER = "<" if sys.byteorder == "little" else ">"
_32_BITS = 0xFFFFFFFF
_ROUNDS = 1 << 16


@dataclass(frozen=True, slots=True)
class Log:
    """A write-ahead log.

    Attributes:
        page_size: 0 if its header cannot be read.
        pages: The latest version of each page, those behind a damaged frame included.
        fault: Why acknowledged changes may be missing; empty if none are.
    """

    page_size: int
    pages: dict[int, bytes]
    fault: str = ""


@dataclass(frozen=True, slots=True)
class _Frame:
    """A page in a log, and what stands before it."""

    header: bytes
    page: bytes
    before: bytes
    order: str

    @property
    def salts(self) -> bytes:
        """Which round it is of: SQLite begins a log anew once all of it is merged."""
        return self.header[8:16]

    @property
    def number(self) -> int:
        """The page's number."""
        return int.from_bytes(self.header[:4], "big")

    @property
    def is_commit(self) -> bool:
        """Whether a commit ends here."""
        return any(self.header[4:8])

    @property
    def is_whole(self) -> bool:
        """Whether its checksum is right, on top of the one before it."""
        seed = struct.unpack(">II", self.before)
        found = _sum(self.header[:8] + self.page, seed, self.order)
        return found == self.header[16:] and self.number > 0  # zeros have a right one


def read_log(path: Path) -> Log:
    """Read the log of the database *path*; a missing one is empty."""
    content = _content(path)
    if not content.strip(b"\0"):  # a power cut before the first flush leaves zeros
        return Log(0, {})
    order = _order(content[:HEADER])
    if order:
        page_size = _page_size(content)
        pages, commits_behind = _collect(_frames(content, order, page_size), content[16:24])
        damaged = "its write-ahead log is damaged in the middle"
        return Log(page_size, pages, damaged if commits_behind > 1 else "")
    # What this machine would have written. The first frame that is whole tells the round.
    pages, _ = _collect(_frames(content, _HOST_ORDER, _PAGE_SIZE), b"")
    return Log(0, pages, "the header of its write-ahead log is damaged")


def has_commit(path: Path) -> bool:
    """Tell whether the log of the database *path* holds a commit, or is being begun anew.

    What was in it is in the database then. A power cut may leave its new header with the frames of
    the round before.
    """
    content = _content(path)
    order = _order(content[:HEADER])
    if not order:
        return False
    is_whole = True
    for frame in _frames(content, order, _page_size(content)):
        if frame.salts != content[16:24]:
            # SQLite counts the rounds in the first salt.
            rounds = int.from_bytes(content[16:20], "big") - int.from_bytes(frame.salts[:4], "big")
            return 0 < rounds & _32_BITS < _ROUNDS
        is_whole = is_whole and frame.is_whole
        if frame.is_commit and is_whole:
            return True
    return False


def _content(path: Path) -> bytes:
    # Unlike the database, it can be opened and closed while it is in use: SQLite does not lock it.
    try:
        return path.with_name(f"{path.name}-wal").read_bytes()
    except FileNotFoundError:
        return b""


def _order(header: bytes) -> str:
    """Return the byte order of the checksums; nothing if the header is wrong."""
    order = _MAGICS.get(int.from_bytes(header[:4], "big"), "")
    is_sound = len(header) == HEADER and order and _sum(header[:24], (0, 0), order) == header[24:]
    return order if is_sound else ""


def _page_size(content: bytes) -> int:
    return int.from_bytes(content[8:12], "big")


def _frames(content: bytes, order: str, page_size: int) -> Iterator[_Frame]:
    """Look at each frame that is there in its full length."""
    before = content[24:HEADER]
    step = FRAME_HEADER + page_size
    for start in range(HEADER, len(content) - step + 1, step):
        header, page = content[start : start + FRAME_HEADER], content[start + 24 : start + step]
        yield _Frame(header, page, before, order)
        before = header[16:]


def _collect(frames: Iterator[_Frame], salts: bytes) -> tuple[dict[int, bytes], int]:
    """Return the pages of a round, and how many commits end behind a wrong checksum.

    Args:
        frames: All there are.
        salts: Of the round; empty if they are those of the first frame that is whole.
    """
    pages: dict[int, bytes] = {}
    transaction: dict[int, bytes] = {}
    has_gap, commits_behind = False, 0
    for frame in frames:
        # What has other salts is left of an earlier round, or damaged.
        if frame.salts == (salts or frame.salts) and frame.is_whole:
            salts = frame.salts
            transaction[frame.number] = frame.page
        else:
            has_gap = True
            transaction.clear()
        if frame.is_commit and frame.salts == salts:
            commits_behind += has_gap
            pages.update(transaction)
            transaction.clear()
    return pages, commits_behind


def _sum(data: bytes, seed: tuple[int, ...], order: str) -> bytes:
    """Return the checksum of *data* on top of *seed*, as it is stored."""
    first, second = seed
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & _32_BITS
        second = (second + odd + first) & _32_BITS
    return struct.pack(">II", first, second)
