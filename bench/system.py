# SPDX-License-Identifier: AGPL-3.0-only
"""What Linux tells about processes, sockets and the machine, and how cores are dealt out."""

from __future__ import annotations

import os
import platform
import re
import resource
import socket
import sqlite3
import struct
import time
from pathlib import Path
from typing import Final

import msgspec
import websockets.version

TCP_INFO_DATA_SEGS_IN: Final = 152
"""Offset of ``tcpi_data_segs_in`` in ``struct tcp_info``, linux/tcp.h."""

_cores = sorted(os.sched_getaffinity(0))
SERVER_CORE: Final = _cores[0]
CLIENT_CORE: Final = _cores[-1]


def use_client_core() -> None:
    """Keep this process, the generator, off the core of the servers."""
    os.sched_setaffinity(0, {CLIENT_CORE})


def raise_descriptor_limit() -> int:
    """Allow as many open files as permitted, here and in children; return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def memory_kib(pid: int) -> tuple[int, int]:
    """Return a process's resident and proportional set size (proc_pid_smaps(5))."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE))
    return int(sizes["Rss"]), int(sizes["Pss"])


def cpu_s(pid: int) -> float:
    """Return how long the threads of a process ran (/proc/PID/schedstat, in nanoseconds)."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text("ascii").split()[0]) for thread in threads) / 1e9


def descriptors(pid: int) -> int:
    """Return how many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    """Return how many threads a process has."""
    return len(os.listdir(f"/proc/{pid}/task"))


def data_segments_received(sock: socket.socket) -> int:
    """Return how many TCP segments with data came in (tcp(7), ``TCP_INFO``)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_DATA_SEGS_IN + 4)
    (count,) = struct.unpack_from("I", info, TCP_INFO_DATA_SEGS_IN)
    return int(count)


def flushes_per_s(folder: Path, seconds: float) -> float:
    """Return how often a second the disk under *folder* makes 4 KiB durable."""
    path = folder / "flush"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    count, start = 0, time.perf_counter()
    try:
        while time.perf_counter() < start + seconds:
            os.pwrite(fd, b"x" * 4096, count % 1000 * 4096)
            os.fdatasync(fd)
            count += 1
    finally:
        os.close(fd)
        path.unlink()
    return count / (time.perf_counter() - start)


def describe(folder: Path, seconds: float) -> dict[str, str]:
    """Describe the machine in words."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    pinned = f"servers on {SERVER_CORE}, generator on {CLIENT_CORE}"
    return {
        "processor": cpu[1] if cpu else platform.machine(),
        "cores": f"{len(_cores)}; {pinned}",
        "load": f"{os.getloadavg()[0]:.2f} before the run",
        "kernel": f"Linux {platform.release()}",
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        "websockets": websockets.version.version,
        "msgspec": msgspec.__version__,
        "disk": f"{flushes_per_s(folder, seconds):,.0f} flushes of 4 KiB a second",
    }
