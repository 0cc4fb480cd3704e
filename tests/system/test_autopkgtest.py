# SPDX-License-Identifier: AGPL-3.0-only
"""The tests that Debian runs on the installed package, in a machine, without autopkgtest."""

from __future__ import annotations

import re

import pytest

from system.machine import Machine
from system.packages import ROOT, copy_sources, source_files
from system.registry import Figure

SOURCE = "/srv/source"
# Building the package ran all of them; here they have to find what is installed.
SOME = "life_cycle or daemon_command"
TESTER = "tester"


@pytest.fixture
def source(machine: Machine) -> str:
    """Return the folder with the sources, in a machine that has what the tests depend on."""
    copy_sources(source_files(), machine.root / SOURCE.lstrip("/"))
    control = (ROOT / "debian/tests/control").read_text(encoding="utf-8")
    needed = re.findall(r"^\s+(python3-[\w-]+)|\b(man-db)\b", control, re.MULTILINE)
    machine.run(
        *("apt-get", "-qq", "--yes", "--no-install-recommends", "install"),
        *sorted({name for names in needed for name in names if name}),
        timeout_s=300,
    ).check()
    machine.run("useradd", "--create-home", TESTER).check()
    machine.run("chown", "-R", f"{TESTER}:", SOURCE).check()
    return SOURCE


@pytest.mark.parametrize("name", ["cli", "suite"])
def test_installed_package_passes(machine: Machine, source: str, name: str, figure: Figure) -> None:
    """debian/tests/{cli,suite} pass on the installed package, as an ordinary user."""
    result = machine.run(
        *("sh", "-c", f"cd {source} && AUTOPKGTEST_TMP=$(mktemp -d) debian/tests/{name}"),
        user=TESTER,
        environ={"PYTEST_ADDOPTS": f"-k '{SOME}'"},
        timeout_s=1200,
    ).check()
    assert result.stderr == ""  # which autopkgtest takes for a failure
    counted = re.findall(r"\b(\d+ passed\b.*) in ([\d.]+)s", result.stdout)
    figure(f"debian/tests/{name}", " in ".join(counted[-1]) + " s" if counted else "passed")


def test_booted_service_passes(machine: Machine, source: str) -> None:
    """debian/tests/booted passes: activation, a write, reloads, a restart that keeps it."""
    machine.sh(f"cd {source} && debian/tests/booted").check()
