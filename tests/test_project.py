# SPDX-License-Identifier: AGPL-3.0-only
"""What holds for every file of the project: licence line, size, docstrings, no local paths."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import plexus_registry

ROOT = Path(__file__).parent.parent
if not (ROOT / "pyproject.toml").is_file():
    pytest.skip("the tests run outside the project's folder", allow_module_level=True)

SPDX = "# SPDX-License-Identifier: AGPL-3.0-only"
MODULE_MAX_LINES = 400

# Folders that are made, not written.
MADE = {"__pycache__", "build", "dist", "node_modules", "venv"}
# What only the machine of one developer has. A made-up home folder is no such path.
MACHINE_PATH = re.compile(r"(?<![\w.~$}*-])/(?:work|root)/")
# Files in which such a path is meant, each with the reason.
MACHINE_PATH_ALLOWED: dict[str, str] = {}


def project_files(folder: Path = ROOT) -> Iterator[Path]:
    """Go over the files that people wrote."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        is_hidden = entry.name.startswith(".") and entry.name != ".ci"
        is_package_tree = folder.name == "debian" and entry.name in {"plexus-registry", "tmp"}
        if entry.is_dir(follow_symlinks=False):
            if not (is_hidden or is_package_tree or entry.name in MADE):
                yield from project_files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def python_files() -> list[Path]:
    """List the Python files of the project."""
    return [path for path in project_files() if path.suffix == ".py"]


def relative(path: Path) -> str:
    """Show a path from the root of the project."""
    return path.relative_to(ROOT).as_posix()


def test_every_python_file_names_its_licence() -> None:
    """Each .py file has the SPDX line on top, after a line for the interpreter if it has one."""
    missing = [
        relative(path)
        for path in python_files()
        if SPDX not in path.read_text(encoding="utf-8").splitlines()[:2]
    ]
    assert missing == []


def test_every_manual_unit_and_script_names_its_licence() -> None:
    """Near the top, in the form of a comment there."""
    written = [*(ROOT / "docs/man").iterdir(), ROOT / "debian/rules", ROOT / "debian/postrm"]
    written += project_files(ROOT / "systemd")
    packaging = ROOT / "packaging"
    written += [path for path in project_files(packaging) if path.parent != packaging]
    missing = [
        relative(path)
        for path in written
        if SPDX.lstrip("# ") not in "".join(path.read_text(encoding="utf-8").splitlines()[:4])
    ]
    assert written
    assert missing == []


def test_modules_of_the_package_stay_small() -> None:
    """No module of the package is so long that it has several reasons to change."""
    lengths = {
        relative(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in python_files()
        if path.is_relative_to(ROOT / "plexus_registry")
    }
    assert {path: n for path, n in lengths.items() if n > MODULE_MAX_LINES} == {}


def test_every_test_says_what_it_shows() -> None:
    """Each test function has a docstring that states the behaviour."""
    silent = [
        f"{relative(path)}:{node.lineno}: {node.name}"
        for path in python_files()
        if path.is_relative_to(ROOT / "tests")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert silent == []


def test_no_file_names_a_path_of_one_machine() -> None:
    """Nothing that is shipped points into a home folder or a working folder of somebody."""
    found = []
    for path in project_files():
        if relative(path) in MACHINE_PATH_ALLOWED:
            continue
        text = path.read_bytes().decode("utf-8", "replace")
        for number, line in enumerate(text.splitlines(), start=1):
            if MACHINE_PATH.search(line):
                found.append(f"{relative(path)}:{number}: {line.strip()[:80]}")
    assert found == []


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version such as 1.2.3, 1.3.0.dev0 or 2.0.0rc1, to compare by."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    assert match, version
    return tuple(map(int, match[0].split(".")))


def test_changelog_agrees_with_the_version() -> None:
    """The changelog has Unreleased on top, then dated releases, none newer than the version."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    top, *releases = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert top == "[Unreleased]"
    versions = [plexus_registry.__version__]
    for heading in releases:
        match = re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}", heading)
        assert match, f"write '## [1.2.3] - 2001-02-03', not '## {heading}'"
        versions.append(match[1])
    assert all(release(newer) >= release(older) for newer, older in pairwise(versions))
    assert len(set(versions[1:])) == len(versions[1:])
