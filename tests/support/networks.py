# SPDX-License-Identifier: AGPL-3.0-only
"""A second host, as far as the network goes: a namespace of its own on the end of a cable."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future

from support.timing import TIMEOUT_S

HERE = "198.18.27.1"
"""Our end; the block is for tests of network devices (RFC 2544)."""
THERE = "198.18.27.2"
"""The other host's end."""

_CLONE_NEWNET = 0x40000000


def why_no_second_host() -> str:
    """Return why there can be no second host here; empty if there can."""
    if os.geteuid() != 0:
        return "a network namespace needs root"
    if shutil.which("ip") is None:
        return "a network namespace needs the program ip (package iproute2)"
    # Root of a container, or of fakeroot, may not be enough.
    name = f"plexus-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
    return f"a network namespace cannot be made: {made.stderr.strip()}" if made.returncode else ""


@contextlib.contextmanager
def second_host() -> Iterator[str]:
    """Connect a second host to this one while the block runs, and return its name."""
    name = f"plexus-{os.getpid()}"
    cable = f"px{os.getpid()}"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("address", "add", f"{HERE}/30", "dev", cable)
        _ip("link", "set", cable, "up")
        _ip("-n", name, "address", "add", f"{THERE}/30", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        yield name
    finally:
        # The cable goes with its other end, when the kernel gets to it: not to wait for that.
        subprocess.run(["ip", "link", "delete", cable], check=False, capture_output=True)
        _ip("netns", "delete", name)


def connected_from(host: str, port: int) -> socket.socket:
    """Connect to a port of this host from the second one."""
    made: Future[socket.socket] = Future()

    def connect() -> None:
        # A thread has a namespace of its own, and a socket stays in the one where it was made.
        try:
            with open(f"/run/netns/{host}") as namespace:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.set_result(socket.create_connection((HERE, port), TIMEOUT_S))
        except BaseException as error:
            made.set_exception(error)

    thread = threading.Thread(target=connect, name="second-host")
    thread.start()
    thread.join()
    return made.result()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=TIMEOUT_S)
