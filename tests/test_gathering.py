# SPDX-License-Identifier: AGPL-3.0-only
"""Commits wait for clients that have just been answered, where that pays, and only there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from plexus_registry.gathering import LONGEST_PAUSE, LONGEST_S, WORTH_S, Gathering

SLOW_S = 0.004
"""A commit that is worth waiting for."""


class Clock:
    """Holds the one timer that is set; the test decides when its time is over."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self._function: Callable[[], None] | None = None

    def later(self, delay_s: float, function: Callable[[], None]) -> Clock:
        """Be the event loop's call_later()."""
        assert self._function is None
        self.delay_s, self._function = delay_s, function
        return self

    def cancel(self) -> None:
        """Be the timer's cancel()."""
        self._function = None

    @property
    def is_set(self) -> bool:
        """Whether a timer runs."""
        return self._function is not None

    def run(self) -> None:
        """Let the time be over."""
        function, self._function = self._function, None
        assert function is not None
        function()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def over() -> list[str]:
    """What was called when a wait was over."""
    return []


@pytest.fixture
def gathering(clock: Clock, over: list[str]) -> Gathering:
    """One that may wait."""
    return Gathering(clock.later, lambda: over.append("over"))


def test_a_commit_waits_for_those_just_answered(
    gathering: Gathering, clock: Clock, over: list[str]
) -> None:
    """Half as long as the last one took, or until as many are there as can be expected."""
    gathering.begin(answered=3, waiting=2, commit_s=SLOW_S)
    assert clock.delay_s == SLOW_S / 2
    assert [gathering.holds(count) for count in (2, 3, 4)] == [True, True, True]
    assert not gathering.holds(5)
    assert not clock.is_set
    assert not gathering.holds(2)
    assert over == []


def test_a_wait_ends_with_its_time(gathering: Gathering, clock: Clock, over: list[str]) -> None:
    """Whoever came is not held up for those who do not."""
    gathering.begin(answered=2, waiting=0, commit_s=SLOW_S)
    clock.run()
    assert over == ["over"]
    assert not gathering.holds(1)


@pytest.mark.parametrize(
    ("answered", "commit_s"),
    [(1, SLOW_S), (64, WORTH_S), (64, 2 * WORTH_S * 0.99)],
    ids=["a lonely client", "a fast disk", "a disk that is just too fast"],
)
def test_nobody_waits_where_it_does_not_pay(
    gathering: Gathering, clock: Clock, answered: int, commit_s: float
) -> None:
    """A client that is alone, and a disk whose commits take next to nothing."""
    gathering.begin(answered=answered, waiting=0, commit_s=commit_s)
    assert not clock.is_set
    assert not gathering.holds(0)


def test_a_disk_that_hangs_makes_no_long_wait(gathering: Gathering, clock: Clock) -> None:
    """However long the last commit took."""
    gathering.begin(answered=2, waiting=0, commit_s=30.0)
    assert clock.delay_s == LONGEST_S


def test_waits_for_nothing_become_ever_more_seldom(gathering: Gathering, clock: Clock) -> None:
    """Until one of them was not for nothing."""

    def commits_until_a_wait() -> int:
        count = 0
        while not clock.is_set:
            count += 1
            gathering.begin(answered=2, waiting=0, commit_s=SLOW_S)
        return count

    counts = []
    for _ in range(9):
        counts.append(commits_until_a_wait())
        clock.run()
    assert counts == [1, 2, 3, 5, 9, 17, 33, LONGEST_PAUSE + 1, LONGEST_PAUSE + 1]
    commits_until_a_wait()
    assert not gathering.holds(2)
    assert commits_until_a_wait() == 1
    clock.run()
    assert commits_until_a_wait() == 2


def test_closed_it_holds_nothing(gathering: Gathering, clock: Clock, over: list[str]) -> None:
    """A registry that stops has no time for that."""
    gathering.begin(answered=2, waiting=0, commit_s=SLOW_S)
    gathering.close()
    assert not clock.is_set
    gathering.begin(answered=2, waiting=0, commit_s=SLOW_S)
    assert not gathering.holds(0)
    assert over == []
