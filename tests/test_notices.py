# SPDX-License-Identifier: AGPL-3.0-only
"""Lines that clients can cause at will: how many are logged, and what is told of the others."""

from __future__ import annotations

import logging

import pytest

from plexus_registry.notices import INTERVAL_S, KINDS_MAX, PAUSE_S, Allowance, Notices

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


def test_same_failure_is_logged_a_few_times(caplog: pytest.LogCaptureFixture) -> None:
    """A kind of its own beside others of the same message, with level and fields."""
    now = 0.0
    notices = Notices(logger, burst=3, clock=lambda: now)
    for number in range(10):
        for fault in ("a", "b"):
            notices.log(logging.ERROR, "failed %s %d", fault, number, kind=fault, extra={"x": 1})
    now = INTERVAL_S
    notices.log(logging.ERROR, "failed %s %d", "a", 10, kind="a", extra={"x": 1})
    firsts = [f"failed {fault} {number}" for number in range(3) for fault in ("a", "b")]
    assert caplog.messages == [*firsts, "failed a 10 (and 7 times more before)"]
    assert {(record.levelname, record.__dict__["x"]) for record in caplog.records} == {("ERROR", 1)}
    assert {record.funcName for record in caplog.records} == {
        "test_same_failure_is_logged_a_few_times"
    }


def test_kinds_are_forgotten_before_they_take_memory() -> None:
    """However many there are."""
    notices = Notices(logger)
    for number in range(3 * KINDS_MAX):
        notices.warning(f"kind {number}")
    assert len(notices._kinds) == KINDS_MAX


def test_allowance_is_a_burst_and_then_a_rate(caplog: pytest.LogCaptureFixture) -> None:
    """What it leaves out is told before the next line that passes."""
    now = 0.0
    allowance = Allowance(logger, "changes", burst=100, per_s=2, clock=lambda: now)
    assert [allowance.take() for _ in range(105)] == [True] * 100 + [False] * 5
    now = PAUSE_S - 1
    assert not allowance.take()
    assert not caplog.messages
    now = PAUSE_S
    assert [allowance.take() for _ in range(22)] == [True] * 20 + [False] * 2
    now = 1000.0
    assert [allowance.take() for _ in range(101)] == [True] * 100 + [False]
    assert caplog.messages == [
        "too many changes to log each of them, left out=6",
        "too many changes to log each of them, left out=2",
    ]


def test_allowance_that_is_never_used_up_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Its rate can be taken for ever."""
    now = 0.0
    allowance = Allowance(logger, "changes", burst=10, per_s=2, clock=lambda: now)
    for _ in range(1000):
        assert allowance.take()
        now += 0.5
    assert not caplog.messages
