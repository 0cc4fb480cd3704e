# SPDX-License-Identifier: AGPL-3.0-only
"""Backends declared in files: ``backends.toml`` and its drop-ins ``backends.d/*.toml``.

Reading has two steps, so that whoever is told that something may have changed can compare digests
before parsing: `take` reads the bytes of all files, `parse` makes declarations of them, all or
nothing. Both may block on a slow disk and belong in a thread where that matters.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from plexus_registry.backend import (
    DECLARED_FIELDS,
    DEFAULT_LIMITS,
    GREATEST_LIMITS,
    Backend,
    Declaration,
    FieldFault,
    TextLimits,
    check_declaration,
)
from plexus_registry.config import files
from plexus_registry.errors import ConfigError, Fault, quote

ARRAY = "backend"
"""Name of the array of tables."""

DROP_IN_SUFFIX = ".toml"

_EXAMPLE = {
    "name": "example",
    "host": "127.0.0.1",
    "port": 4446,
    "protocol": "ws",
    "description": "An example backend",
    "namespace": "example",
}

_EXAMPLE_HEAD = """\
# Backends that the Plexus registry knows from the start and follows in this file: what is added,
# changed or removed here is added, changed or removed there, as soon as the file is saved. A file
# with a fault changes nothing, and the log names the fault and its line.
#
# Each backend is one [[backend]] table. name, host and port are required:
#
#   name         1 to 128 printable characters without white space and '/', once in all files
#   host         a DNS name, an IPv4 address or an IPv6 address
#   port         1 to 65535
#   protocol     "ws" (default) or "wss"
#   description  text of at most 1024 characters, unless max_description_size says otherwise
#   namespace    text of at most 256 characters
#   version      of the backend: text of at most 128 characters
#   metadata     text, such as JSON, of at most 16384 characters, unless max_metadata_size says
#                otherwise
#
# Files backends.d/*.toml beside this one are read after it, in the order of their names.
#
# A line that begins with '#' and no space is an example: remove the '#' to use it.

"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The declared files as they were at one moment, not yet parsed.

    Attributes:
        files: Each file's path and content in the order of reading, or why it has none.
        digest: SHA-256 over paths and contents, hexadecimal: two snapshots with the same digest
            declare the same.
    """

    files: tuple[tuple[Path, bytes | Fault], ...]
    digest: str

    @property
    def is_absent(self) -> bool:
        """Tell whether there is neither the main file nor a drop-in, not even an empty one."""
        return not self.files


@dataclass(frozen=True, slots=True)
class Declared:
    """What the files declare.

    Attributes:
        backends: The declarations by name, in the order of the files.
        places: By name, the file that declares it.
        files: The files that were read, in that order; none if there is nothing at all.
        digest: See `Snapshot`.
    """

    backends: dict[str, Declaration]
    places: dict[str, Path]
    files: tuple[Path, ...]
    digest: str

    @property
    def is_absent(self) -> bool:
        """Tell whether there is neither the main file nor a drop-in, not even an empty one."""
        return not self.files


def drop_in_directory(path: Path) -> Path:
    """Return the directory of the drop-ins: ``backends.d`` beside ``backends.toml``."""
    return path.with_name(f"{path.stem}.d")


def drop_ins(path: Path) -> list[Path]:
    """List the drop-ins of the main file *path* in name order, hidden files left out.

    Raises:
        OSError: If the directory is there and cannot be listed.
    """
    directory = drop_in_directory(path)
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return [
        directory / name
        for name in sorted(names)
        if name.endswith(DROP_IN_SUFFIX) and not name.startswith(".")
    ]


def read_declared(path: Path, limits: TextLimits = DEFAULT_LIMITS) -> Declared:
    """Read and parse the main file *path* and its drop-ins. For *limits* see `parse`.

    Raises:
        ConfigError: With every fault of every file.
    """
    return parse(take(path), limits)


def read_one(path: Path) -> dict[str, Declaration]:
    """Read and parse the one file *path*, without drop-ins; the declarations by name.

    How long texts may be is left to whoever takes them.

    Raises:
        ConfigError: With every fault of the file; also if there is none.
    """
    content = files.read(path)
    if content is None:
        raise ConfigError([Fault(str(path), 0, "there is no such file")])
    return _parse_one(path, content)


def read_standard_input() -> dict[str, Declaration]:
    """Read and parse what comes on standard input, as `read_one` does.

    Raises:
        ConfigError: With every fault.
    """
    return _parse_one(files.STANDARD_INPUT, files.read_standard_input())


def _parse_one(path: Path, content: bytes) -> dict[str, Declaration]:
    return parse(Snapshot(((path, content),), ""), GREATEST_LIMITS).backends


def take(path: Path) -> Snapshot:
    """Read the main file *path* and its drop-ins.

    A file that is not there is left out. A symbolic link to nothing is a fault.
    """
    taken: list[tuple[Path, bytes | Fault]] = []
    listed = [path]
    try:
        listed += drop_ins(path)
    except OSError as error:
        directory = drop_in_directory(path)
        fault = Fault(str(directory), 0, f"cannot be listed: {error.strerror}")
        taken.append((directory, fault))
    for file in listed:
        try:
            content = files.read(file)
        except ConfigError as error:
            taken += [(file, fault) for fault in error.faults]
            continue
        if content is not None:
            taken.append((file, content))
        elif fault_of_link := files.dangling(file):
            taken.append((file, fault_of_link))
    return Snapshot(tuple(taken), _digest(taken))


def _digest(taken: Iterable[tuple[Path, bytes | Fault]]) -> str:
    digest = hashlib.sha256()
    for path, content in taken:
        known = content if isinstance(content, bytes) else str(content).encode(errors="replace")
        for part in (os.fsencode(path), type(content).__name__.encode(), known):
            digest.update(b"%d:" % len(part))
            digest.update(part)
    return digest.hexdigest()


def parse(snapshot: Snapshot, limits: TextLimits = DEFAULT_LIMITS) -> Declared:
    """Make declarations of what was read, all or nothing.

    Args:
        snapshot: What was read.
        limits: How long texts may be.

    Raises:
        ConfigError: With every fault of every file, each with its line.
    """
    reader = _Reader(limits)
    for path, content in snapshot.files:
        if isinstance(content, Fault):
            reader.faults.append(content)
            continue
        try:
            document = files.parse(path, content, array=ARRAY)
        except ConfigError as error:
            reader.faults += error.faults
        else:
            reader.add(document)
    if reader.faults:
        raise ConfigError(reader.faults)
    paths = tuple(path for path, content in snapshot.files)
    return Declared(reader.backends, reader.places, paths, snapshot.digest)


class _Reader:
    """Gathers the declarations and faults of several documents."""

    def __init__(self, limits: TextLimits) -> None:
        self.backends: dict[str, Declaration] = {}
        self._limits = limits
        self.faults: list[Fault] = []
        self._tables: dict[str, tuple[files.Document, int]] = {}

    @property
    def places(self) -> dict[str, Path]:
        return {name: document.path for name, (document, _) in self._tables.items()}

    def add(self, document: files.Document) -> None:
        faults = self._check_keys(document)
        tables = document.tables.get(ARRAY, [])
        for index, table in enumerate(tables if isinstance(tables, list) else []):
            found = self._add_table(document, index, table)
            if found:
                lines = document.layout.table(index)
                faults += [(lines.line_of(field), message) for field, message in found]
        self.faults += [
            Fault(str(document.path), line, message) for line, message in sorted(faults)
        ]

    def _check_keys(self, document: files.Document) -> list[tuple[int, str]]:
        """Return lines and messages of what is wrong at the top level."""
        faults = [
            (document.layout.line_of(key), files.unknown_key(key, [ARRAY]))
            for key in document.tables
            if key != ARRAY
        ]
        tables = document.tables.get(ARRAY, [])
        if not isinstance(tables, list):
            message = f"{ARRAY}: {quote(tables)} is not accepted, expected [[{ARRAY}]] tables"
            faults.append((document.layout.line_of(ARRAY), message))
        return faults

    def _add_table(self, document: files.Document, index: int, table: object) -> list[FieldFault]:
        if not isinstance(table, dict):
            return [FieldFault("", f"{ARRAY}: {quote(table)} is not accepted, expected a table")]
        declaration, faults = check_declaration(table, self._limits)
        if declaration is None:
            return faults
        name = declaration.name
        if name not in self._tables:
            self._tables[name] = (document, index)
            self.backends[name] = declaration
            return []
        first, number = self._tables[name]
        line = first.layout.table(number).line_of("name")
        message = f"name: {quote(name)} is declared twice, first at {first.path}:{line}"
        return [FieldFault("name", message)]


def dumps(backends: Iterable[Backend | Declaration]) -> str:
    """Write *backends* as the text of a ``backends.toml`` that declares the same."""
    return "\n".join(_table(backend) for backend in backends)


def _table(backend: Backend | Declaration) -> str:
    fields = {key: getattr(backend, key) for key in DECLARED_FIELDS}
    given = {key: value for key, value in fields.items() if value is not None}
    # Given the whole array, tomli-w writes short tables in the inline form: backend = [{...}]
    return f"[[{ARRAY}]]\n{tomli_w.dumps(given)}"


def example() -> str:
    """Return a commented start file: it declares nothing until its example is un-commented."""
    table = f"[[{ARRAY}]]\n{tomli_w.dumps(_EXAMPLE)}"
    return _EXAMPLE_HEAD + "".join(f"#{line}\n" for line in table.splitlines())
