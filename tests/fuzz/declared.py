# SPDX-License-Identifier: AGPL-3.0-only
"""Files that declare backends, a main file and its drop-ins; a NUL byte parts them."""

from __future__ import annotations

import tomllib
from itertools import chain
from pathlib import Path

from plexus_registry.backend import Declaration, check_declaration
from plexus_registry.config import declared
from plexus_registry.errors import ConfigError
from support.faults import check_faults

FILES_MAX = 8
FOLDER = Path("/etc/plexus")
UTF8_MARK = b"\xef\xbb\xbf"


def one_input(data: bytes) -> None:
    """Files are accepted if and only if they are sound; what they say, written, says it again."""
    contents = data.split(b"\0", FILES_MAX - 1)
    paths = [FOLDER / f"{number}.toml" for number in range(len(contents))]
    files = dict(zip(paths, contents, strict=True))
    expected = expected_of(contents)
    try:
        found = declared.parse(declared.Snapshot(tuple(files.items()), "digest"))
    except ConfigError as error:
        assert expected is None
        check_faults(error, {str(path): content for path, content in files.items()})
        return
    assert found.backends == expected
    assert list(found.backends) == list(expected)
    assert found.files == tuple(paths)
    for name, path in found.places.items():
        assert name in declared_in(files[path])
    text = declared.dumps(found.backends.values())
    again = declared.parse(declared.Snapshot(((paths[0], text.encode()),), "digest"))
    assert list(again.backends.values()) == list(found.backends.values())


def expected_of(contents: list[bytes]) -> dict[str, Declaration] | None:
    """Say what the files declare, None if they have a fault."""
    try:
        documents = [tomllib.loads(it.removeprefix(UTF8_MARK).decode()) for it in contents]
    except (ValueError, RecursionError):
        return None
    if any(document.keys() - {"backend"} for document in documents):
        return None
    arrays = [document.get("backend", []) for document in documents]
    if not all(isinstance(array, list) for array in arrays):
        return None
    backends: dict[str, Declaration] = {}
    for table in chain.from_iterable(arrays):
        declaration = check_declaration(table)[0] if isinstance(table, dict) else None
        if declaration is None or declaration.name in backends:
            return None
        backends[declaration.name] = declaration
    return backends


def declared_in(content: bytes) -> list[object]:
    """Return the names in one sound file."""
    tables = tomllib.loads(content.removeprefix(UTF8_MARK).decode())["backend"]
    return [table["name"] for table in tables]
