# SPDX-License-Identifier: AGPL-3.0-only
"""Socket activation as systemd does it: listening sockets become a child's descriptors from 3."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from support.daemon import PROGRAM
from support.timing import TIMEOUT_S

_LAUNCHER = """
import fcntl, os, sys
given = [int(text) for text in sys.argv[1].split(",") if text]
moved = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 100) for one in given]
for index, descriptor in enumerate(moved):
    os.dup2(descriptor, 3 + index)
os.closerange(3 + len(moved), 100)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.environ.setdefault("LISTEN_FDS", str(len(moved)))
os.execv(sys.argv[2], sys.argv[2:])
"""


def activated(descriptors: Sequence[int], program: Sequence[str] = PROGRAM) -> tuple[str, ...]:
    """Return a command line that runs *program* with *descriptors* as 3, 4 and so on.

    The process needs them as its ``pass_fds``. ``LISTEN_PID`` and ``LISTEN_FDS`` are right unless
    they are in its environment already.
    """
    numbers = ",".join(map(str, descriptors))
    return (sys.executable, "-I", "-S", "-c", _LAUNCHER, numbers, *program)


def listener(kind: str, folder: Path, number: int = 0) -> socket.socket:
    """Return a listening socket: ``v4`` and ``v6`` on a free port, ``unix`` in *folder*."""
    if kind == "v4":
        return socket.create_server(("127.0.0.1", 0))
    if kind == "v6":
        return socket.create_server(("::1", 0), family=socket.AF_INET6)
    assert kind == "unix"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(folder / f"{number}.sock"))
    sock.listen()
    return sock


@contextlib.contextmanager
def listeners(kinds: Sequence[str], folder: Path) -> Iterator[list[socket.socket]]:
    """Listen on sockets of these kinds while the block runs, as systemd does."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(listener(kind, folder, number)) for number, kind in enumerate(kinds)
        ]


@contextlib.contextmanager
def connected_to(listening: socket.socket) -> Iterator[socket.socket]:
    """Connect to a listening socket of any family."""
    with socket.socket(listening.family) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.connect(listening.getsockname())
        yield sock
