# SPDX-License-Identifier: AGPL-3.0-only
"""Tell whether all that names the version names the same one: ``make release-check``.

It comes from ``plexus_registry/__init__.py``. Wheel and sdist take it from there; formats of
packages and changelogs want it in files of their own.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ORIGIN = "plexus_registry/__init__.py"

# Where each file says it. The newest entry of a changelog is the first, whatever its form: one that
# is not understood is told as none.
PATTERNS: Mapping[str, Mapping[str, str]] = {
    ORIGIN: {"": r'^__version__ = "(.+)"$'},
    "CHANGELOG.md": {"": r"^## (?!\[Unreleased\]$)(?:\[([^]]+)\] - \d{4}-\d\d-\d\d$)?"},
    "debian/changelog": {"": r"\A\s*(?:plexus-registry\s+\((?:\d+:)?([^)]+)-[^-)]+\) )?"},
    "packaging/rpm/plexus-registry.spec": {
        "Version": r"^Version:\s*(\S+)$",
        "%changelog": r"^%changelog\n(?:\* .+ - (?:\d+:)?(\S+)-[^-\n]+$)?",
    },
    "packaging/arch/PKGBUILD": {"pkgver": r"^pkgver=(\S+)$"},
}
PRE_RELEASE = re.compile(r"[~_]?(a|b|rc)(\d+)$")
"""Debian and RPM sort 1.0~rc1 before 1.0; Arch has 1.0rc1, Python too (PEP 440)."""


def versions(root: Path) -> dict[str, str | None]:
    """Return the version that each place names, None if it names none.

    Raises:
        OSError: If a file is missing.
    """
    found: dict[str, str | None] = {}
    for file, patterns in PATTERNS.items():
        text = (root / file).read_text(encoding="utf-8")
        for place, pattern in patterns.items():
            match = re.search(pattern, text, re.MULTILINE)
            version = match[1] if match else None
            found[f"{file} {place}".rstrip()] = version and PRE_RELEASE.sub(r"\1\2", version)
    found["pyproject.toml"] = _of_project(root, found)
    return found


def _of_project(root: Path, found: Mapping[str, str | None]) -> str | None:
    """Return the version of wheel and sdist: one of its own, or that of the file it refers to."""
    table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    if "version" not in table["project"].get("dynamic", ()):
        own = table["project"].get("version")
        return None if own is None else str(own)
    return found.get(table["tool"]["hatch"]["version"]["path"])


def main() -> int:
    """Print what each place says; the exit status tells whether they agree."""
    found = versions(ROOT)
    expected = found[ORIGIN]
    for place, version in found.items():
        differs = "" if version == expected else f"  <- expected {expected}"
        print(f"{version or 'none':10}  {place}{differs}")
    if set(found.values()) != {expected} or expected is None:
        print(f"release-check: the versions differ; {ORIGIN} is where it comes from")
        return 1
    print(f"release-check: all say {expected}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
