# SPDX-License-Identifier: AGPL-3.0-only
"""Calls of a running daemon that fail, by strace."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from support.daemon import Daemon
from support.timing import TIMEOUT_S


@contextlib.contextmanager
def failing(
    running: Daemon, calls: str, error: str, *, when: str = "1+", on: Sequence[Path] = ()
) -> Iterator[None]:
    """Let calls of a daemon fail while the block runs.

    Args:
        running: The daemon.
        calls: Names of system calls, separated by commas.
        error: With which error.
        when: Which of them, as strace has it: ``1+`` all, ``1+3`` the first and each third after.
        on: Only those that are about one of these files.
    """
    argv = ["strace", "-f", "-o", "/dev/null", "-p", str(running.process.pid)]
    argv += ["-e", f"trace={calls}", "-e", f"inject={calls}:error={error}:when={when}"]
    for path in on:
        argv += ["-P", str(path)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        said = strace.stderr.readline()
        assert "attached" in said, said
        try:
            yield
        finally:
            strace.send_signal(signal.SIGINT)  # it lets go of the daemon
            strace.communicate(timeout=TIMEOUT_S)
