# SPDX-License-Identifier: AGPL-3.0-only
"""What was written to a client, and whether it takes any of it."""

from __future__ import annotations

import array
import asyncio
import fcntl
import termios
from typing import Final

OVERHEAD: Final = "overhead_bytes"
"""The extra information of a transport: how much more it sent than was written to it."""


class Outflow:
    """Tells a client that reads slowly from one that does not read.

    asyncio's own buffer does not: the kernel takes more from it only once a third of the kernel's
    buffer, which has megabytes, is free again.

    Args:
        transport: Of the client's connection.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._socket = transport.get_extra_info("socket")
        self._written = 0
        self._taken = 0

    def write(self, data: bytes) -> None:
        """Pass *data* on to the transport."""
        self._written += len(data)
        self._transport.write(data)

    @property
    def unread_bytes(self) -> int:
        """How much of what was written has not reached the other side."""
        # What the kernel holds: SIOCOUTQ, tcp(7) and unix(7).
        queued = array.array("i", [0])
        fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, queued)
        return self._transport.get_write_buffer_size() + queued[0]

    def has_moved(self) -> bool:
        """Tell whether the other side has taken something since this was asked before."""
        sent = self._written + self._transport.get_extra_info(OVERHEAD, 0)
        before, self._taken = self._taken, sent - self.unread_bytes
        return self._taken > before
