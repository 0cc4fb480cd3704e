# SPDX-License-Identifier: AGPL-3.0-only
"""Lines that clients can cause at will: the first of a kind is logged, then one a minute."""

from __future__ import annotations

import logging

import pytest

from plexus_registry.server.notices import INTERVAL_S, Notices

logger = logging.getLogger("plexus_registry.test")


def test_each_kind_is_logged_once_in_an_interval(caplog: pytest.LogCaptureFixture) -> None:
    """What is different each time is no kind of its own; the next line tells what was left out."""
    now = 0.0
    notices = Notices(logger, clock=lambda: now)
    for number in range(1000):
        notices.warning("cut peer=%d", number)
        notices.warning("refused peer=%d", number)
    now = INTERVAL_S - 1
    notices.warning("cut peer=%d", 1000)
    now = INTERVAL_S
    notices.warning("cut peer=%d", 1001)
    now = 2 * INTERVAL_S
    notices.warning("cut peer=%d", 1002)
    assert caplog.messages == [
        "cut peer=0",
        "refused peer=0",
        "cut peer=1001 (and 1000 times more before)",
        "cut peer=1002",
    ]
