# SPDX-License-Identifier: AGPL-3.0-only
"""The daemon as a child process, as a user would start it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from support.timing import TIMEOUT_S, wait_until

_LISTENING = re.compile(r"listening address=(\S+)")


class Daemon:
    """A running daemon.

    Attributes:
        log: The lines of its standard error so far.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, name="daemon-log")
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.rstrip("\n"))

    @property
    def url(self) -> str:
        """Where it listens; waits until it does."""
        wait_until(lambda: self._address() or self.process.poll() is not None, "a listening line")
        address = self._address()
        assert address is not None, "\n".join(self.log)
        return f"ws://{address}"

    def _address(self) -> str | None:
        found = (_LISTENING.search(line) for line in list(self.log))
        return next((match[1].split(",")[0] for match in found if match), None)

    def wait_for_log(self, text: str) -> None:
        """Wait until a line of the log holds *text*."""
        wait_until(lambda: any(text in line for line in list(self.log)), f"log line: {text}")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end and return its exit status (negative: the signal that ended it)."""
        status = self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        return status

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        self.send(number)
        return self.wait()


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Return an environment in which no setting of the test's own run can leak in."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("REGISTRY_", "PLEXUS_REGISTRY_", "XDG_", "RUST_", "LISTEN_"))
        and name not in ("STATE_DIRECTORY", "CONFIGURATION_DIRECTORY", "CREDENTIALS_DIRECTORY")
        and name != "NOTIFY_SOCKET"
    }
    return {**inherited, "HOME": str(home), "PYTHONUNBUFFERED": "1", **variables}


PROGRAM = (sys.executable, "-m", "plexus_registry")
"""The daemon under the Python that runs the tests."""

BOUND_BY_MODES = (
    sys.executable,
    "-c",
    "import ctypes, os, sys\n"
    "PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2\n"
    "for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):\n"
    "    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n",
    *PROGRAM,
)
"""The same, bound by the modes of files even if root runs the tests."""


def command(*arguments: str) -> list[str]:
    """Return the command line of the daemon under the Python that runs the tests."""
    return [*PROGRAM, *arguments]


def run(
    home: Path,
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    program: Sequence[str] = PROGRAM,
    text: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run the program, which is expected to come to its end; *text* is its input."""
    return subprocess.run(
        [*program, *arguments],
        env=dict(environ) if environ is not None else environment(home),
        cwd=home,
        input=text,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        check=False,
    )


@contextlib.contextmanager
def daemon(
    home: Path,
    arguments: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    *,
    program: Sequence[str] = PROGRAM,
    pass_fds: Sequence[int] = (),
) -> Iterator[Daemon]:
    """Run the daemon on a free port while the block runs; kill it if it still runs then."""
    with subprocess.Popen(
        [*program, "--port", "0", *arguments],
        env=dict(environ) if environ is not None else environment(home),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        pass_fds=pass_fds,
    ) as process:
        running = Daemon(process)
        try:
            yield running
        finally:
            if process.poll() is None:
                process.kill()
            running.wait()
