# SPDX-License-Identifier: AGPL-3.0-only
"""Fixtures of the fault tests.

Nothing is skipped: a host that cannot make the faults is a failure that says what is missing.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults import host
from faults.host import HostProblem
from faults.volume import Volume

HERE = Path(__file__).parent
TIMEOUT_S = 600

Record = Callable[..., None]
NewVolume = Callable[..., Volume]


@pytest.fixture(scope="session", autouse=True)
def folder() -> Iterator[Path]:
    """Return a folder on a real disk, on a host where every fault can be made."""
    named = os.environ.get("PLEXUS_FAULT_FOLDER") or HERE.parents[1] / ".cache" / "fault-test"
    within = Path(named).absolute()
    within.mkdir(parents=True, exist_ok=True)
    try:
        host.require(within)
        host.keep_mounts_private()
    except HostProblem as problem:
        pytest.exit(f"this host cannot run the fault tests: {problem}", returncode=1)
    made = Path(tempfile.mkdtemp(prefix="run-", dir=within))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def home(folder: Path) -> Iterator[Path]:
    """Return the home folder of a daemon, on a real disk."""
    made = Path(tempfile.mkdtemp(prefix="home-", dir=folder))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def new_volume(folder: Path) -> Iterator[NewVolume]:
    """Return what makes disks, each in a folder of its own, or inside of another."""
    made: list[Volume] = []

    def make(size_mib: int, *options: str, inside: Volume | None = None) -> Volume:
        within = tempfile.mkdtemp(prefix="volume-", dir=inside.at if inside else folder)
        made.append(Volume(Path(within), size_mib=size_mib, options=options))
        return made[-1]

    yield make
    for volume in reversed(made):
        volume.unmount()
        shutil.rmtree(volume.at.parent)


@pytest.fixture
def chance() -> random.Random:
    """Return what decides; PLEXUS_FAULT_SEED makes the decisions of an earlier run again."""
    seed = os.environ.get("PLEXUS_FAULT_SEED") or str(secrets.randbits(32))
    print(f"PLEXUS_FAULT_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Return what takes the figures of a fault, for the terminal and for docs/reliability.md."""

    def write(name: str, **figures: object) -> None:
        line = {"kind": "fault", "name": name, **figures}
        print(json.dumps(line))
        if report := os.environ.get("PLEXUS_FAULT_REPORT"):
            place = Path(report, f"{request.node.name}-{secrets.token_hex(4)}.json")
            place.write_text(json.dumps(line), encoding="utf-8")

    return write


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests the time that many rounds take."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
