# SPDX-License-Identifier: AGPL-3.0-only
"""The daemon of the fault tests: a process that no test leaves behind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from support.conversation import conversation
from support.daemon import PROGRAM, Daemon, daemon
from support.load import Load, listed

DIES_WITH_TEST = ("setpriv", "--pdeathsig=KILL", "--")


def config_of(home: Path) -> Path:
    """Return the file that a daemon of *home* follows."""
    return home / "config" / "backends.toml"


@contextlib.contextmanager
def on_disk(
    home: Path,
    database: Path,
    *,
    program: Sequence[str] = PROGRAM,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Daemon]:
    """Run a daemon with that database while the block runs; kill it if it still runs then."""
    arguments = ["--auto-register", "none", "--db-path", str(database)]
    arguments += ["--config", str(config_of(home))]
    with daemon(home, arguments, environ, program=[*DIES_WITH_TEST, *program]) as running:
        yield running


class Stopwatch:
    """How long a daemon takes to serve again: the longest of all rounds, in seconds."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    @contextlib.contextmanager
    def lap(self) -> Iterator[None]:
        """Time the block."""
        began = time.monotonic()
        yield
        self.longest_s = max(self.longest_s, time.monotonic() - began)


def alarms(running: Daemon) -> list[str]:
    """Return what its log says of a database that is damaged, or lacks what was in its log."""
    told = ("database damaged", "write-ahead log of the database")
    return [line for line in running.log if any(text in line for text in told)]


def start(running: Daemon, load: Load) -> str:
    """Wait until the daemon answers; check that it has what it acknowledged before.

    Returns:
        Where it listens.
    """
    url = running.url
    with conversation(url) as client:
        assert load.settle(listed(client), is_served=True) == []
    return url
