# SPDX-License-Identifier: AGPL-3.0-only
"""What a write-ahead log holds, read without SQLite: which pages, and whether it is whole.

SQLite takes a log up to the first frame whose checksum is wrong, for that is where a power cut
ends it, and says nothing about what follows. It is right to: a commit is flushed before the next
one begins, so at most the last one can be torn. More than one commit behind a wrong checksum is
damage, and was acknowledged. Format: sqlite.org/fileformat2.html, section 4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

HEADER = 32
FRAME_HEADER = 24
_MAGICS = {0x377F0682: "<", 0x377F0683: ">"}  # the byte order of the checksums
_32_BITS = 0xFFFFFFFF


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


def read_log(path: Path) -> Log:
    """Read the log of the database *path*; a missing one is empty."""
    try:
        content = path.with_name(f"{path.name}-wal").read_bytes()
    except FileNotFoundError:
        content = b""
    header = content[:HEADER]
    if not header.strip(b"\0"):  # a power cut before the first flush leaves zeros
        return Log(0, {})
    order = _MAGICS.get(int.from_bytes(header[:4], "big"), "")
    if len(header) < HEADER or not order or _sum(header[:24], (0, 0), order) != header[24:]:
        return Log(0, {}, "the header of its write-ahead log is damaged")
    return _read_frames(content, order)


def _read_frames(content: bytes, order: str) -> Log:
    page_size: int
    (page_size,) = struct.unpack(">I", content[8:12])
    salts, before = content[16:24], content[24:32]
    pages: dict[int, bytes] = {}
    transaction: dict[int, bytes] = {}
    is_whole, commits_behind = True, 0
    step = FRAME_HEADER + page_size
    for start in range(HEADER, len(content) - step + 1, step):
        header, page = content[start : start + FRAME_HEADER], content[start + 24 : start + step]
        seed = struct.unpack(">II", before)
        before = header[16:]
        if header[8:16] != salts:  # left of an earlier round, or damaged
            is_whole = False
            transaction.clear()
            continue
        number, size_after_commit = struct.unpack(">II", header[:8])
        if _sum(header[:8] + page, seed, order) == before:
            transaction[number] = page
        else:
            is_whole = False
            transaction.clear()
        if size_after_commit:
            commits_behind += not is_whole
            pages.update(transaction)
            transaction.clear()
    damaged = "its write-ahead log is damaged in the middle"
    return Log(page_size, pages, damaged if commits_behind > 1 else "")


def _sum(data: bytes, seed: tuple[int, ...], order: str) -> bytes:
    """Return the checksum of *data* on top of *seed*, as it is stored."""
    first, second = seed
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & _32_BITS
        second = (second + odd + first) & _32_BITS
    return struct.pack(">II", first, second)
