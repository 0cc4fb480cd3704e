# SPDX-License-Identifier: AGPL-3.0-only
"""Cold start: the first client of an activated socket, against a Python that only imports."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench import servers, wire
from bench.results import Plan, Row, median, ratios, spread
from bench.system import SERVER_CORE

IMPORTS: Final = "import asyncio, websockets.server, sqlite3"
RATIO_MAX: Final = 2.0
SHOWN_MODULES: Final = 12
STARTS_PER_ROUND: Final = 4

_ACTIVATE: Final = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
_IMPORT_TIME = re.compile(r"^import time:\s+(\d+) \|\s+(\d+) \| ( *)(\S+)$", re.MULTILINE)


def measure_start(plan: Plan) -> Iterator[Row]:
    """Measure both starts in turn, then the imports."""
    folder = plan.folder / "start"
    config = folder / "config" / "backends.toml"
    config.parent.mkdir(parents=True)
    files = ["--db-path", str(folder / "registry.db"), "--config", str(config)]
    command = [*servers.REGISTRY, *files, *plan.options]
    _activated(command, folder)  # writes byte code, makes the database
    ours, bare = [], []
    for _ in range(plan.rounds * plan.sized(STARTS_PER_ROUND, 1)):
        ours.append(_activated(command, folder) * 1e3)
        bare.append(_import_only(folder) * 1e3)
    each = ratios(ours, bare)
    yield Row(
        key="start.activated",
        what="cold start by socket activation, connect to first answer",
        figure=f"{median(ours):.0f} ms {spread(ours)};"
        f" python -c '{IMPORTS}' {median(bare):.0f} ms {spread(bare)}",
        bar=f"≤ {RATIO_MAX:.0f} × that",
        ratio=f"{median(each):.2f}×",
        margins=[RATIO_MAX / ratio for ratio in each],
        answers=len(ours) + 1,
        samples={"ours, ms": ours, "imports only, ms": bare},
    )
    yield _import_row(folder)


def _activated(command: Sequence[str], folder: Path) -> float:
    """Return how long the first client of a registry that is not running waits."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with contextlib.closing(socket.create_connection(listener.getsockname())) as sock:
            sock.settimeout(wire.TIMEOUT_S)
            sock.sendall(wire.HANDSHAKE)
            start = time.perf_counter()
            pid = _spawn(["/bin/sh", "-c", _ACTIVATE, "sh", *command], folder, listener.fileno())
            wire.read_head(sock)
            wire.ask(sock, wire.call("get", name="plexus"))
            took = time.perf_counter() - start
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        return took


def _import_only(folder: Path) -> float:
    start = time.perf_counter()
    command = ["/bin/sh", "-c", _ACTIVATE, "sh", sys.executable, "-c", IMPORTS]
    os.waitpid(_spawn(command, folder, 0), 0)
    return time.perf_counter() - start


def _spawn(command: Sequence[str], folder: Path, listener: int) -> int:
    """Start a program as systemd does: with *listener* as descriptor 3."""
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    pinned = ["taskset", "-c", str(SERVER_CORE), *command]
    try:
        return os.posix_spawnp(
            pinned[0],
            pinned,
            {**servers.environment(folder), "PYTHONPATH": str(servers.ROOT)},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, log, 2),
                (os.POSIX_SPAWN_DUP2, listener, 3),
            ],
        )
    finally:
        os.close(log)


def _import_row(folder: Path) -> Row:
    """Say which modules of the start take longest, each with what it alone imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import plexus_registry.service.daemon"],
        env=servers.environment(folder),
        cwd=servers.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = [(int(own), name) for own, _, _, name in _IMPORT_TIME.findall(done.stderr)]
    slowest = sorted(found, reverse=True)[:SHOWN_MODULES]
    return Row(
        key="start.imports",
        what="imports of the start, slowest by themselves",
        figure=f"{len(found)} modules, {sum(own for own, _ in found) / 1e3:.0f} ms: "
        + ", ".join(f"{name} {own / 1e3:.1f}" for own, name in slowest),
        answers=1,
        samples={name: [own / 1e3] for own, name in slowest},
    )
