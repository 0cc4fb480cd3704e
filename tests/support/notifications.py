# SPDX-License-Identifier: AGPL-3.0-only
"""The service manager's end of sd_notify(3): a datagram socket that is read message by message."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from support.timing import TIMEOUT_S


class Notifications:
    """What a service sends to ``$NOTIFY_SOCKET``.

    Attributes:
        address: The value of the variable.
    """

    def __init__(self, sock: socket.socket, address: str) -> None:
        self.address = address
        self._socket = sock

    def receive(self) -> str:
        """Return the next message, waiting for it."""
        self._socket.settimeout(TIMEOUT_S)
        return self._socket.recv(65536).decode("ascii")

    def receive_until(self, is_wanted: Callable[[str], bool]) -> list[str]:
        """Return the messages up to the first wanted one, which is the last."""
        messages = [self.receive()]
        while not is_wanted(messages[-1]):
            messages.append(self.receive())
        return messages

    def pending(self, within_s: float = 0.0) -> list[str]:
        """Return the messages that are there, and those that come until none came for a while."""
        messages = []
        with contextlib.suppress(BlockingIOError, TimeoutError):
            while True:
                self._socket.settimeout(within_s)
                messages.append(self._socket.recv(65536).decode("ascii"))
        return messages


@contextlib.contextmanager
def notifications(folder: Path, *, is_abstract: bool = False) -> Iterator[Notifications]:
    """Listen for notifications, on a path in *folder* or on an abstract address."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        if is_abstract:
            sock.bind("")  # the kernel chooses
            bound = sock.getsockname()
            address = "@" + bytes(bound[1:]).decode("ascii")
        else:
            address = str(folder / "notify")
            sock.bind(address)
        yield Notifications(sock, address)
