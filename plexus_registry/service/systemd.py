# SPDX-License-Identifier: AGPL-3.0-only
"""What passes between systemd and the daemon: sockets in, notifications out, the watchdog.

Outside of systemd, where its variables are not set, everything here does nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import MutableMapping, Sequence
from typing import NamedTuple

import sdnotify

from plexus_registry.errors import ConfigError, Fault, quote, word

logger = logging.getLogger(__name__)

LISTEN_FDS_START = 3
"""sd_listen_fds(3)."""

_NUMBER_MAX_DIGITS = len(str(2**64))

_LISTEN_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class PassedSocket(NamedTuple):
    """A listening socket that systemd passed.

    Attributes:
        name: From the socket unit's ``FileDescriptorName=``; ``unknown`` if it has none.
        socket: Not inherited by children; systemd's own copy stays open when it is closed.
    """

    name: str
    socket: socket.socket


def take_sockets(environ: MutableMapping[str, str]) -> list[PassedSocket]:
    """Take the sockets that were passed to this process (sd_listen_fds(3)).

    Args:
        environ: The environment; its ``LISTEN_*`` variables are removed, so that no child takes
            the sockets for its own.

    Returns:
        The sockets; none if none were passed, or if they were meant for another process.

    Raises:
        ConfigError: If the variables make no sense, or a descriptor is no listening stream
            socket. What was taken is closed again then.
    """
    given = {name: environ.pop(name, "") for name in _LISTEN_VARIABLES}
    if not given["LISTEN_PID"] or not given["LISTEN_FDS"]:
        return []
    pid = _whole_number("LISTEN_PID", given["LISTEN_PID"])
    count = _whole_number("LISTEN_FDS", given["LISTEN_FDS"])
    if pid != os.getpid():
        return []
    names = given["LISTEN_FDNAMES"].split(":") if given["LISTEN_FDNAMES"] else []
    if names and len(names) != count:
        raise _fault("LISTEN_FDNAMES", f"{len(names)} names for {count} sockets")
    with contextlib.ExitStack() as undo:
        taken = []
        for index in range(count):
            descriptor = LISTEN_FDS_START + index
            name = names[index] if names else "unknown"
            passed = undo.enter_context(_open_socket(descriptor, name))
            _check_listening(passed, descriptor, name)
            taken.append(PassedSocket(name, passed))
        undo.pop_all()
    return taken


def _whole_number(variable: str, text: str) -> int:
    number = _number(text)
    if number == 0:
        raise _fault(variable, f"{quote(text)} is not accepted, expected a whole number above 0")
    return number


def _number(text: str) -> int:
    """Return a number as systemd writes it, of at most 64 bits; 0 for anything else."""
    is_number = text.isascii() and text.isdigit() and len(text) <= _NUMBER_MAX_DIGITS
    return int(text) if is_number else 0


def _open_socket(descriptor: int, name: str) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        return socket.socket(fileno=descriptor)
    except OSError as error:
        reason = f"descriptor {descriptor} ({word(name)}) is no socket: {error.strerror}"
        raise _fault("LISTEN_FDS", reason) from error


def _check_listening(passed: socket.socket, descriptor: int, name: str) -> None:
    is_stream = passed.type == socket.SOCK_STREAM
    is_listening = bool(passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    families = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    if not is_stream or not is_listening or passed.family not in families:
        raise _fault(
            "LISTEN_FDS",
            f"descriptor {descriptor} ({word(name)}) is no listening stream socket of TCP or Unix;"
            " the socket unit needs ListenStream= and Accept=no",
        )
    passed.setblocking(False)


def _fault(variable: str, message: str) -> ConfigError:
    return ConfigError([Fault(f"${variable}", 0, message)])


def turn_away(sockets: Sequence[socket.socket]) -> None:
    """Accept and close what waits on the sockets.

    A daemon that ends with connections pending is started again at once for their sake, however
    it ended, until systemd gives up on the socket too.
    """
    for passed in sockets:
        with contextlib.suppress(OSError):  # none waits any more, or the socket is closed
            while True:
                passed.accept()[0].close()


def is_started_by_systemd(environ: MutableMapping[str, str]) -> bool:
    """Tell whether systemd, the system's or a user's, started this very process (systemd.exec(5)).

    A shell that is itself part of a service hands most of systemd's variables on; these two say
    whom they are for.
    """
    return bool(environ.get("NOTIFY_SOCKET")) or (
        environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())
    )


class Notifier:
    """Tells the service manager how the daemon is doing (sd_notify(3)).

    One state a message: sdnotify encodes Latin-1 and gives up on anything else, so a status text
    must never travel with a ``READY=1``. Texts are made ASCII here, and what cannot be sent is
    logged instead of lost.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._notifier = None
        self._status = ""
        if environ.get("NOTIFY_SOCKET"):
            try:
                self._notifier = sdnotify.SystemdNotifier(debug=True)
            except OSError as error:
                logger.warning("service manager cannot be notified reason=%s", error)

    @property
    def is_active(self) -> bool:
        """Whether there is a service manager that listens."""
        return self._notifier is not None

    def ready(self) -> None:
        """Say that start or reload is finished."""
        self._send("READY=1")

    def reloading(self, monotonic_us: int) -> None:
        """Say that a reload begins; `ready` must follow, also when it fails.

        Args:
            monotonic_us: CLOCK_MONOTONIC in microseconds, by which systemd 253 and later tells
                this reload from earlier ones.
        """
        self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_us}")

    def stopping(self) -> None:
        """Say that the daemon shuts down."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, by_s: float) -> None:
        """Ask for more time to start or stop, counted from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(by_s * 1_000_000)}")

    def status(self, text: str) -> None:
        """Set the line that ``systemctl status`` shows; an unchanged one is not sent again."""
        line = " ".join(text.split()).encode("ascii", "backslashreplace").decode()
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def _send(self, state: str) -> None:
        if self._notifier is None:
            return
        try:
            self._notifier.notify(state)
        except OSError as error:
            logger.warning("notification lost state=%s reason=%s", state.partition("=")[0], error)


def watchdog_interval_s(environ: MutableMapping[str, str]) -> float | None:
    """Return how often to feed the watchdog: half its limit (sd_watchdog_enabled(3)).

    Returns:
        Seconds; None if there is no watchdog or it watches another process.
    """
    limit_us = _number(environ.get("WATCHDOG_USEC", ""))
    pid = environ.get("WATCHDOG_PID", str(os.getpid()))
    if limit_us == 0 or pid != str(os.getpid()):
        return None
    return limit_us / 2 / 1_000_000
