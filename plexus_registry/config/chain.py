# SPDX-License-Identifier: AGPL-3.0-only
"""Which directories have to be watched for the declared files, and how the files look from outside.

A change reaches a file in many ways: by a write, by a rename over it, by a symbolic link or a
directory on its path that comes to lead elsewhere, or by a directory that appears. So the path is
walked as the kernel walks it, and each directory is watched whose change could lead the path to
another file. Mounts are the exception: inotify(7) does not tell of them.
"""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from plexus_registry.config import declared

MAX_LINKS = 40
"""So many symbolic links the kernel follows on one path (path_resolution(7))."""


class Interest(enum.IntEnum):
    """What has to be known about a directory; the higher includes the lower."""

    ITSELF = 1
    """That it is moved or deleted: it lies on the path."""
    NAMES = 2
    """That names appear or vanish in it: it holds a link, or lacks a directory."""
    CONTENTS = 3
    """That files in it are written: it holds declared files."""


class Look(NamedTuple):
    """What stat(2) says about one file; zeros and the error number if it says nothing."""

    name: str
    errno: int = 0
    device: int = 0
    inode: int = 0
    size_bytes: int = 0
    modified_at_ns: int = 0
    changed_at_ns: int = 0


Signature = tuple[Look, ...]
"""The declared files from outside.

It changes with every write, rename and re-linking of a declared file, and with nothing else, so a
database that is busy in the same directory costs a few calls of stat() and no reading. See
`is_settled` for the one exception.
"""

_TICK_NS = 50_000_000
"""More than the time of one kernel tick, in which two writes may get the same time stamp."""

_COARSE_TICK_NS = 2_000_000_000
"""The same for a file system that keeps no fractions of a second."""


def directories(path: Path, also: Iterable[Path] = ()) -> dict[str, Interest]:
    """Find the directories to watch for the main file *path*, its drop-ins and other files.

    Returns:
        Their paths without symbolic links, each with what has to be known about it.
    """
    found: dict[str, Interest] = {}
    for file in (path, *also):
        _walk(file, found)
    _walk(declared.drop_in_directory(path), found)
    for drop_in in _drop_ins(path):
        if drop_in.is_symlink():
            _walk(drop_in, found)
    return found


def signature(path: Path, also: Iterable[Path] = ()) -> Signature:
    """Look at the main file *path*, its drop-ins and other files from outside."""
    return tuple(_look(file) for file in [path, *also, *_drop_ins(path)])


def is_settled(files: Signature, *, now_ns: int) -> bool:
    """Tell whether a write after *now_ns* is certain to change the signature *files*.

    A file that was changed a moment ago can be changed again with the same size and time stamp.
    """
    return all(abs(now_ns - look.changed_at_ns) > _tick_ns(look.changed_at_ns) for look in files)


def _tick_ns(time_ns: int) -> int:
    return _TICK_NS if time_ns % 1_000_000_000 else _COARSE_TICK_NS


def _drop_ins(path: Path) -> Iterable[Path]:
    try:
        return declared.drop_ins(path)
    except OSError:
        return []


def _look(file: Path) -> Look:
    try:
        found = os.stat(file)
    except OSError as error:
        return Look(file.name, errno=error.errno or 0)
    return Look(
        file.name,
        device=found.st_dev,
        inode=found.st_ino,
        size_bytes=found.st_size,
        modified_at_ns=found.st_mtime_ns,
        changed_at_ns=found.st_ctime_ns,
    )


def _walk(path: Path, found: dict[str, Interest]) -> None:
    """Walk *path* component by component and note the directories on the way."""
    here = "/"
    links = 0
    rest = os.fspath(path.absolute()).split("/")[::-1]
    while rest:
        component = rest.pop()
        if component in ("", "."):
            continue
        if component == "..":
            _note(found, here, Interest.ITSELF)
            here = os.path.dirname(here)
            continue
        entry = os.path.join(here, component)
        try:
            mode = os.lstat(entry).st_mode
            target = os.readlink(entry) if stat.S_ISLNK(mode) else ""
        except OSError:  # not there, or not to be seen: the last directory that is there tells
            _note(found, here, Interest.NAMES if rest else Interest.CONTENTS)
            return
        if target:
            _note(found, here, Interest.NAMES)
            links += 1
            if links > MAX_LINKS:
                return
            here = "/" if target.startswith("/") else here
            rest += target.split("/")[::-1]
        elif stat.S_ISDIR(mode):
            _note(found, here, Interest.ITSELF)
            here = entry
            if not rest:
                _note(found, here, Interest.CONTENTS)
        else:
            # Whoever writes to /dev/null, where a drop-in may be linked to, is of no interest.
            is_file = stat.S_ISREG(mode)
            _note(found, here, Interest.CONTENTS if is_file else Interest.NAMES)
            return


def _note(found: dict[str, Interest], directory: str, interest: Interest) -> None:
    found[directory] = max(interest, found.get(directory, interest))
