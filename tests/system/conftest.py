# SPDX-License-Identifier: AGPL-3.0-only
"""Fixtures of the tests on a booted machine, and the transcript at the end.

Each test gets a machine of its own: a fresh tree that takes a second to boot. Nothing is skipped:
a host that cannot run machines is a failure that says what is missing.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from system import formats as building_formats
from system import packages as building
from system.base import Cache
from system.command import in_tree
from system.formats import CACHE, Formats
from system.host import HostProblem
from system.machine import Boot, Machine
from system.packages import Packages
from system.registry import PATIENCE_S, SERVICE, SOCKET, Figure, Registry

HERE = Path(__file__).parent
TIMEOUT_S = 90 * PATIENCE_S
"""Of a test, with all that has to be built first."""
SHOWS = "shows"


@pytest.fixture(scope="session")
def cache() -> Cache:
    """Return what keeps roots; without it nothing can be tested."""
    try:
        return Cache(CACHE)
    except HostProblem as problem:
        pytest.exit(f"this host cannot run the system test: {problem}", returncode=1)


@pytest.fixture(scope="session")
def base(cache: Cache) -> Path:
    """Return a Debian 13 without the package."""
    try:
        return cache.base(building.recipe())
    except HostProblem as problem:
        pytest.exit(f"this host cannot run the system test: {problem}", returncode=1)


@pytest.fixture(scope="session")
def packages(cache: Cache, base: Path) -> Packages:
    """Build the package of this checkout, and another of a higher version."""
    return building.build(cache, base)


@pytest.fixture(scope="session")
def formats(cache: Cache, base: Path, packages: Packages) -> Formats:
    """Build the package in every format."""
    return building_formats.build(cache, base, packages)


@pytest.fixture(scope="session")
def installed(cache: Cache, base: Path, packages: Packages) -> list[Path]:
    """Return what a Debian 13 with the package is made of."""

    def install(root: Path) -> None:
        shutil.copy(packages.old, root / "srv")
        in_tree(root, ["apt-get", "install", "--yes", f"/srv/{packages.old.name}"]).check()

    return [cache.layer("installed", [base], install, str(packages.old)), base]


@pytest.fixture
def boot(cache: Cache, packages: Packages) -> Boot:
    """Return what boots a machine from roots; the packages are in its /srv."""

    @contextlib.contextmanager
    def boot(*below: Path, init: str = "systemd") -> Iterator[Machine]:
        with cache.tree(*below) as root:
            for package in (packages.old, packages.new):
                shutil.copy(package, root / "srv")
            with Machine(root, root.with_name("console"), init=init) as machine:
                yield machine

    return boot


@pytest.fixture
def machine(boot: Boot, installed: list[Path]) -> Iterator[Machine]:
    """Boot a machine in which the package was installed before."""
    with boot(*installed) as machine:
        yield machine


@pytest.fixture
def registry(machine: Machine) -> Registry:
    """Return the registry of a machine that has just booted: socket and service are active."""
    registry = Registry(machine)
    assert registry.is_active(SOCKET)
    assert registry.is_active(SERVICE)
    return registry


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Return what takes a name and a figure, for the transcript and the report."""

    def note(name: str, value: object) -> None:
        request.node.user_properties.append((name, value))

    return note


# --- the transcript -------------------------------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests on machines the time that building them takes."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say in a report what its test shows and, if it failed, what the machine's journal says."""
    report = yield
    if report.when == "call":
        case = f" [{item.callspec.id}]" if hasattr(item, "callspec") else ""
        shows = (item.function.__doc__ or "").splitlines()[0]
        report.user_properties.append((SHOWS, shows + case))
    machine = item.funcargs.get("machine")
    if report.failed and isinstance(machine, Machine):
        with contextlib.suppress(HostProblem):
            journal = machine.run("journalctl", "--no-pager", "--lines=200").stdout
            report.sections.append(("journal of the machine", journal))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was shown on the machine, with figures."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call" and SHOWS in dict(report.user_properties)
    ]
    if not reports:
        return
    terminalreporter.section("shown on a booted Debian 13")
    for report in sorted(reports, key=lambda report: report.location[:2]):
        properties = dict(report.user_properties)
        mark = "ok    " if report.passed else "FAILED"
        terminalreporter.line(f"{mark} {properties.pop(SHOWS)} ({report.duration:.1f} s)")
        for name, value in properties.items():
            terminalreporter.line(f"         {name}: {value}")
