# SPDX-License-Identifier: AGPL-3.0-only
"""How much of something in a time is too much."""

from __future__ import annotations

from plexus_registry.server.allowance import Allowance


def test_too_much_in_an_interval() -> None:
    """The amount is allowed, and not one more before the time is over."""
    now = 0.0
    allowance = Allowance(10, 5.0, clock=lambda: now)
    assert not any(allowance.is_exceeded_by(1) for _ in range(10))
    now = 4.9
    assert allowance.is_exceeded_by(1)


def test_steady_rate_goes_on_for_ever() -> None:
    """Who does as much as is allowed in each interval never does too much."""
    now = 0.0
    allowance = Allowance(10, 5.0, clock=lambda: now)
    for _ in range(1000):
        now += 0.5
        assert not allowance.is_exceeded_by(1)


def test_more_than_the_amount_at_once_is_always_too_much() -> None:
    """However long nothing was done before."""
    now = 0.0
    allowance = Allowance(10, 5.0, clock=lambda: now)
    now = 100.0
    assert allowance.is_exceeded_by(11)
