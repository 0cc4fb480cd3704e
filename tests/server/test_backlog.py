# SPDX-License-Identifier: AGPL-3.0-only
"""What waits for clients that do not read: past the limit, the worst is cut and no other."""

from __future__ import annotations

from plexus_registry.server.backlog import Backlog


class Reader:
    """A client for which something waits."""

    def __init__(self, backlog: Backlog, size: int) -> None:
        self.buffered_bytes = size
        self.is_cut = False
        self._backlog = backlog
        backlog.note(self)

    def cut_for_backlog(self) -> None:
        """Take note."""
        self.is_cut = True


def test_who_lets_most_wait_for_longest_is_cut() -> None:
    """Neither the one that came just now, however large, nor a small one that is slow."""
    now = 0.0
    backlog = Backlog(100, clock=lambda: now)
    slow = Reader(backlog, 5)
    now = 5.0
    worst = Reader(backlog, 50)
    now = 10.0
    new = Reader(backlog, 60)
    assert [it.is_cut for it in (slow, worst, new)] == [False, True, False]


def test_as_many_are_cut_as_it_takes() -> None:
    """Who is alone with too much is cut, too."""
    backlog = Backlog(100)
    small = [Reader(backlog, 30) for _ in range(3)]
    large = Reader(backlog, 101)
    assert large.is_cut
    assert sum(it.is_cut for it in small) <= 3
    assert Reader(Backlog(100), 101).is_cut


def test_what_was_read_meanwhile_does_not_count() -> None:
    """The sizes are looked at again before anybody is cut."""
    backlog = Backlog(100)
    readers = [Reader(backlog, 50) for _ in range(2)]
    readers[0].buffered_bytes = 10
    readers.append(Reader(backlog, 40))
    assert not any(it.is_cut for it in readers)


def test_who_caught_up_or_left_does_not_count() -> None:
    """Also if it is told twice."""
    backlog = Backlog(100)
    for _ in range(5):
        reader = Reader(backlog, 60)
        backlog.forget(reader)
        backlog.forget(reader)
        assert not reader.is_cut
    readers = [Reader(backlog, 50) for _ in range(2)]
    assert not any(it.is_cut for it in readers)
