# SPDX-License-Identifier: AGPL-3.0-only
"""How many connections come from one place, so that one place cannot take all there are."""

from __future__ import annotations

import ipaddress
from collections import Counter

_NETWORK_BITS = 64
"""The rest of an IPv6 address is the client's own choice (RFC 4291, 2.5.4)."""


def place_of(address: object) -> str:
    """Name the place that a connection counts for; empty if it is this machine.

    That is the IPv4 address, or the network of an IPv6 address, or the whole link where addresses
    hold for one only: a neighbour can take as many of those as it likes. Many behind one address
    translator are one place. Clients of this machine, a reverse proxy among them, are none: who
    runs programs here has other ways to be in the way.

    Args:
        address: The other end's, as it came with the socket.
    """
    if not isinstance(address, tuple):
        return ""  # a Unix socket
    found = ipaddress.ip_address(address[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    if found.is_loopback:
        return ""
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.is_link_local:
        return f"link {found.scope_id}"
    return f"{int(found) >> _NETWORK_BITS:x}/{_NETWORK_BITS}"


class Crowd:
    """Counts connections by place.

    Args:
        max_each: How many may come from one place.
    """

    def __init__(self, max_each: int) -> None:
        self.max_each = max_each
        self._counts: Counter[str] = Counter()

    def enter(self, place: str) -> None:
        """Count a connection."""
        if place:
            self._counts[place] += 1

    def leave(self, place: str) -> None:
        """Count a connection no more."""
        if place:
            self._counts[place] -= 1
            if not self._counts[place]:
                del self._counts[place]

    def is_over(self, place: str, *, by: int = 0) -> bool:
        """Tell whether a place has more connections than it may, and *by* more than that."""
        return bool(place) and self._counts[place] > self.max_each + by
