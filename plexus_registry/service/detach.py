# SPDX-License-Identifier: AGPL-3.0-only
"""A daemon of the old style, for hosts whose init is not systemd (daemon(7), SysV daemons).

python-daemon does the detaching. What it leaves open is here: a parent that exits when the daemon
is ready and with its status, and a PID file that means something after a SIGKILL, because a lock
stands behind it and not its existence.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import daemon

from plexus_registry.errors import AlreadyRunning, ConfigError, Fault

UMASK = 0o027
"""python-daemon would set 0, with which everyone could write what the daemon creates."""

_STATUS_DIGITS = 3


class Report:
    """The daemon's one message to the process that started it.

    Args:
        descriptor: Write end of a pipe.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def send(self, status: int, text: str = "") -> None:
        """Let the starting process print *text* and exit with *status*. Only the first counts."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as pipe:
                pipe.write(f"{status:{_STATUS_DIGITS}}{text}")


class PidFile:
    """A file with the daemon's process ID, locked as long as the daemon runs.

    Args:
        path: Absolute.

    Raises:
        AlreadyRunning: If another process holds it.
        ConfigError: If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        _fill_standard_descriptors()
        self._path = path
        self.descriptor = self._lock()
        while not self._is_in_place():  # its last holder has just removed it
            os.close(self.descriptor)
            self.descriptor = self._lock()

    def _lock(self) -> int:
        path = self._path
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise _fault(path, f"cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise AlreadyRunning(f"{path}: the daemon runs already as process {holder}") from None
        return descriptor

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self.descriptor), os.lstat(self._path))
        except FileNotFoundError:
            return False

    def write(self) -> None:
        """Write this process's ID."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, b"%d\n" % os.getpid(), 0)

    def remove(self) -> None:
        """Remove the file, still locked: who comes now makes a new one."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


def _fill_standard_descriptors() -> None:
    """Open what is closed of the standard streams, before another file gets its descriptor.

    python-daemon wants all three, and replaces whatever has their descriptors.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def _fault(path: Path, message: str) -> ConfigError:
    return ConfigError([Fault(str(path), 0, message)])


def detached(pid_file: PidFile | None, run: Callable[[Report], int]) -> tuple[int, str]:
    """Run *run* in a process that is detached from terminal, session and working directory.

    Args:
        pid_file: Gets the daemon's process ID.
        run: Does the daemon's work and returns its exit status. It reports when it is ready, or
            why it cannot be.

    Returns:
        In the starting process: what was reported, status and text. The daemon never returns.
    """
    _fill_standard_descriptors()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = os.EX_SOFTWARE
        try:
            status = _run_detached(pid_file, run, writing)
        finally:
            os._exit(status)  # this is a copy of the starting process: none of its ends may run
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        message = pipe.read()
    os.waitpid(child, 0)
    if not message:
        return os.EX_SOFTWARE, "the daemon ended before it was ready; see the system log"
    return int(message[:_STATUS_DIGITS]), message[_STATUS_DIGITS:]


def _run_detached(pid_file: PidFile | None, run: Callable[[Report], int], writing: int) -> int:
    preserved = [writing, *([pid_file.descriptor] if pid_file else [])]
    context = daemon.DaemonContext(
        detach_process=True, files_preserve=preserved, signal_map={}, umask=UMASK
    )
    context.open()
    report = Report(writing)
    with _written(pid_file):
        status = run(report)
    report.send(status, "the daemon ended before it was ready; see the system log")
    return status


@contextlib.contextmanager
def _written(pid_file: PidFile | None) -> Iterator[None]:
    if pid_file is None:
        yield
        return
    pid_file.write()
    try:
        yield
    finally:
        pid_file.remove()
