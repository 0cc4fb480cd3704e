# SPDX-License-Identifier: AGPL-3.0-only
"""What is in an unpacked package, compared with what ought to be: the list, the wheel, no more."""

from __future__ import annotations

import gzip
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from contents import Contents, File
from system.packages import ROOT

PROGRAMS = ("/usr/bin/plexus-registry", "/usr/bin/plexus-registryctl")
INTERPRETERS = (b"#!/usr/bin/python3\n", b"#! /usr/bin/python3\n", b"#!/usr/bin/python\n")
NOTES = {"arch": {"/.BUILDINFO", "/.MTREE", "/.PKGINFO"}}
"""What a format keeps beside what it installs."""

_COMPRESSED = ("/usr/share/doc/", "/usr/share/man/")
_RECORD = "/RECORD"


@dataclass(frozen=True)
class Entry:
    """What is at a path.

    Attributes:
        mode: As ``ls`` shows it.
        owner: User and group.
        content: Of a file, uncompressed, or of a link; None of a folder, or if any is right.
    """

    mode: str
    owner: tuple[int, int] = (0, 0)
    content: bytes | None = None


def entries(root: Path) -> dict[str, Entry]:
    """Return what is in an unpacked package; documentation under its name before compression."""
    return dict(_entry(path, f"/{path.relative_to(root)}") for path in root.rglob("*"))


def _entry(path: Path, inside: str) -> tuple[str, Entry]:
    found = path.lstat()
    is_compressed = inside.startswith(_COMPRESSED) and inside.endswith(".gz")
    content = None
    if path.is_symlink():
        to = str(path.readlink())
        content = (to.removesuffix(".gz") if is_compressed else to).encode()
    elif path.is_file():
        data = path.read_bytes()
        content = gzip.decompress(data) if is_compressed else data
    name = inside.removesuffix(".gz") if is_compressed else inside
    return name, Entry(stat.filemode(found.st_mode), (found.st_uid, found.st_gid), content)


def differences(root: Path, format: str, listed: Contents, wheel: Path) -> Iterator[str]:
    """Tell what an unpacked package has too much, too little, or otherwise than it should.

    Args:
        root: Where it was unpacked, by root.
        format: Its name.
        listed: What a package of this format holds.
        wheel: What it has Python's package and the programs from.
    """
    found = entries(root)
    expected = dict(_expected(root, listed, wheel))
    folders = {str(parent) for path in expected for parent in Path(path).parents} - {"/"}
    folders |= set(listed.folders)
    allowed = {
        path.removesuffix(".gz")
        for pattern in listed.also
        for spelling in (pattern, f"{pattern}.gz")
        for each in root.glob(spelling.lstrip("/"))
        for path in (f"/{each.relative_to(root)}",)
    }
    folders |= {str(parent) for path in allowed for parent in Path(path).parents} - {"/"}
    allowed |= NOTES.get(format, set())
    for pattern in listed.also:
        if not any(root.glob(f"{pattern}{end}".lstrip("/")) for end in ("", ".gz")):
            yield f"{pattern} is missing"
    for path in sorted(expected.keys() | folders | found.keys()):
        entry = found.get(path)
        if entry is None:
            yield f"{path} is missing"
        elif path in folders:
            if (entry.mode, entry.owner) != ("drwxr-xr-x", (0, 0)):
                yield f"{path} is {entry.mode} of {entry.owner}"
        elif path in expected:
            wanted = expected[path]
            if (entry.mode, entry.owner) != (wanted.mode, wanted.owner):
                yield f"{path} is {entry.mode} of {entry.owner}"
            if wanted.content is not None and entry.content != wanted.content:
                yield f"{path} has another content"
        elif path not in allowed:
            yield f"{path} is too much"
        elif (entry.mode, entry.owner) != ("-rw-r--r--", (0, 0)):
            yield f"{path} is {entry.mode} of {entry.owner}"


def _expected(root: Path, listed: Contents, wheel: Path) -> Iterator[tuple[str, Entry]]:
    (site_packages,) = root.glob(listed.site_packages.lstrip("/"))
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if any(fnmatch(name, pattern) for pattern in listed.without):
                continue
            content = None if name.endswith(_RECORD) else archive.read(name)
            path = f"/{site_packages.relative_to(root)}/{name}"
            yield path, Entry("-rw-r--r--", content=content)
    for program in PROGRAMS:
        yield program, Entry("-rwxr-xr-x")
    for file in listed.files:
        yield file.to, Entry(stat.filemode(stat.S_IFREG | file.mode), content=_content_of(file))
    for link, to in listed.links.items():
        yield link, Entry("lrwxrwxrwx", content=to.encode())


def _content_of(file: File) -> bytes | None:
    """Return what a file must say; what is made on the way, all formats must have the same of."""
    if file.source is None or file.is_page:
        return None
    return (ROOT / file.source).read_bytes()
