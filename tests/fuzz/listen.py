# SPDX-License-Identifier: AGPL-3.0-only
"""Variables by which systemd passes sockets, and descriptors that are and are not such sockets.

The first byte says which descriptors are there, two bits for each; the rest is variables, which
NUL bytes part. ``{pid}`` in them is the number of this process.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from unittest.mock import patch

from plexus_registry.errors import ConfigError
from plexus_registry.service import systemd
from plexus_registry.service.systemd import take_sockets
from support.faults import check_faults

VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
START = 700
"""In place of 3, which is not ours to give away here."""
KINDS = ("listening", "listening", "connected", "file")
PASSED_MAX = 4


def one_input(data: bytes) -> None:
    """Exactly the sockets that are meant for this process are taken, or the fault is named."""
    kinds = [KINDS[data[0] >> shift & 3] for shift in range(0, 8, 2)] if data else []
    environ = {"HOME": "/home/me"}
    for part in data[1:].split(b"\0"):
        name, _, value = os.fsdecode(part).partition("=")
        environ[name] = value.replace("{pid}", str(os.getpid()))
    kept = {name: value for name, value in environ.items() if name not in VARIABLES}
    expected = names_of(environ, kinds)
    with passed(kinds), patch.object(systemd, "LISTEN_FDS_START", START):
        try:
            taken = take_sockets(environ)
        except ConfigError as error:
            check_faults(error, {f"${name}": b"" for name in VARIABLES})
            assert expected is None
            assert environ == kept
            return
        assert environ == kept
        assert [one.name for one in taken] == expected
        for number, one in enumerate(taken):
            assert one.socket.fileno() == START + number
            assert not one.socket.get_inheritable()
            assert not one.socket.getblocking()
            one.socket.close()
        assert all(os.get_inheritable(START + at) for at in range(len(taken), len(kinds)))


def names_of(given: dict[str, str], kinds: list[str]) -> list[str] | None:
    """Return the names of the sockets that are passed, None if that cannot be."""
    pid, count, names = (given.get(name, "") for name in VARIABLES[:3])
    if not pid or not count:
        return []
    if not is_number(pid) or not is_number(count):
        return None
    if int(pid) != os.getpid():
        return []
    if not int(count) <= len(kinds) or set(kinds[: int(count)]) != {"listening"}:
        return None
    found = names.split(":") if names else ["unknown"] * int(count)
    return found if len(found) == int(count) else None


def is_number(text: str) -> bool:
    """Tell whether this is a number above zero of at most 64 bits, give or take a digit."""
    return text.isascii() and text.isdigit() and len(text) <= 20 and int(text) > 0


@contextmanager
def passed(kinds: list[str]) -> Iterator[None]:
    """Have inheritable descriptors of these kinds from `START` on, and none after them."""
    with ExitStack() as stack:
        for number, kind in enumerate(kinds):
            stack.callback(close_if_open, START + number)
            with ExitStack() as made:
                if kind == "file":
                    source: int = os.open(os.devnull, os.O_RDONLY)
                    made.callback(os.close, source)
                else:
                    sock = made.enter_context(socket.socket(socket.AF_UNIX))
                    source = sock.fileno()
                    if kind == "listening":
                        sock.bind("")  # a name that the kernel chooses: unix(7), autobind
                        sock.listen()
                assert fcntl.fcntl(source, fcntl.F_DUPFD, START + number) == START + number
        yield


def close_if_open(descriptor: int) -> None:
    """Close what `take_sockets` has not closed."""
    with suppress(OSError):
        os.close(descriptor)
