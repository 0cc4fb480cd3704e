# SPDX-License-Identifier: AGPL-3.0-only
"""Imports point downwards only: the map of the package, and the check that the code follows it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

import pytest

import plexus_registry

PACKAGE = plexus_registry.__name__
PACKAGE_DIR = Path(plexus_registry.__file__).parent

# Each room, lowest first, and the rooms that it may import. A room is a module or a folder of the
# package with all that is in it. `store.port` is a room of its own inside store.
FIELDS = ("errors", "backend")
CORE = (*FIELDS, "catalog", "rules", "reloads", "registry")
ARROWS: dict[str, tuple[str, ...]] = {
    "errors": (),
    "messages": (),
    "access": (),
    "ids": (),
    "gathering": (),
    "notices": (),
    "tally": (),
    "backend": ("errors",),
    "catalog": FIELDS,
    "rules": (*FIELDS, "catalog"),
    "store.port": FIELDS,
    "eventlog": (*FIELDS, "messages", "notices", "catalog", "rules", "store.port"),
    "reloads": ("errors", "notices", "rules", "eventlog", "tally"),
    "registry": (
        *FIELDS,
        "messages",
        "notices",
        "ids",
        "gathering",
        "catalog",
        "rules",
        "reloads",
        "eventlog",
        "store.port",
        "tally",
    ),
    "protocol": (*CORE, "access"),
    # Adapters: none imports another.
    "server": (*CORE, "notices", "access", "protocol"),
    "client": (*CORE, "protocol"),
    "store": (*FIELDS, "store.port"),
    "config": (*FIELDS, "access"),
    # Those that compose.
    "service": (
        *CORE,
        "messages",
        "notices",
        "eventlog",
        "access",
        "protocol",
        "server",
        "client",
        "store.port",
        "store",
        "config",
        "tally",
    ),
    "cli": (
        *CORE,
        "messages",
        "access",
        "protocol",
        "server",
        "client",
        "store.port",
        "store",
        "config",
        "service",
    ),
    "__main__": ("cli",),
}

# What decides and what only carries: no I/O, no threads, no event loop.
PURE = (
    "errors",
    "messages",
    "access",
    "ids",
    "gathering",
    "notices",
    "tally",
    "backend",
    "catalog",
    "rules",
    "eventlog",
    "store.port",
    "reloads",
    "registry",
    "protocol",
)
IMPURE = (
    "asyncio",
    "concurrent",
    "multiprocessing",
    "os",
    "pathlib",
    "select",
    "selectors",
    "signal",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "threading",
    "websockets",
)

# Libraries that only these rooms know.
KEEPERS: dict[str, tuple[str, ...]] = {
    "prometheus_client": ("service",),
    "pyinotify": ("config",),
    "sqlite3": ("store",),
    "websockets": ("server", "client"),
}

# What any room may take from the package itself.
PACKAGE_FACTS = (f"{PACKAGE}.__version__",)


class Import(NamedTuple):
    """One name that a file imports, as a full dotted path."""

    line: int
    target: str
    is_lazy: bool


def find_imports(tree: ast.Module, package: str) -> Iterator[Import]:
    """Find every import: also in functions, under TYPE_CHECKING and by import_module("…").

    Args:
        tree: The parsed file.
        package: The dotted path that its relative imports start from.
    """

    def walk(node: ast.AST, is_lazy: bool) -> Iterator[Import]:
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(node.lineno, alias.name, is_lazy)
            case ast.ImportFrom(module=module, names=names, level=level):
                ancestors = package.split(".")[: len(package.split(".")) + 1 - level]
                base = [*(ancestors if level else ()), *([module] if module else ())]
                for alias in names:
                    yield Import(node.lineno, ".".join([*base, alias.name]), is_lazy)
            case ast.Call(
                func=ast.Name(id=function) | ast.Attribute(attr=function),
                args=[ast.Constant(value=str(target)), *_],
            ) if function in {"import_module", "__import__"}:
                yield Import(node.lineno, target, is_lazy)
            case ast.If(test=test, body=body, orelse=orelse) if "TYPE_CHECKING" in ast.dump(test):
                for statement in body:
                    yield from walk(statement, True)
                for statement in orelse:
                    yield from walk(statement, is_lazy)
                return
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                is_lazy = True
        for child in ast.iter_child_nodes(node):
            yield from walk(child, is_lazy)

    return walk(tree, False)


def room_of(module: str) -> str:
    """Name the room of a module of the package, whether the map knows it or not."""
    # Importing store.port runs store/__init__.py first: that file obeys the rules of the port.
    if module == "store" or module.split(".")[:2] == ["store", "port"]:
        return "store.port"
    return module.partition(".")[0]


def check(package_dir: Path) -> list[str]:
    """Hold a package against the map and return its faults, one line each."""
    modules = {}
    for path in sorted(package_dir.rglob("*.py")):
        *folders, name = path.relative_to(package_dir).with_suffix("").parts
        modules[path] = ".".join(folders if name == "__init__" else [*folders, name])
    known = set(modules.values())
    return [
        f"{path.relative_to(package_dir.parent)}{fault}"
        for path, module in modules.items()
        for fault in faults_of(path, module, known)
    ]


def faults_of(path: Path, module: str, modules: AbstractSet[str]) -> Iterator[str]:
    """Check one file; *module* is its path inside the package, empty for the package itself."""
    parent = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = find_imports(ast.parse(path.read_bytes()), f"{PACKAGE}.{parent}".rstrip("."))
    room = room_of(module)
    if not module:
        for line, target, is_lazy in found:
            if not is_lazy and target.split(".")[0] == PACKAGE:
                yield f":{line}: {PACKAGE} itself imports {target}; only inside functions may it"
    elif room not in ARROWS:
        yield f": no room {room!r} on the map; add it to ARROWS in tests/test_architecture.py"
    else:
        for line, target, _ in found:
            for fault in faults_of_import(room, target, modules):
                yield f":{line}: {room} imports {fault}"


def faults_of_import(room: str, target: str, modules: AbstractSet[str]) -> Iterator[str]:
    """Check one import of a room that is on the map."""
    top, _, inside = target.partition(".")
    if top != PACKAGE:
        if room in PURE and top in IMPURE:
            yield f"{top}; it is pure: {', '.join(PURE)} must not"
        elif room not in KEEPERS.get(top, (room,)):
            yield f"{top}; only {', '.join(KEEPERS[top])} may"
        return
    while inside and inside not in modules:
        inside = inside.rpartition(".")[0]
    if inside:
        into = room_of(inside)
        if into not in (room, *ARROWS[room]):
            yield f"{into} ({target}); it may import: {', '.join(ARROWS[room]) or 'nothing'}"
    elif target not in PACKAGE_FACTS:
        yield f"{target}; name the module that it comes from"


def test_imports_point_downwards() -> None:
    """Every import of the package is one that the map allows."""
    faults = check(PACKAGE_DIR)
    assert faults == [], "\n".join(["", *faults])


def test_map_lists_the_lowest_room_first() -> None:
    """No room of the map may import one that stands above it, so it has no circles."""
    rooms = list(ARROWS)
    for room, below in ARROWS.items():
        assert set(below) <= set(rooms[: rooms.index(room)]), room


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return a small package in which every arrow is allowed."""
    files = {
        "__init__.py": "def client():\n    from plexus_registry.client import Client\n",
        "errors.py": "import json\n",
        "backend.py": "from plexus_registry.errors import InvalidValue\n",
        "catalog.py": "from plexus_registry import __version__, backend as fields\n",
        "rules.py": "from .catalog import Catalog\n",
        "registry.py": "from plexus_registry.store.port import Store\n",
        "protocol/__init__.py": "",
        "protocol/jsonrpc.py": "from . import streams\nfrom ..registry import Registry\n",
        "protocol/streams.py": "import plexus_registry.errors\n",
        "server/__init__.py": "import asyncio, websockets\nfrom ..protocol.jsonrpc import parse\n",
        "client/__init__.py": "import websockets.client\n",
        "store/__init__.py": "",
        "store/port.py": "from plexus_registry.backend import Backend\n",
        "store/sqlite.py": "import sqlite3\nfrom plexus_registry.store import port\n",
        "config/__init__.py": "import pyinotify\n",
        "service/__init__.py": "import os\nfrom plexus_registry import config, server, store\n",
        "cli/__init__.py": "from plexus_registry.service import run\n",
    }
    root = tmp_path / PACKAGE
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_checker_passes_allowed_arrows(package: Path) -> None:
    """A package that follows the map has no faults."""
    assert check(package) == []


@pytest.mark.parametrize(
    ("file", "planted", "fault"),
    [
        ("errors.py", "import plexus_registry.backend", "errors imports backend"),
        ("backend.py", "from plexus_registry import registry", "backend imports registry"),
        ("backend.py", "from .registry import Registry", "backend imports registry"),
        ("rules.py", "def f():\n    from . import server", "rules imports server"),
        (
            "catalog.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import rules",
            "catalog imports rules",
        ),
        (
            "rules.py",
            "import importlib\nimportlib.import_module('plexus_registry.protocol.jsonrpc')",
            "rules imports protocol",
        ),
        ("registry.py", "from plexus_registry.store import sqlite", "registry imports store ("),
        ("catalog.py", "from plexus_registry.store.port import Store", "imports store.port"),
        ("store/__init__.py", "from .sqlite import SqliteStore", "store.port imports store ("),
        ("store/sqlite.py", "from plexus_registry.registry import Registry", "imports registry"),
        ("server/__init__.py", "from plexus_registry.store.sqlite import S", "imports store ("),
        ("client/__init__.py", "from plexus_registry.server import S", "client imports server"),
        ("config/__init__.py", "from ..rules import Reload", "config imports rules"),
        ("service/__init__.py", "from plexus_registry.cli import main", "service imports cli"),
        ("backend.py", "from plexus_registry import client", "backend imports client"),
        ("rules.py", "from plexus_registry import connect", "name the module"),
        ("__init__.py", "from plexus_registry.client import Client", "only inside functions"),
        ("registry.py", "import asyncio.events", "registry imports asyncio"),
        ("backend.py", "from pathlib import Path", "backend imports pathlib"),
        ("protocol/streams.py", "from websockets.frames import Frame", "imports websockets"),
        ("server/__init__.py", "import sqlite3", "server imports sqlite3; only store may"),
        ("service/__init__.py", "import pyinotify", "pyinotify; only config may"),
        ("cli/__init__.py", "import websockets", "only server, client may"),
        ("manager.py", "", "no room 'manager' on the map; add it to ARROWS"),
        ("helpers/__init__.py", "", "no room 'helpers' on the map; add it to ARROWS"),
    ],
)
def test_checker_finds_a_planted_fault(package: Path, file: str, planted: str, fault: str) -> None:
    """An arrow that the map does not have is reported with its file and what is wrong."""
    path = package / file
    path.parent.mkdir(exist_ok=True)
    text = path.read_text() if path.exists() else ""
    path.write_text(f"{text}{planted}\n")
    [line] = check(package)
    assert line.startswith(f"{PACKAGE}/{file}:")
    assert fault in line
