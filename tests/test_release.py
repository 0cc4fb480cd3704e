# SPDX-License-Identifier: AGPL-3.0-only
"""The check before a release sees every place that names another version."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import plexus_registry
import release

ROOT = Path(__file__).parents[1]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Copy what the check reads, and the check."""
    for name in (*release.PATTERNS, "pyproject.toml", "packaging/release.py"):
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place)
    return tmp_path


def check(root: Path) -> tuple[int, str]:
    """Run it and return its exit status and what it printed."""
    command = [sys.executable, str(root / "packaging/release.py")]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.stderr == ""
    return ended.returncode, ended.stdout


def test_all_places_agree(copy: Path) -> None:
    """In the project as it is, on the version that the program tells."""
    status, text = check(copy)
    assert status == 0, text
    assert text.endswith(f"release-check: all say {plexus_registry.__version__}\n")
    assert text.count("\n") == len(release.versions(ROOT)) + 1


@pytest.mark.parametrize(
    "place", [place for place in release.versions(ROOT) if place != "pyproject.toml"]
)
def test_place_that_says_another_version_is_told(copy: Path, place: str) -> None:
    """By name, with what was expected; where it all comes from, every other one is."""
    file, _, what = place.partition(" ")
    path = copy / file
    text = path.read_text(encoding="utf-8")
    match = re.search(release.PATTERNS[file][what], text, re.MULTILINE)
    assert match
    path.write_text(f"{text[: match.start(1)]}9.9{text[match.end(1) :]}", encoding="utf-8")
    status, printed = check(copy)
    assert status == 1
    wrong = [line for line in printed.splitlines() if "<- expected" in line]
    version = plexus_registry.__version__
    if file == release.ORIGIN:
        assert len(wrong) == len(release.versions(ROOT)) - 2  # itself and pyproject.toml
    else:
        assert wrong == [f"{'9.9':10}  {place}  <- expected {version}"]


@pytest.mark.parametrize(
    ("file", "before", "added"),
    [
        ("CHANGELOG.md", "## [{}] - ", "## [9.9]\n\n"),
        ("CHANGELOG.md", "## [{}] - ", "## 9.9 - 2030-01-01\n\n"),
        ("debian/changelog", "plexus-registry (", "plexus-registry  (9.9-1) unstable\n\n"),
        ("debian/changelog", "plexus-registry (", "rubbish\n\n"),
        ("packaging/rpm/plexus-registry.spec", "* ", "* rubbish\n\n"),
    ],
)
def test_newest_entry_counts_whatever_its_form(
    copy: Path, file: str, before: str, added: str
) -> None:
    """One that is not understood is not passed over for an older one."""
    path = copy / file
    text = path.read_text(encoding="utf-8")
    before = before.format(plexus_registry.__version__)
    assert before in text
    path.write_text(text.replace(before, added + before, 1), encoding="utf-8")
    status, printed = check(copy)
    assert status == 1
    assert f"{file}" in next(line for line in printed.splitlines() if "<- expected" in line)


def test_pre_releases_are_the_same_in_each_spelling(copy: Path) -> None:
    """0.2.0rc1 is 0.2.0~rc1 to Debian and RPM."""
    spellings = dict.fromkeys((release.ORIGIN, "CHANGELOG.md"), "0.2.0rc1")
    spellings |= {"packaging/arch/PKGBUILD": "0.2.0rc1"}
    for name in release.PATTERNS:
        path = copy / name
        spelling = spellings.get(name, "0.2.0~rc1")
        text = path.read_text(encoding="utf-8").replace(plexus_registry.__version__, spelling)
        path.write_text(text, encoding="utf-8")
    status, printed = check(copy)
    assert (status, printed.splitlines()[-1]) == (0, "release-check: all say 0.2.0rc1"), printed


def test_place_that_says_none_is_told(copy: Path) -> None:
    """As a changelog that has no entry for a version yet."""
    path = copy / "CHANGELOG.md"
    text = re.sub(r"^## \[\d.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")
    status, printed = check(copy)
    assert status == 1
    assert "none        CHANGELOG.md  <- expected" in printed


def test_version_of_its_own_in_pyproject_is_told(copy: Path) -> None:
    """A wheel whose version does not come from the program."""
    path = copy / "pyproject.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('dynamic = ["version"]', 'version = "0.0.9"'), encoding="utf-8")
    status, printed = check(copy)
    assert status == 1
    assert f"{'0.0.9':10}  pyproject.toml  <- expected" in printed
