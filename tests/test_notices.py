# SPDX-License-Identifier: AGPL-3.0-only
"""Lines that clients can cause at will: how many are logged, and what is told of the others."""

from __future__ import annotations

import logging

import pytest

from plexus_registry.notices import (
    INTERVAL_S,
    KINDS_MAX,
    PAUSE_S,
    PLACES_BURST,
    PLACES_PER_S,
    Allowance,
    Notices,
)

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


def test_what_was_left_out_is_told_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """A short burst is not taken for one line: nothing more may come, or its kind is forgotten."""
    notices = Notices(logger, clock=lambda: 0.0)
    for number in range(9):
        notices.warning("write refused method=%s peer=%d", "x", number, place="192.0.2.1")
    notices.warning("cut peer=%d", 1)
    notices.tell_left_out()
    notices.tell_left_out()
    assert caplog.messages[2:] == [
        "as before, and not logged each time: write refused times=8 place=192.0.2.1"
    ]
    caplog.clear()
    for _ in range(3):
        notices.log(logging.WARNING, "x", kind="first")
    for number in range(KINDS_MAX):
        notices.log(logging.DEBUG, "y", kind=str(number))
    assert "as before, and not logged each time: first times=2" in caplog.messages


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


def test_each_place_is_told_of_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    """One that is noisy hides neither another nor what has no place."""
    now = 0.0
    notices = Notices(logger, clock=lambda: now)
    for number in range(1000):
        notices.warning("refused peer=%s", f"noisy:{number}", place="noisy")
    notices.warning("refused peer=%s", "quiet:1", place="quiet")
    notices.warning("refused peer=%s", "none")
    now = INTERVAL_S
    notices.warning("refused peer=%s", "noisy:1000", place="noisy")
    assert caplog.messages == [
        "refused peer=noisy:0",
        "refused peer=quiet:1",
        "refused peer=none",
        "refused peer=noisy:1000 (and 999 times more before)",
    ]


def test_many_places_fill_neither_log_nor_memory(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever has a network of IPv6 has places without end: past a limit they are counted."""
    now = 0.0
    notices = Notices(logger, clock=lambda: now)
    notices.warning("of the server itself")
    for number in range(100_000):
        now = INTERVAL_S * number / 100_000
        notices.warning("refused place=%d", number, place=f"{number:x}/64")
        notices.warning("of the server itself")
    assert len(notices._kinds) <= KINDS_MAX
    refused = [line for line in caplog.messages if line.startswith("refused")]
    assert PLACES_BURST <= len(refused) <= PLACES_BURST + PLACES_PER_S * INTERVAL_S
    assert caplog.messages.count("of the server itself") == 1
    (*_, counted) = [line for line in caplog.messages if line.startswith("too many")]
    assert counted.startswith("too many lines on clients to log each of them, left out=")


def test_places_that_were_left_out_are_told_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """As one number, for they have no line of their own."""
    notices = Notices(logger, clock=lambda: 0.0)
    for number in range(PLACES_BURST + 40):
        notices.warning("refused peer=%d", number, place=str(number))
    assert len(caplog.messages) == PLACES_BURST
    for _ in range(2):
        notices.tell_left_out()
        assert caplog.messages[PLACES_BURST:] == [
            "too many lines on clients to log each of them, left out=40"
        ]


def test_what_was_left_out_is_told_by_its_words(caplog: pytest.LogCaptureFixture) -> None:
    """Of a line with values those before the first of them, of another one all."""
    notices = Notices(logger, clock=lambda: 0.0)
    for _ in range(2):
        notices.warning("page cut off peer=%s", "x")
        notices.warning("page could not be sent")
    notices.tell_left_out()
    assert [line.partition(": ")[2] for line in caplog.messages[2:]] == [
        "page cut off times=1",
        "page could not be sent times=1",
    ]


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
