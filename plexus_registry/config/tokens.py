# SPDX-License-Identifier: AGPL-3.0-only
"""The file of access tokens: one ``NAME:HASH`` a line, the SHA-256 of a token in hexadecimal.

The tokens themselves are nowhere: each is shown once, when it is made.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from plexus_registry.access import digest_of
from plexus_registry.config import files
from plexus_registry.errors import ConfigError, Fault, InvalidValue, NotWritten

TOKENS_MAX = 1024
"""All of them are compared with each token that a client gives."""
FILE_MODE = 0o640
_FORBIDDEN_MODE = 0o027
"""Whoever can write the file can let himself in; whoever can read it knows who may."""

_PREFIX = "plexus_"
"""By which a token that was published by mistake is recognized."""
_RANDOM_BYTES = 32
_ACCEPTED_NAME = "1 to 64 of the characters A-Z a-z 0-9 . _ -, the first one a letter or digit"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_HASH = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)

_HEAD = """\
# Tokens of the Plexus registry, NAME:SHA256 of each; `plexus-registryctl token new` adds one.
# The registry follows this file: a line that is removed is a token that is taken back.
"""


def read(path: Path) -> dict[str, bytes]:
    """Read the tokens, none if there is no file.

    Returns:
        The digest of each by its name.

    Raises:
        ConfigError: With every fault of the file; also if others may read or write it, or if it
            is a symbolic link to nothing.
    """
    content = files.read(path, forbidden_mode=_FORBIDDEN_MODE)
    if content is not None:
        return parse(path, content)
    fault = files.dangling(path)
    if fault is not None:
        raise ConfigError([fault])
    return {}


def parse(path: Path, content: bytes) -> dict[str, bytes]:
    """Read the lines of the file; *path* is for the faults, which never show what a line holds.

    Raises:
        ConfigError: With every fault.
    """
    found, faults = _parse(path, _text_of(content))
    if faults:
        raise ConfigError(faults)
    return found


def _text_of(content: bytes) -> str:
    return content.decode(errors="surrogateescape")


def _parse(path: Path, text: str) -> tuple[dict[str, bytes], list[Fault]]:
    found: dict[str, bytes] = {}
    faults = []
    for number, line in _entries(text):
        name, _, digest = line.partition(":")
        if not _NAME.fullmatch(name) or not _HASH.fullmatch(digest):
            expected = "NAME:SHA256 with 64 hexadecimal digits, or a comment that begins with #"
            faults.append(Fault(str(path), number, f"this is no token, expected {expected}"))
        elif name in found:
            faults.append(Fault(str(path), number, f"{name} is here twice, expected other names"))
        else:
            found[name] = bytes.fromhex(digest)
    if len(found) > TOKENS_MAX:
        message = f"has {len(found)} tokens, expected {TOKENS_MAX} at the most"
        faults.append(Fault(str(path), 0, message))
    return found, faults


def add(path: Path, name: str = "", *, group: int = -1) -> tuple[str, str]:
    """Make a token and add it to the file, which is made if need be, and so is its folder.

    Args:
        path: The file.
        name: Of the token; one that is free unless given.
        group: Whose file it is to be, if it is new.

    Returns:
        The name, and the token itself.

    Raises:
        InvalidValue: If the name is taken or not accepted.
        ConfigError: If the file has faults.
        NotWritten: If it cannot be written.
    """
    token = f"{_PREFIX}{secrets.token_urlsafe(_RANDOM_BYTES)}"

    def changed(content: bytes) -> str:
        nonlocal name
        known, text = parse(path, content), _text_of(content)
        name = name or next(
            free for n in range(1, TOKENS_MAX + 2) if (free := f"t{n}") not in known
        )
        if not _NAME.fullmatch(name):
            raise InvalidValue("name", name, _ACCEPTED_NAME)
        if name in known:
            raise InvalidValue("name", name, f"a name that is not in {path} yet")
        if len(known) >= TOKENS_MAX:
            raise InvalidValue("name", name, f"no more than {TOKENS_MAX} tokens in {path}")
        end = "" if not text or text.endswith("\n") else "\n"
        return f"{text or _HEAD}{end}{name}:{digest_of(token).hex()}\n"

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotWritten(path, error.strerror) from error
    _change(path, changed, group=group, forbidden_mode=_FORBIDDEN_MODE)
    return name, token


def revoke(path: Path, name: str) -> list[Fault]:
    """Take a token out of the file: every line with its name, whatever else is wrong with it.

    Returns:
        The faults that the file still has. The registry takes nothing from it until they are
        mended, this change included.

    Raises:
        InvalidValue: If there is none of that name.
        ConfigError: If the file cannot be read.
        NotWritten: If it cannot be written.
    """

    def changed(content: bytes) -> str:
        text = _text_of(content)
        gone = {number for number, line in _entries(text) if line.startswith(f"{name}:")}
        if not gone or not name:
            raise _unknown(path, name, _parse(path, text)[0])
        lines = text.splitlines(keepends=True)
        return "".join(line for number, line in enumerate(lines, 1) if number not in gone)

    if not path.parent.is_dir():
        raise _unknown(path, name, ())
    _change(path, changed)
    try:
        read(path)
    except ConfigError as error:
        return error.faults
    return []


def _unknown(path: Path, name: str, held: Iterable[str]) -> InvalidValue:
    there_is = ", ".join(held) or "there is none"
    return InvalidValue("name", name, f"the name of a token in {path}: {there_is}")


def _entries(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield number, stripped


def _change(
    path: Path,
    changed: Callable[[bytes], str],
    *,
    group: int = -1,
    forbidden_mode: int = 0,
) -> None:
    """Replace the file by what *changed* makes of its content, one change at a time."""
    try:
        with _locked(path.parent):
            text = changed(files.read(path, forbidden_mode=forbidden_mode) or b"")
            files.replace(path, text, mode=FILE_MODE, group=group)
    except OSError as error:
        raise NotWritten(path, error.strerror) from error


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
