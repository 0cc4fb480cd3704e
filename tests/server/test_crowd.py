# SPDX-License-Identifier: AGPL-3.0-only
"""Places that connections count for: one each for those that one client can have."""

from __future__ import annotations

import pytest

from plexus_registry.server.crowd import Crowd, place_of


@pytest.mark.parametrize(
    "address",
    [("127.0.0.1", 1), ("127.9.9.9", 1), ("::1", 1, 0, 0), ("::ffff:127.0.0.1", 1, 0, 0), "", b""],
)
def test_this_machine_is_no_place(address: object) -> None:
    """Loopback in each of its forms, and Unix sockets."""
    assert place_of(address) == ""


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:1:2:3::4", "2001:db8:1:2:ffff::", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80:0:0:1::2%eth0", True),
        ("fe80::1%eth0", "fe80::1%eth1", False),
    ],
)
def test_place_is_what_one_client_can_have(one: str, other: str, same: bool) -> None:
    """An IPv4 address, a network of IPv6, or a link, on which one can have any address."""
    assert (place_of((one, 1)) == place_of((other, 2))) is same


def test_each_place_has_its_own_count() -> None:
    """Who leaves makes room; this machine is never over."""
    crowd = Crowd(1)
    for place in ("a", "a", "b", "", ""):
        crowd.enter(place)
    assert [crowd.is_over(place) for place in ("a", "b", "")] == [True, False, False]
    assert not crowd.is_over("a", by=1)
    for place in ("a", "a", "b", ""):
        crowd.leave(place)
    assert not crowd.is_over("a")
    assert not crowd._counts
