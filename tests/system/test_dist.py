# SPDX-License-Identifier: AGPL-3.0-only
"""`make dist`: wheel, sdist and bill of materials, the same from every copy of the sources."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

import release
from system.packages import ROOT, copy_sources, source_files

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VALIDATE = """
import sys
from pathlib import Path
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
sys.exit(JsonStrictValidator(SchemaVersion.V1_6).validate_str(Path(sys.argv[1]).read_text()))
"""


@pytest.fixture(scope="session")
def dists(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Run `make dist` in two copies of the sources, in folders of different names."""
    # What was meant for the `make` that runs these tests is not for these.
    ours = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "VENV", "PYTHON", "ARGS")
    environ = {name: value for name, value in os.environ.items() if name not in ours}
    folders = []
    for name in ("one", "another one"):
        copy = tmp_path_factory.mktemp("dist") / name
        copy_sources(source_files(), copy)
        subprocess.run(["make", "--no-print-directory", "dist"], cwd=copy, env=environ, check=True)
        folders.append(copy / "dist")
    return folders


def only(dists: list[Path], pattern: str) -> Path:
    """Return the only file of the first run that matches."""
    (found,) = dists[0].glob(pattern)
    return found


def test_two_runs_make_the_same_files(dists: list[Path]) -> None:
    """Wheel, sdist and bill of materials depend on the sources, and on nothing else."""
    first, second = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in dists
    )
    stem = f"plexus_registry-{release.versions(ROOT)[release.ORIGIN]}"
    assert first.keys() == {f"{stem}-py3-none-any.whl", f"{stem}.tar.gz", f"{stem}.cdx.json"}
    assert first == second


def test_wheel_is_complete(dists: list[Path]) -> None:
    """It has all of the package, the units of a user, both programs, types and the licence."""
    with zipfile.ZipFile(only(dists, "*.whl")) as archive:
        names = set(archive.namelist())
        (entry_points,) = [name for name in names if name.endswith("/entry_points.txt")]
        programs = re.findall(r"^([\w-]+) = ", archive.read(entry_points).decode(), re.MULTILINE)
        units = {
            name.rpartition("/")[2]: archive.read(name)
            for name in names
            if name.startswith("plexus_registry/units/")
        }
    package = {
        path.relative_to(ROOT).as_posix()
        for path in source_files()
        if path.is_relative_to(ROOT / "plexus_registry")
    }
    assert {name for name in names if ".dist-info/" not in name} == package | {
        f"plexus_registry/units/{unit}" for unit in units
    }
    assert "plexus_registry/py.typed" in names
    assert set(programs) == set(PROJECT["scripts"])
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    folder = ROOT / "systemd/user"
    assert units == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_bill_of_materials_lists_what_is_installed(dists: list[Path]) -> None:
    """CycloneDX: the wheel, by its hash, and every component at the version it comes with."""
    path, wheel = only(dists, "*.cdx.json"), only(dists, "*.whl")
    bill = json.loads(path.read_text(encoding="utf-8"))
    itself = bill["metadata"]["component"]
    version = release.versions(ROOT)[release.ORIGIN]
    assert (itself["name"], itself["version"]) == ("plexus-registry", version)
    assert itself["purl"] == f"pkg:pypi/plexus-registry@{version}?file_name={wheel.name}"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert itself["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert itself["licenses"][0]["license"]["id"] == PROJECT["license"]

    found = {
        component["name"].lower().replace("_", "-"): component for component in bill["components"]
    }
    pinned = dict(
        re.findall(r"^([\w.-]+)==([^;\s]+)", (ROOT / "constraints.txt").read_text("utf-8"), re.M)
    )
    assert not {"pip", "setuptools", "cyclonedx-bom", "pytest"} & found.keys()
    for name, component in found.items():
        assert component["version"] == pinned[name], name
        assert component["purl"] == f"pkg:pypi/{name}@{pinned[name]}"
    # Nothing of the machine that it was made on.
    assert not re.search(r"file:/|/tmp|/home|/root", path.read_text(encoding="utf-8"))


def test_bill_of_materials_tells_what_needs_what(dists: list[Path]) -> None:
    """The wheel needs what pyproject.toml says, on any Python; nothing needs what is an extra."""
    bill = json.loads(only(dists, "*.cdx.json").read_text(encoding="utf-8"))
    graph = {
        each["ref"].partition("==")[0]: {
            ref.partition("==")[0].replace("_", "-").lower() for ref in each.get("dependsOn", [])
        }
        for each in bill["dependencies"]
    }
    needed = {re.split(r"[^\w-]", each)[0] for each in PROJECT["dependencies"]}
    assert graph[bill["metadata"]["component"]["bom-ref"]] == needed
    assert graph["msgspec"] == set()
    assert graph["rich"] == {"markdown-it-py", "pygments"}
    assert graph["python-daemon"] == {"lockfile"}


def test_bill_of_materials_is_valid(dists: list[Path]) -> None:
    """By the schema of CycloneDX, which the tool that made it brings along."""
    python = dists[0].parent / ".venv/bin/python"
    path = only(dists, "*.cdx.json")
    subprocess.run([python, "-c", VALIDATE, path], check=True)
    spoiled = path.with_suffix(".spoiled")
    spoiled.write_text(path.read_text(encoding="utf-8").replace('"application"', '"rubbish"'))
    assert subprocess.run([python, "-c", VALIDATE, spoiled], check=False).returncode != 0
