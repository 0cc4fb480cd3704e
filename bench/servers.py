# SPDX-License-Identifier: AGPL-3.0-only
"""The servers that are measured, each a child process on the core of the servers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from bench import wire
from bench.system import SERVER_CORE

ROOT: Final = Path(__file__).parent.parent
CACHE: Final = ROOT / ".cache" / "bench"
REGISTRY: Final = (sys.executable, "-m", "plexus_registry")
START_TIMEOUT_S: Final = 60.0

_LISTENING = re.compile(r"listening address=\S+:(\d+)")


class NotAvailable(Exception):
    """A server that cannot be had here; the text says why."""


class Child:
    """A running server.

    Attributes:
        pid: Of its process.
        port: Where it listens, 0 until that is known.
        log: The file of its standard error.
    """

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.pid = process.pid
        self.port = 0
        self.log = log
        self._process = process

    def wait_until(self, get_port: Callable[[], int]) -> None:
        """Wait until *get_port* returns where it listens."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (port := get_port()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ChildProcessError(f"the server did not start: {self.log.read_text()}")
            time.sleep(0.002)
        self.port = port

    def first_line(self) -> str:
        """Return the first line of its standard output."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def logged_port(self) -> int:
        """Return the port that the registry says it listens on, or 0."""
        found = _LISTENING.search(self.log.read_text("utf-8"))
        return int(found[1]) if found else 0

    def stop(self) -> None:
        """Ask it to stop and wait until it has."""
        self._process.terminate()
        try:
            self._process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()


def environment(home: Path) -> dict[str, str]:
    """Return an environment in which no setting of the caller's can leak in."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("REGISTRY_", "XDG_", "RUST_", "LISTEN_", "PYTHON"))
        and name not in ("STATE_DIRECTORY", "CONFIGURATION_DIRECTORY", "NOTIFY_SOCKET")
    }
    return {**inherited, "HOME": str(home)}


@contextlib.contextmanager
def child(folder: Path, command: Sequence[str]) -> Iterator[Child]:
    """Run a server while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            ["taskset", "-c", str(SERVER_CORE), *command],
            env=environment(folder),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        running = Child(process, log)
        try:
            yield running
        finally:
            running.stop()


@contextlib.contextmanager
def registry(
    folder: Path, *arguments: str, program: Sequence[str] = REGISTRY, config: Path | None = None
) -> Iterator[Child]:
    """Run this registry on a free port, with its database ``registry.db`` in *folder*.

    The configuration is in a folder of its own, as it is by default.
    """
    files = ["--db-path", str(folder / "registry.db")]
    files += ["--config", str(config or folder / "config" / "backends.toml")]
    own = ["--port", "0", "--auto-register", "none", "--max-entries", "1000000", *files, *arguments]
    with child(folder, [*program, *own]) as running:
        running.wait_until(running.logged_port)
        yield running


@contextlib.contextmanager
def script(folder: Path, name: str, *arguments: str) -> Iterator[Child]:
    """Run one of the responders of this package, which print their port."""
    with child(folder, [sys.executable, "-m", f"bench.{name}", *arguments]) as running:
        running.wait_until(lambda: int(running.first_line() or 0))
        yield running


@contextlib.contextmanager
def bare(folder: Path, answer: Sequence[bytes]) -> Iterator[Child]:
    """Run the bare responder with messages as large as those of *answer*."""
    with script(folder, "bare", *(str(len(message)) for message in answer)) as running:
        yield running


@contextlib.contextmanager
def plain(folder: Path, answer: Sequence[bytes]) -> Iterator[Child]:
    """Run the plain responder, which answers as in *answer*."""
    texts = [message.decode() for message in answer]
    with script(folder, "plain", json.dumps(texts)) as running:
        yield running


@contextlib.contextmanager
def rust(folder: Path, program: Path) -> Iterator[Child]:
    """Run the Rust program of the same name, with its database ``registry.db`` in *folder*."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    files = ["--db-path", str(folder / "registry.db"), "--config", str(folder / "backends.toml")]
    command = [str(program), "--host", "127.0.0.1", "--port", str(port), *files]
    with child(folder, command) as running:
        running.wait_until(lambda: _port_that_answers(port))
        yield running


def _port_that_answers(port: int) -> int:
    try:
        wire.connect(port).close()
    except OSError:
        return 0
    return port


def rust_program(*, install: bool) -> Path:
    """Return the Rust program of the same name.

    Args:
        install: Have cargo build it if it is not there yet.

    Raises:
        NotAvailable: If it is not there.
    """
    named = os.environ.get("PLEXUS_BENCH_RUST", "")
    program = Path(named) if named else CACHE / "rust" / "bin" / "plexus-registry"
    if program.is_file():
        return program.absolute()
    if named:
        raise NotAvailable(f"PLEXUS_BENCH_RUST names no file: {named}")
    if not install:
        raise NotAvailable("the Rust program is not built; --rust builds it with cargo")
    if shutil.which("cargo") is None:
        raise NotAvailable("the Rust program needs cargo, which is not installed")
    command = ["cargo", "install", "--locked", "plexus-registry", "--root", str(CACHE / "rust")]
    if subprocess.run(command, check=False).returncode != 0:
        raise NotAvailable("cargo could not build the Rust program, see above")
    return program
