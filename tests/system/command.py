# SPDX-License-Identifier: AGPL-3.0-only
"""Commands that end with the process that started them, and what systemd-nspawn needs around it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from support.timing import SCALE
from system import reaper
from system.host import PATH, HostProblem, is_managed

DIES_WITH_PARENT = ("setpriv", "--pdeathsig=KILL", "--")
"""Put before a program, it is killed when the process that started it ends."""

CGROUP2 = {"UNIFIED_CGROUP_HIERARCHY": "1"}
"""cgroup v2 alone, as Debian 13 boots everywhere, also on a host that still mounts v1."""


class CommandFailed(Exception):
    """A command that had to succeed did not; the message has all that it printed."""


@dataclass(frozen=True)
class Result:
    """What a command did.

    Attributes:
        status: As in a shell; -N if signal N killed it.
    """

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str
    seconds: float

    def __str__(self) -> str:
        parts = [f"$ {shlex.join(self.argv)}", f"exit status {self.status}"]
        parts += [text.rstrip() for text in (self.stdout, self.stderr) if text.strip()]
        return "\n".join(parts)

    def check(self) -> Self:
        """Return this result of a command that succeeded.

        Raises:
            CommandFailed: If it did not.
        """
        if self.status != 0:
            raise CommandFailed(str(self))
        return self


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return root's environment, without anything of this process's own."""
    return {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
        "DEBIAN_FRONTEND": "noninteractive",
        **(extra or {}),
    }


class Running:
    """A command that runs.

    Args:
        argv: The full command line.
        shown: What of it is worth showing.
        environ: Its whole environment.
    """

    def __init__(
        self, argv: Sequence[str], shown: Sequence[str], environ: Mapping[str, str]
    ) -> None:
        self._shown = tuple(shown)
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            [*DIES_WITH_PARENT, *argv],
            env=dict(environ),
            text=True,
            errors="replace",
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def finish(self, stdin: str = "", timeout_s: float = 60) -> Result:
        """Give it its standard input, to the end, and wait until it ends; late, it is killed.

        Args:
            stdin: What it is given.
            timeout_s: How long it may take, on a machine that is not slow (`SCALE`).
        """
        timeout_s *= SCALE
        status = None
        try:
            out, err = self._process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            out, err = self._kill()
            status, err = -signal.SIGKILL, f"{err}\nkilled after {timeout_s:g} s"
        except BaseException:
            self.close()
            raise
        seconds = time.monotonic() - self._began
        return Result(self._shown, status or self._process.returncode, out, err, seconds)

    def close(self) -> None:
        """End it, if it still runs, with all that it started."""
        if self._process.returncode is None:
            self._kill()

    def _kill(self) -> tuple[str, str]:
        reaper.kill_session(self._process.pid)
        try:
            return self._process.communicate(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.communicate()


def run(
    argv: Sequence[str],
    *,
    environ: Mapping[str, str],
    shown: Sequence[str] = (),
    stdin: str = "",
    timeout_s: float = 60,
) -> Result:
    """Run a command to its end."""
    return Running(argv, shown or argv, environ).finish(stdin, timeout_s)


class Cgroup:
    """A cgroup of its own for one nspawn on a host without systemd.

    There nspawn (``--keep-unit``) puts its machine into ``payload`` beside its own process, where
    a second machine would meet the first. On a host with systemd, nspawn asks that for a scope.

    Attributes:
        name: Below the root; empty if systemd runs the host.

    Raises:
        HostProblem: If cgroup v2 is not mounted.
    """

    def __init__(self) -> None:
        self.name = ""
        if is_managed():
            return
        root = cgroup2()
        for stale in root.glob("machine-*-*"):
            if not Path("/proc", stale.name.split("-")[1]).exists():
                reaper.remove_cgroup(stale.name, patience_s=0)
        self.name = f"machine-{os.getpid()}-{secrets.token_hex(4)}"
        (root / self.name).mkdir()

    def enter(self) -> list[str]:
        """Return what to put before a program that is to run in it."""
        return inside(cgroup2() / self.name) if self.name else []

    def remove(self) -> None:
        """Remove it once it is empty."""
        if self.name:
            reaper.remove_cgroup(self.name, patience_s=2)


def cgroup2() -> Path:
    """Return where cgroup v2 is mounted.

    Raises:
        HostProblem: If it is not.
    """
    for mount in reaper.cgroup_mounts():
        return mount
    raise HostProblem("no cgroup2 file system is mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup")


def cgroup_of(pid: int) -> Path:
    """Return the cgroup of a process.

    Raises:
        HostProblem: If it has none of version 2.
    """
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return cgroup2() / line.removeprefix("0::/")
    raise HostProblem(f"process {pid} is in no cgroup of version 2")


def inside(cgroup: Path) -> list[str]:
    """Return what to put before a program that is to run in the cgroup."""
    return ["sh", "-c", 'echo 0 >"$1" && shift && exec "$@"', "sh", str(cgroup / "cgroup.procs")]


def nspawn(root: Path, *options: str) -> list[str]:
    """Return a command line of systemd-nspawn that works with and without systemd on the host."""
    return [
        "systemd-nspawn",
        "--quiet",
        f"--directory={root}",
        f"--machine=m{secrets.token_hex(6)}",
        "--private-network",
        "--register=no",
        "--console=pipe",
        "--settings=no",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        # Without systemd on the host there is nobody to make a scope.
        *([] if is_managed() else ["--keep-unit"]),
        *options,
    ]


def in_tree(
    root: Path,
    argv: Sequence[str],
    *,
    user: str = "root",
    cwd: str = "/",
    environ: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout_s: float = 900,
) -> Result:
    """Run a command in a tree that is not booted: a build, an installation."""
    home = "/root" if user == "root" else f"/home/{user}"
    variables = environment({"HOME": home, "USER": user, "LOGNAME": user, **(environ or {})})
    settings = [f"--setenv={name}={value}" for name, value in variables.items()]
    full = nspawn(root, "--as-pid2", f"--user={user}", f"--chdir={cwd}", *settings, "--", *argv)
    cgroup = Cgroup()
    try:
        return run(
            [*cgroup.enter(), *full],
            environ=environment(CGROUP2),
            shown=argv,
            stdin=stdin,
            timeout_s=timeout_s,
        )
    finally:
        cgroup.remove()


@contextlib.contextmanager
def ended_on_error(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let a process clean up and end if the block fails."""
    try:
        yield
    except BaseException:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
