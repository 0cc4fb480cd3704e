# SPDX-License-Identifier: AGPL-3.0-only
"""The installed registry in a machine, as its operator and its clients see it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.timing import SCALE, wait_until
from system.command import Result, Running
from system.machine import Machine

SERVICE = "plexus-registry.service"
SOCKET = "plexus-registry.socket"
IPV4 = "ws://127.0.0.1:4445"
IPV6 = "ws://[::1]:4445"
UNIX = "unix:/run/plexus-registry/registry.sock"
STATE = "/var/lib/plexus-registry"
CONFIGURATION = "/etc/plexus"
BACKENDS = f"{CONFIGURATION}/backends.toml"

PATIENCE_S = 60.0 * SCALE
"""How long anything may take; nothing is expected to."""

Figure = Callable[[str, object], None]
"""Takes a name and a figure, for the transcript and the report."""

_CLIENT = Path(__file__).parent / "guest/client.py"
_CLIENT_THERE = "/srv/client.py"


@dataclass(frozen=True)
class Load:
    """What a client saw that called in a loop.

    Attributes:
        acknowledged: The names that were registered.
        unanswered: Calls that a stopping registry closed with 1001.
        faults: Connections that were refused, and whatever else must not happen.
        gap_s: The longest time from one answer to the next.
        versions: What the registry called itself, in order.
    """

    acknowledged: list[str]
    unanswered: int
    faults: list[str]
    gap_s: float
    versions: list[str]


class Registry:
    """The registry of a machine.

    Args:
        machine: Booted.
        user: Whose systemd runs it; root means the system's.
    """

    def __init__(self, machine: Machine, user: str = "root") -> None:
        self.machine = machine
        self.user = user
        self._of_user = [] if user == "root" else ["--user"]
        there = machine.root / _CLIENT_THERE.lstrip("/")
        there.write_bytes(_CLIENT.read_bytes())
        self._load: Running | None = None
        self._loads = 0

    # --- its clients ------------------------------------------------------------------------------

    def ask(self, method: str, *, url: str = IPV4, **params: object) -> dict[str, Any]:
        """Call a method and return its event.

        Raises:
            CommandFailed: If there is no answer.
        """
        return self.timed(method, url=url, **params)[0]

    def timed(
        self, method: str, *, url: str = IPV4, **params: object
    ) -> tuple[dict[str, Any], float]:
        """Call a method and return its event, and the seconds that it took to connect and get it.

        Raises:
            CommandFailed: If there is no answer.
        """
        answer = json.loads(self.try_ask(method, url=url, **params).check().stdout)
        return answer["event"], answer["seconds"]

    def try_ask(self, method: str, *, url: str = IPV4, **params: object) -> Result:
        """Call a method, whatever comes of it."""
        return self.start_asking(method, url=url, **params).finish()

    def start_asking(self, method: str, *, url: str = IPV4, **params: object) -> Running:
        """Start a client that calls a method."""
        return self.machine.start(
            "python3", _CLIENT_THERE, "ask", url, f"registry.{method}", json.dumps(params)
        )

    def register(self, name: str) -> None:
        """Register a backend."""
        event = self.ask("register", name=name, host="127.0.0.1", port=4444)
        assert event["type"] == "backend_registered", event

    def names(self) -> list[str]:
        """List the names of all entries, sorted."""
        names: list[str] = []
        after = None
        while True:
            page = self.ask("list", active_only=False, limit=1000, after=after)["backends"]
            if not page:
                return sorted(names)
            names += [backend["name"] for backend in page]
            after = page[-1]["name"]

    def port_of(self, name: str) -> int | None:
        """Return the port of an entry; None if there is none."""
        backend = self.ask("get", name=name)["backend"]
        return backend["port"] if backend else None

    def begin_load(self) -> None:
        """Let a client call in a loop; return when the first answers are there."""
        self._loads += 1
        self._load = self.machine.start(
            *("python3", _CLIENT_THERE, "loop", IPV4, self._acknowledged, f"load-{self._loads}-")
        )
        self.await_load(10)

    def await_load(self, count: int) -> None:
        """Wait until so many more writes were acknowledged."""
        goal = len(self._names()) + count
        self.wait(lambda: len(self._names()) >= goal, "answers to a client in a loop")

    def end_load(self) -> Load:
        """Stop the client and return what it saw."""
        assert self._load is not None
        summary = json.loads(self._load.finish().check().stdout)
        names = self._names()
        assert summary.pop("acknowledged") == len(names)
        return Load(names, **summary)

    @property
    def _acknowledged(self) -> str:
        return f"/srv/acknowledged-{self._loads}"

    def _names(self) -> list[str]:
        path = self.machine.root / self._acknowledged.lstrip("/")
        return path.read_text(encoding="ascii").split() if path.exists() else []

    # --- its operator -----------------------------------------------------------------------------

    def systemctl(self, *arguments: str) -> Result:
        """Run systemctl of the registry's service manager."""
        return self.machine.run("systemctl", *self._of_user, *arguments, user=self.user)

    def show(self, property: str, unit: str = SERVICE) -> str:
        """Return a property of a unit."""
        return (
            self.systemctl("show", "--value", f"--property={property}", unit).check().stdout.strip()
        )

    def is_active(self, unit: str = SERVICE) -> bool:
        """Tell whether a unit is active."""
        return self.show("ActiveState", unit) == "active"

    @property
    def pid(self) -> int:
        """The daemon's PID in the machine; 0 if it does not run."""
        return int(self.show("MainPID"))

    def signal(self, name: str) -> None:
        """Send the daemon a signal, as `kill` does."""
        self.machine.sh(f"kill -{name} {self.pid}").check()

    @property
    def status(self) -> str:
        """The line that the daemon says about itself."""
        return self.show("StatusText")

    def drop_in(self, text: str, unit: str = SERVICE) -> None:
        """Change a unit until the next boot."""
        folder = f"/run/systemd/system/{unit}.d"
        self.put(f"{folder}/test.conf", text)
        self.systemctl("daemon-reload").check()

    def journal(self, *arguments: str) -> list[dict[str, Any]]:
        """Return the service's entries of the journal, with their fields."""
        self.machine.run("journalctl", "--sync").check()
        unit = f"--unit={SERVICE}" if self.user == "root" else f"_SYSTEMD_USER_UNIT={SERVICE}"
        lines = self.machine.run("journalctl", "--output=json", unit, *arguments).stdout
        return [json.loads(line) for line in lines.splitlines()]

    def messages(self, *arguments: str) -> list[str]:
        """Return the texts of the service's entries of the journal."""
        return [str(entry.get("MESSAGE", "")) for entry in self.journal(*arguments)]

    def put(self, path: str, text: str, *, user: str = "root") -> None:
        """Write a file of the machine in place, as `cat` does."""
        self.machine.run(
            *("sh", "-c", 'mkdir -p "${1%/*}" && cat >"$1"', "sh", path), stdin=text, user=user
        ).check()

    def declare(self, **ports: int) -> None:
        """Put backends into backends.toml, each with its port, in place of all others."""
        self.put(BACKENDS, declaration(**ports))

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition holds.

        Raises:
            AssertionError: If it does not come to hold.
        """
        wait_until(condition, what, PATIENCE_S)


def declaration(**ports: int) -> str:
    """Return text of backends.toml that declares backends, each with its port."""
    return "\n".join(
        f'[[backend]]\nname = "{name}"\nhost = "127.0.0.1"\nport = {port}\n'
        for name, port in ports.items()
    )
