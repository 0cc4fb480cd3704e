# SPDX-License-Identifier: AGPL-3.0-only
"""A disposable Debian machine that really boots, from a tree, by systemd-nspawn, without a network.

Commands run in it by nsenter. A reboot keeps the tree. It ends with the process that booted it:
each machine has a reaper that waits for that.
"""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from support.timing import SCALE
from system import host, reaper
from system.base import HOSTNAME
from system.command import CGROUP2, Cgroup, Result, Running, cgroup_of, environment, inside, nspawn

SYSTEMD = "systemd"
BOOT_TIMEOUT_S = 60.0 * SCALE


class Machine:
    """A tree that is booted while the block runs.

    Args:
        root: The tree.
        console: Where what it writes on its console goes.
        init: `SYSTEMD`, or the program that is to be PID 1: /sbin/init of SysV, with or without
            OpenRC.

    Attributes:
        boot_s: How long the last boot took.
    """

    def __init__(self, root: Path, console: Path, *, init: str = SYSTEMD) -> None:
        self.root = root
        self.boot_s = 0.0
        self._console = console
        self._init = init
        self._process: subprocess.Popen[bytes] | None = None
        self._reaper: subprocess.Popen[bytes] | None = None
        self._cgroup: Cgroup | None = None
        self._leader = 0
        self._is_up = False
        self._commands: list[Running] = []

    def __enter__(self) -> Self:
        self.boot()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def leader(self) -> int:
        """PID, on this host, of the machine's PID 1.

        Raises:
            HostProblem: If the machine is not up.
        """
        if self._process is None or self._process.poll() is not None:
            raise host.HostProblem(f"the machine is not up:\n{self._console_tail()}")
        return self._leader

    # --- its life ---------------------------------------------------------------------------------

    def boot(self) -> None:
        """Boot, and wait until it is up.

        Raises:
            HostProblem: If it does not come up.
        """
        assert self._process is None, "it is booted already"
        began = time.monotonic()
        # nspawn reports its leader and, with --notify-ready, the end of systemd's boot. --boot
        # would prefer systemd to /sbin/init wherever it is installed.
        program = ["--boot", "--notify-ready=yes"] if self._is_systemd else ["--", self._init]
        name = f"machine-{secrets.token_hex(8)}"
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        with socket.socket(socket.AF_UNIX, kind) as notify, self._console.open("ab") as console:
            notify.bind(f"\0{name}")
            notify.settimeout(0.2)
            self._cgroup = Cgroup()
            try:
                self._process = subprocess.Popen(
                    [
                        *self._cgroup.enter(),
                        *nspawn(self.root, f"--hostname={HOSTNAME}", *program),
                    ],
                    env=environment({**CGROUP2, "NOTIFY_SOCKET": f"@{name}"}),
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                )
                self._reaper = subprocess.Popen(
                    [
                        *(sys.executable, "-I", reaper.__file__),
                        *(str(self._process.pid), self._cgroup.name),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environment(),
                    start_new_session=True,
                )
                while not self._hears_ready(notify) or not self._has_runlevel():
                    self._check_boot(began)
            except BaseException:
                self.kill()
                raise
        self.boot_s = time.monotonic() - began

    @property
    def _is_systemd(self) -> bool:
        return self._init == SYSTEMD

    def _check_boot(self, began: float) -> None:
        assert self._process is not None
        ended = self._process.poll()
        if ended is not None:
            raise host.HostProblem(f"systemd-nspawn ended ({ended}):\n{self._console_tail()}")
        if time.monotonic() > began + BOOT_TIMEOUT_S:
            raise host.HostProblem(f"the machine did not boot in time:\n{self._console_tail()}")

    def _hears_ready(self, notify: socket.socket) -> bool:
        """Take what nspawn reports; tell whether it has reported that the machine is up."""
        try:
            lines = notify.recv(4096).decode(errors="replace").splitlines()
        except TimeoutError:
            return self._is_up
        for line in lines:
            name, _, value = line.partition("=")
            if name == "X_NSPAWN_LEADER_PID":
                self._leader = int(value)
            self._is_up = self._is_up or line == "READY=1"
        return self._is_up and self._leader != 0

    def _has_runlevel(self) -> bool:
        """Tell whether SysV init has come to the end of its boot."""
        return self._is_systemd or self.run("runlevel").stdout.startswith("N ")

    def _console_tail(self) -> str:
        text = self._console.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-30:])

    def poweroff(self) -> None:
        """Shut down in order.

        Raises:
            subprocess.TimeoutExpired: If it does not go down; it is killed then.
        """
        if self._process is not None:
            down = "systemctl --no-block poweroff" if self._is_systemd else "shutdown -h now"
            self.run(*down.split())
            try:
                self._process.wait(BOOT_TIMEOUT_S)
            finally:
                self.kill()

    def reboot(self) -> None:
        """Shut down in order and boot the same tree again."""
        self.poweroff()
        self.boot()

    def kill(self) -> None:
        """End it as if the plug were pulled."""
        while self._commands:
            self._commands.pop().close()
        process, self._process = self._process, None
        if process is not None:
            reaper.pull(process.pid)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        watching, self._reaper = self._reaper, None
        if watching is not None:
            watching.kill()
            watching.communicate()
        cgroup, self._cgroup = self._cgroup, None
        if cgroup is not None:
            cgroup.remove()
        self._leader = 0
        self._is_up = False

    # --- commands ---------------------------------------------------------------------------------

    def start(
        self, *argv: str, user: str = "root", environ: Mapping[str, str] | None = None
    ) -> Running:
        """Start a command in the machine."""
        variables = environment(environ)
        prefix: list[str] = []
        if user != "root":
            uid, home = self.account(user)
            prefix = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
            variables |= {
                "HOME": home,
                "USER": user,
                "LOGNAME": user,
                "XDG_RUNTIME_DIR": f"/run/user/{uid}",
                "DBUS_SESSION_BUS_ADDRESS": f"unix:path=/run/user/{uid}/bus",
                **(environ or {}),
            }
        leader = self.leader
        # systemd there refuses to deal with a process that is in none of its own cgroups.
        full = [
            *inside(cgroup_of(leader)),
            *("nsenter", f"--target={leader}", "--all", "--root", "--wdns=/", "--"),
            *prefix,
            *argv,
        ]
        command = Running(full, argv, variables)
        self._commands.append(command)
        return command

    def run(
        self,
        *argv: str,
        user: str = "root",
        stdin: str = "",
        environ: Mapping[str, str] | None = None,
        timeout_s: float = 60,
    ) -> Result:
        """Run a command in the machine; what its status means is the caller's business."""
        return self.start(*argv, user=user, environ=environ).finish(stdin, timeout_s)

    def sh(self, script: str, *, user: str = "root", timeout_s: float = 60) -> Result:
        """Run a shell script in the machine."""
        return self.run("sh", "-c", script, user=user, timeout_s=timeout_s)

    def account(self, user: str) -> tuple[int, str]:
        """Return the number and the home of a user.

        Raises:
            KeyError: If the machine has no such user.
        """
        for line in (self.root / "etc/passwd").read_text(encoding="utf-8").splitlines():
            name, _, uid, _, _, home, _ = line.split(":")
            if name == user:
                return int(uid), home
        raise KeyError(user)


class Boot(Protocol):
    """Boots a machine from roots, topmost first, while the block runs."""

    def __call__(self, *below: Path, init: str = SYSTEMD) -> AbstractContextManager[Machine]:
        """Return the machine, to be entered; *init* as for `Machine`."""
