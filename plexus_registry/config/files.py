# SPDX-License-Identifier: AGPL-3.0-only
"""TOML files, read with one clear fault for each thing that can be wrong, and written once."""

from __future__ import annotations

import codecs
import difflib
import errno
import os
import re
import stat
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from plexus_registry.config import lines
from plexus_registry.errors import ConfigError, Fault, quote

MAX_SIZE_BYTES = 16 * 1024 * 1024
FILE_MODE = 0o644
STANDARD_INPUT = Path("standard input")
"""Stands in faults where a file's path would."""

_FAULT_MAX_CHARACTERS = 200
_RIGHTS = (("write", 0o020, 0o002), ("read", 0o040, 0o004), ("run", 0o010, 0o001))
"""The worst first: what it lets a group and everybody do."""
_AT = re.compile(
    r"(?P<what>.*) \(at (?:line (?P<line>[0-9]+), column [0-9]+|end of document)\)", re.DOTALL
)


@dataclass(frozen=True)
class Document:
    """One TOML file, parsed.

    Attributes:
        path: Where it was read.
        text: Its text.
        tables: What it holds.
        array: Name of its array of tables whose lines may be asked for.
    """

    path: Path
    text: str
    tables: dict[str, Any]
    array: str

    @cached_property
    def layout(self) -> lines.Layout:
        """The lines of its keys and tables, found when first asked for."""
        return lines.scan(self.text, self.array)


def read(path: Path, *, forbidden_mode: int = 0, unwanted_mode: int = 0) -> bytes | None:
    """Read the file at *path*, None if there is none (a dangling symbolic link is none).

    ``/dev/null`` is an empty file, so that a link to it masks a file as it does for units.

    Args:
        path: The file.
        forbidden_mode: Permissions that the file must not have.
        unwanted_mode: Those that it may have, and that are not advised where it is refused.

    Raises:
        ConfigError: If it cannot be read, is no file, is open to whom it must not be, or is larger
            than 16 MiB.
    """
    try:
        # Without O_NONBLOCK the open of a FIFO waits for its writer, for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _fault(path, f"cannot be read: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise _fault(path, "is a directory, expected a file")
        is_file = stat.S_ISREG(found.st_mode)
        if not is_file and not os.path.samestat(found, os.stat(os.devnull)):
            raise _fault(path, "is a device, pipe or socket, expected a file")
        if is_file and found.st_mode & forbidden_mode:
            mode = stat.S_IMODE(found.st_mode)
            right = f"{mode & ~(forbidden_mode | unwanted_mode):04o}"
            message = f"has the mode {mode:04o}, so {_openness(mode & forbidden_mode)}"
            raise _fault(path, f"{message}, expected {right}: chmod {right} {path}")
        return _read_all(path, descriptor)
    except OSError as error:
        raise _fault(path, f"cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def read_standard_input() -> bytes:
    """Read standard input to its end.

    Raises:
        ConfigError: If it cannot be read, or is larger than 16 MiB.
    """
    try:
        return _read_all(STANDARD_INPUT, 0)
    except OSError as error:
        raise _fault(STANDARD_INPUT, f"cannot be read: {error.strerror}") from error


def _openness(mode: int) -> str:
    """Say the worst that permissions allow."""
    verb, others = next(
        (verb, mode & everybody) for verb, group, everybody in _RIGHTS if mode & (group | everybody)
    )
    return f"{'every user' if others else 'its group'} can {verb} it"


def dangling(path: Path) -> Fault | None:
    """Return the fault of a symbolic link that leads to nothing; None if it is none, or gone.

    Whoever made it meant a file, which may be there for everyone but the daemon.
    """
    try:
        target = os.readlink(path)
    except OSError:
        return None
    return Fault(str(path), 0, f"is a symbolic link to {target}, where the daemon sees no file")


def _read_all(path: Path, descriptor: int) -> bytes:
    content = bytearray()
    while block := os.read(descriptor, 1024 * 1024):
        content += block
        if len(content) > MAX_SIZE_BYTES:
            raise _fault(path, f"is larger than {MAX_SIZE_BYTES // 1024 // 1024} MiB")
    return bytes(content)


def parse(path: Path, content: bytes, *, array: str = "") -> Document:
    """Parse *content* as TOML; a byte order mark at its start is passed over.

    Args:
        path: Where the content is from.
        content: All of the file.
        array: Name of the array of tables whose lines the layout shall tell.

    Raises:
        ConfigError: If it is not UTF-8 or not TOML, with the line.
    """
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"byte 0x{content[error.start]:02x} is not UTF-8, expected TOML in UTF-8"
        raise _fault(path, message, line) from None
    try:
        return Document(path, text, tomllib.loads(text), array)
    except ValueError as error:  # TOMLDecodeError is one; int() of thousands of digits another
        what, line = _locate(str(error), text)
        raise _fault(path, f"not TOML: {what}", line) from None
    except RecursionError:
        raise _fault(path, "not TOML: nested too deeply") from None


def _locate(message: str, text: str) -> tuple[str, int]:
    match = _AT.fullmatch(message)
    if match is None:
        return message[:_FAULT_MAX_CHARACTERS], 0
    line = int(match["line"]) if match["line"] else text.count("\n") + 1
    return match["what"][:_FAULT_MAX_CHARACTERS], line


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Say that *key* is not known, which one may be meant, and which ones there are."""
    accepted = list(known)
    meant = difflib.get_close_matches(key, accepted, n=1)
    hint = f", did you mean {meant[0]}?" if meant else ""
    return f"unknown key {quote(key)}{hint or ','} expected one of: {', '.join(accepted)}"


def write_new(path: Path, text: str) -> None:
    """Write a file that must not exist yet, whole or not at all, with mode 0644.

    Directories that are missing on the way are created.

    Raises:
        ConfigError: If the file exists or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = _make_temporary(path)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
                os.fchmod(descriptor, FILE_MODE)
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            _give_name(Path(temporary), path)
        finally:
            os.unlink(temporary)
        _sync_directory(path.parent)
    except FileExistsError as error:
        raise _fault(path, "already exists and is left as it is") from error
    except OSError as error:
        raise _fault(path, f"cannot be written: {error.strerror}") from error


def replace(path: Path, text: str, *, mode: int, group: int = -1) -> None:
    """Write a file, new or in the place of one, whole or not at all.

    Args:
        path: The file. Where it is a symbolic link, the file that it leads to.
        text: What it is to hold; what was no UTF-8 may be in it as surrogates (PEP 383).
        mode: Of a new file. One that is replaced keeps its own, and its owner and group.
        group: Of a new file; -1 for that of the process.

    Raises:
        OSError: If it cannot be written, or what is there is no regular file.
    """
    path = path.resolve()
    try:
        former = os.stat(path)
    except FileNotFoundError:
        owner = -1
    else:
        if not stat.S_ISREG(former.st_mode):  # /dev/null, for one, is not ours to replace
            raise OSError(errno.EINVAL, "is no regular file and is left as it is", str(path))
        owner, group, mode = former.st_uid, former.st_gid, stat.S_IMODE(former.st_mode)
    descriptor, temporary = _make_temporary(path)
    try:
        with os.fdopen(
            descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="\n"
        ) as file:
            os.fchown(descriptor, owner, group)
            os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_directory(path.parent)


def _make_temporary(path: Path) -> tuple[int, str]:
    import tempfile  # late: it brings in much that a daemon that only reads does not need

    return tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")


def _give_name(temporary: Path, path: Path) -> None:
    """Name the file *path* unless that name is taken: rename() would replace, link() does not."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        with open(path, "xb") as file:
            try:
                os.fchmod(file.fileno(), FILE_MODE)
                file.write(temporary.read_bytes())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                path.unlink()
                raise


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fault(path: Path, message: str, line: int = 0) -> ConfigError:
    return ConfigError([Fault(str(path), line, message)])
