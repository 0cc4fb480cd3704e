# SPDX-License-Identifier: AGPL-3.0-only
"""What systemd says of the registry's units, for ``plexus-registryctl doctor``."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from plexus_registry.cli.findings import Finding, note, ok, problem

SERVICE, SOCKET = "plexus-registry.service", "plexus-registry.socket"
BOOTED = Path("/run/systemd/system")
"""Is there where systemd runs the machine, see sd_booted(3)."""
TIMEOUT_S = 10.0

_RELOAD = "systemctl daemon-reload"
_VERIFY = f"systemd-analyze verify {{}} tells what is wrong; mend it, then {_RELOAD}"
# By LoadState, see org.freedesktop.systemd1(5): what is so, and what to do. Others can be started.
_NOT_LOADED = {
    "masked": ("is masked", "systemctl unmask {}"),
    "bad-setting": ("has a fault in its file", _VERIFY),
    "error": ("cannot be loaded", _VERIFY),
    "not-found": ("is not there", f"{_RELOAD} if its file is, else install the package again"),
}
_LISTENS = re.compile(r"^Listen=.*:(\d+) \(Stream\)$", re.MULTILINE)


def units() -> Iterator[Finding]:
    """Look at the units of the system."""
    if not BOOTED.is_dir():
        yield note("this host was not booted with systemd")
        return
    yield from judge(unit(SERVICE), unit(SOCKET))


def judge(service: Mapping[str, str], socket: Mapping[str, str]) -> Iterator[Finding]:
    """Say what is wrong with two units that have these properties."""
    loads = {SERVICE: service.get("LoadState"), SOCKET: socket.get("LoadState")}
    if None in loads.values():
        yield note("systemctl does not tell how the units are", f"systemctl status {SOCKET}")
        return
    faulty = [name for name, state in loads.items() if state in _NOT_LOADED]
    states = [loads[name] for name in faulty]
    used = _used(service, socket)
    if states == ["not-found", "not-found"] and "active" not in used:
        yield note(f"the system has no {SERVICE}")
        return
    for name, state in zip(faulty, states, strict=True):
        words, remedy = _NOT_LOADED[state or ""]
        # Whoever masks what is not to run means it.
        say = note if state == "masked" and not used else problem
        yield say(f"{name} {words}{used and f', and {used}'}", remedy.format(name))
    if not faulty:
        yield from _activity(service, socket)


def _used(service: Mapping[str, str], socket: Mapping[str, str]) -> str:
    """Say which of two units runs, has tried to, or will at the next boot; empty for none.

    A socket fails as soon as somebody connects and its service cannot be started.
    """
    for name, found in ((SOCKET, socket), (SERVICE, service)):
        for state in (found.get("ActiveState"), found.get("UnitFileState")):
            if state in ("active", "activating", "failed", "enabled"):
                return f"{name} is {state}"
    return ""


def _activity(service: Mapping[str, str], socket: Mapping[str, str]) -> Iterator[Finding]:
    """Say whether units that can be started are."""
    if service.get("ActiveState") == "failed":
        remedy = "journalctl -u plexus-registry -p warning -n 5 tells why"
        yield problem(f"{SERVICE} has failed", remedy)
    if socket.get("ActiveState") != "active":
        remedy = f"systemctl enable --now {SOCKET}"
        if service.get("ActiveState") == "active":
            yield problem(f"{SERVICE} runs without its socket unit", remedy)
        else:
            yield problem(f"{SOCKET} is {socket.get('ActiveState', 'unknown')}", remedy)
    elif socket.get("UnitFileState") not in ("enabled", "static", "generated"):
        yield note(f"{SOCKET} does not start at boot", f"systemctl enable {SOCKET}")
    else:
        yield ok(f"{SERVICE} is {service.get('ActiveState')}, {SOCKET} is active")


def unit(name: str) -> dict[str, str]:
    """Return the properties of a unit; none if systemctl cannot tell."""
    told = _show("LoadState,ActiveState,UnitFileState", name)
    return dict(line.split("=", 1) for line in told.splitlines() if "=" in line)


def port(*, of_user: bool) -> int | None:
    """Return the TCP port that the socket unit of the user or the system listens on."""
    return port_in(_show("Listen", SOCKET, *(["--user"] if of_user else [])))


def port_in(listens: str) -> int | None:
    """Find the first TCP port in what systemctl shows as Listen=; None if there is none."""
    found = _LISTENS.search(listens)
    return int(found[1]) if found else None


def how_to_start() -> str:
    """Say how to start the registry that was not found where it was looked for."""
    socket = unit(SOCKET) if BOOTED.is_dir() else {}
    if socket.get("LoadState") != "loaded":
        return "start it with plexus-registry, or name another by --url"
    if socket.get("ActiveState") == "active":
        return f"{SOCKET} is active and listens elsewhere: systemctl cat {SOCKET} shows where"
    return f"systemctl start {SOCKET}, then journalctl -u plexus-registry -p warning -n 5"


def _show(properties: str, *arguments: str) -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(  # noqa: S603
            ["systemctl", "show", f"--property={properties}", *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        ).stdout
    return ""
