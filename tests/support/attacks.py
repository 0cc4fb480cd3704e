# SPDX-License-Identifier: AGPL-3.0-only
"""An attacker beside a well-behaved client, and what became of both."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from support.bystander import Bystander, p99_ms
from support.daemon import Daemon

REPORT_VARIABLE = "PLEXUS_FAULT_REPORT"
"""Names a folder that gets one file in JSON for each attack."""

ATTACKER = "127.0.0.2"
BYSTANDER = "127.0.0.3"

ALONE_S = 0.25
ATTACK_S = 0.4
"""How long an attack goes on at least."""
LINES_MAX = 30
"""How many lines at level WARNING or above one attack may bring into the log."""
LINE_MAX_CHARACTERS = 600

MAX_CONNECTIONS = 60
MAX_PER_ADDRESS = 20
MAX_ENTRIES = 80
MAX_MESSAGE = 256 * 1024
MAX_ANSWER = 1_050_000
"""More than 64 entries with metadata of 16,000 characters."""
MAX_BUFFERED = 1024 * 1024
"""Of output and of input."""
HANDSHAKE_TIMEOUT_S = 3
SLOW_SENDER_TIMEOUT_S = 3
"""Both are time enough for what has to succeed, on a busy machine."""


def program() -> tuple[str, ...]:
    """Return the daemon, to which loopback addresses are other machines.

    Clients of this machine are not counted by address, and a test has no other machine.
    """
    return (
        sys.executable,
        "-c",
        "import sys\n"
        "from plexus_registry.cli.daemon import main\n"
        "from plexus_registry.server import listener\n"
        "listener.place_of = lambda address: address[0]\n"
        "sys.exit(main())\n",
    )


def rounds() -> Iterator[int]:
    """Count rounds of an attack: at least one, and as many as there is time for."""
    end = time.monotonic() + ATTACK_S
    yield 1
    count = 1
    while time.monotonic() < end:
        count += 1
        yield count


class Outcome:
    """What the attacker got.

    Attributes:
        notes: In words.
        count: How many rounds there were.
        new_warnings: Returns the lines that the attack brought into the log so far.
    """

    def __init__(self, new_warnings: Callable[[], list[str]]) -> None:
        self.notes: list[str] = []
        self.count = 0
        self.new_warnings = new_warnings

    def rounds(self) -> Iterator[int]:
        """Count rounds: at least one, and as many as there is time for."""
        for self.count in rounds():
            yield self.count

    def append(self, note: str) -> None:
        """Note one thing."""
        self.notes.append(note)


class Arena:
    """A daemon and a client that asks it all the time.

    Attributes:
        home: The folder of its files.
        daemon: The daemon.
        port: Where it listens.
    """

    def __init__(
        self,
        home: Path,
        running: Daemon,
        bystander: Bystander,
        record_property: Callable[[str, object], None] = lambda name, value: None,
    ) -> None:
        self.home = home
        self.daemon = running
        self.port = int(running.url.rpartition(":")[2])
        self._bystander = bystander
        self._record = record_property

    def recording(self, record_property: Callable[[str, object], None]) -> Arena:
        """Return the same arena for another test, which takes the figures."""
        return Arena(self.home, self.daemon, self._bystander, record_property)

    @contextlib.contextmanager
    def attack(self, name: str, setting: str, *, answers_min: int = 0) -> Iterator[Outcome]:
        """Attack while the block runs, which notes what the attacker got.

        Args:
            name: What is attacked, in a few words.
            setting: Which limit stands against it.
            answers_min: How many answers the other client gets meanwhile at least.
        """
        self._bystander.samples()
        lines = len(self.warnings())
        time.sleep(ALONE_S)
        alone = self._bystander.samples()
        got = Outcome(lambda: self.warnings()[lines:])
        yield got
        during = self._bystander.samples()
        assert len(during) >= answers_min
        new = got.new_warnings()
        assert len(new) <= LINES_MAX, "\n".join(new)
        assert all(line.isprintable() and len(line) <= LINE_MAX_CHARACTERS for line in new), new
        self._report(
            {
                "kind": "attack",
                "name": name,
                "setting": setting,
                "attacker": "; ".join(got.notes),
                "answers": len(during),
                "alone_p99_ms": p99_ms(alone),
                "p99_ms": p99_ms(during),
                "log_lines": len(new),
            }
        )

    def warnings(self) -> list[str]:
        """Return the lines of the log at level WARNING or above, so far."""
        levels = (" WARNING ", " ERROR ", " CRITICAL ")
        return [line for line in list(self.daemon.log) if any(it in line for it in levels)]

    def _report(self, figures: dict[str, object]) -> None:
        for key, value in figures.items():
            self._record(key, value)
        folder = os.environ.get(REPORT_VARIABLE)
        if folder:
            file = "-".join(str(figures["name"]).split())
            Path(folder).mkdir(parents=True, exist_ok=True)
            Path(folder, f"attack-{file}.json").write_text(json.dumps(figures) + "\n")
