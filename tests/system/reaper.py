# SPDX-License-Identifier: AGPL-3.0-only
"""Ends machines, also when the process that booted them was killed.

Run as a program, beside each machine, it waits for the end of its standard input, which the
process that booted the machine holds, and then ends the machine:
``reaper.py PID-OF-NSPAWN [CGROUP]``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path


def processes() -> Iterator[tuple[int, int, int]]:
    """Go over this host's processes: PID, parent, session."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # pid (name) state ppid pgrp session ...; a name may hold anything
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            yield int(entry.name), int(fields[1]), int(fields[3])


def pull(nspawn: int) -> None:
    """Kill a machine: its PID 1, the child of nspawn, takes every process of it along.

    Killing nspawn would not do: its child survives it.
    """
    for pid, parent, _ in processes():
        if parent == nspawn:
            _kill(pid)


def kill_session(leader: int) -> None:
    """Kill all processes of a session but its leader, which has to reap them.

    An orphan of nsenter would become a zombie of the host's init inside the PID namespace of the
    machine, for which the machine's shutdown waits.
    """
    pull(leader)
    for pid, _, session in processes():
        if session == leader and pid != leader:
            _kill(pid)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def cgroup_mounts() -> Iterator[Path]:
    """Go over where cgroup v2 is mounted, then v1's name=systemd: nspawn uses both."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    yield from (Path(where) for _, where, kind, *_ in mounts if kind == "cgroup2")
    for _, where, kind, options, *_ in mounts:
        if kind == "cgroup" and "name=systemd" in options.split(","):
            yield Path(where)


def remove_cgroup(name: str, patience_s: float) -> None:
    """Remove the cgroup *name* and those in it, as soon as their last processes are gone.

    Args:
        name: Below the root.
        patience_s: How long the last process may take on its way out.
    """
    deadline = time.monotonic() + patience_s
    for mount in cgroup_mounts():
        for inner, _, _ in os.walk(mount / name, topdown=False):
            while not _is_removed(Path(inner)) and time.monotonic() < deadline:
                time.sleep(0.02)


def _is_removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def main(nspawn: str, cgroup: str = "") -> None:
    """Wait for the end of standard input, then end the machine."""
    sys.stdin.buffer.read()
    pull(int(nspawn))
    if cgroup:
        remove_cgroup(cgroup, patience_s=10)


if __name__ == "__main__":
    main(*sys.argv[1:])
