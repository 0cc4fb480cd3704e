# SPDX-License-Identifier: AGPL-3.0-only
"""DNS servers that do not answer: a resolver that never comes back from asking for some names."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from plexus_registry.client import names
from support.timing import TIMEOUT_S

MUTE = ".example"
"""How the names end that nobody answers for."""

ASKED = "resolver was asked"
"""What a program of `muted` says on its standard error when it has asked for one of them."""

_MUTED = f"""
import os, socket, threading
known = socket.getaddrinfo
def ask(host, *given, **named):
    if not host.endswith({MUTE!r}):
        return known(host, *given, **named)
    if not named.get("flags", 0) & socket.AI_NUMERICHOST:
        os.write(2, {(ASKED + chr(10)).encode()!r})
        threading.Event().wait()
    raise socket.gaierror(socket.EAI_NONAME, "no address")
socket.getaddrinfo = ask
"""


def muted(program: str) -> tuple[str, ...]:
    """Return the command line of a Python program whose resolver hangs for such names."""
    return (sys.executable, "-c", _MUTED + program)


class Resolver:
    """The resolver of this process.

    Attributes:
        asked: The names that were looked up, numbers left out.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._release = threading.Event()
        self._known = socket.getaddrinfo

    def ask(self, host: str, port: int | None, *, flags: int = 0, **named: Any) -> Any:
        """Do as `socket.getaddrinfo` does, but for mute names."""
        if not flags & socket.AI_NUMERICHOST:
            self.asked.append(host)
            if host.endswith(MUTE):
                self._release.wait(4 * TIMEOUT_S)  # whoever waits in vain is to fail, not to hang
                host = "127.0.0.1"
        return self._known(host, port, flags=flags, **named)

    def give_up(self) -> None:
        """Have it come back from all mute names: they are 127.0.0.1."""
        self._release.set()


@contextlib.contextmanager
def mute_resolver() -> Iterator[Resolver]:
    """Put such a resolver into this process while the block runs."""
    resolver = Resolver()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolver.ask)
        try:
            yield resolver
        finally:
            resolver.give_up()
            join_look_ups()


def join_look_ups() -> None:
    """Wait for the threads that looked names up, which nobody else waits for."""
    for thread in threading.enumerate():
        if thread.name == names.THREAD_NAME:
            thread.join(TIMEOUT_S)
