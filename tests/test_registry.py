# SPDX-License-Identifier: AGPL-3.0-only
"""The one writer: what shares a commit, who is answered when, and what a failure reaches."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable

import pytest

from plexus_registry.backend import Backend, Declaration, Put, Source
from plexus_registry.catalog import Catalog
from plexus_registry.errors import (
    AccessFault,
    ConfigError,
    Fault,
    StoreDamaged,
    StoreError,
    StoreRejected,
)
from plexus_registry.eventlog import LOGGED_DECLARATIONS_MAX, LOGGED_FAULTS_MAX, SAME_FAILURES_MAX
from plexus_registry.gathering import Later
from plexus_registry.registry import (
    GROUP_MAX_REQUESTS,
    Offload,
    Registry,
    Reply,
)
from plexus_registry.reloads import ReloadReport, Standing
from plexus_registry.rules import (
    AutoRegister,
    BackendDeleted,
    BackendDeregistered,
    BackendRegistered,
    BackendUpdated,
    Declare,
    Delete,
    Deregister,
    Event,
    Failed,
    LimitReached,
    Ping,
    Pinged,
    Register,
    Reloaded,
    Request,
    Update,
)
from support.memory import HeldOffload, InlineOffload, MemoryStore, disk_full, entry

DISK_FULL = str(disk_full())
INTERNAL = "internal error, see the log"
NOTHING_NEW = Reloaded(count=0, updated=0, removed=0, unchanged=0)


class Declared:
    """What is declared, to be set by the test.

    Attributes:
        found: What the next readings find.
        asked: Of every reading, whether it was explicit.
    """

    def __init__(self) -> None:
        self.found: Declare | Standing | Exception | None = None
        self.asked: list[bool] = []

    def __call__(self, explicit: bool) -> Declare | Standing | None:
        """Read what is declared."""
        self.asked.append(explicit)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


class Desk:
    """A registry whose commits and readings end when the test says so.

    Args:
        held: Entries that are there from the start.
        commits: Runs the store's work, if not `HeldOffload`.
        new_id: Makes ids.
        later: Sets timers, if commits may wait for requests.
        max_entries: How many entries there may be.
    """

    def __init__(
        self,
        *held: Backend,
        commits: Offload | None = None,
        new_id: Callable[[], str] | None = None,
        later: Later | None = None,
        max_entries: int = 100_000,
    ) -> None:
        self.store = MemoryStore(held)
        self.commits = HeldOffload()
        self.reads = HeldOffload()
        self.declared = Declared()
        self.registry = Registry(
            self.store,
            Catalog(self.store.load()),
            commits=commits or self.commits,
            reads=self.reads,
            declarations=self.declared,
            later=later,
            max_entries=max_entries,
            clock=lambda: 500.75,
            new_id=new_id or map(str, itertools.count(1)).__next__,
        )
        self.answers: list[Event] = []

    def ask(self, *requests: Request, reply: Reply | None = None) -> None:
        """Submit requests; their events go to `answers` in the order of the answers."""
        for request in requests:
            self.registry.submit(request, reply or self.answers.append, peer="client")

    def ask_together(self, *requests: Request) -> None:
        """Submit requests while a commit runs, so that they share the next, and end that one."""
        self.ask(Register(name="first", host="a", port=1), reply=lambda event: None)
        self.ask(*requests)
        self.commits.release()

    def reload(self, *, explicit: bool = True, peer: str = "client") -> None:
        """Ask for a reload; its event goes to `answers`."""
        self.registry.reload(self.answers.append, explicit=explicit, peer=peer)

    def run(self) -> list[Event]:
        """Let all readings and commits end, and return the events that are there then."""
        while self.reads or self.commits:
            self.reads.release_all()
            self.commits.release_all()
        return self.answers

    @property
    def names(self) -> list[str]:
        """Names of the entries that a read shows."""
        return [held.name for held in self.registry.catalog]


@pytest.fixture
def desk() -> Desk:
    """A registry without entries."""
    return Desk()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log of the registry, debug lines too."""
    caplog.set_level(logging.DEBUG, logger="plexus_registry")
    return caplog


def register(name: str, port: int = 4444) -> Register:
    """Return the registration of a name."""
    return Register(name=name, host="127.0.0.1", port=port)


def declares(*names: str, source: Source = Source.FILE, port: int = 4444) -> Declare:
    """Return what is read where these names are declared."""
    several = {name: Declaration(name=name, host="127.0.0.1", port=port) for name in names}
    return Declare(env=several) if source is Source.ENV else Declare(file=several)


def kinds(events: list[Event]) -> list[type]:
    """Return the types of events."""
    return [type(event) for event in events]


# --- commits ------------------------------------------------------------------------------------


def test_a_change_is_answered_and_shown_only_once_it_is_committed(desk: Desk) -> None:
    """Neither the answer nor a read is ahead of the disk."""
    desk.ask(register("dev"))
    assert desk.answers == []
    assert desk.registry.catalog.get("dev") is None
    desk.commits.release()
    (event,) = desk.answers
    assert isinstance(event, BackendRegistered)
    assert desk.store.load() == [event.backend] == list(desk.registry.catalog)


def test_what_changes_nothing_is_answered_without_a_commit(desk: Desk) -> None:
    """There is nothing to wait for."""
    desk.ask(Ping("nobody"), Delete("nobody"))
    assert kinds(desk.answers) == [Pinged, Failed]
    assert desk.store.attempts == 0


def test_requests_during_a_commit_share_the_next(desk: Desk) -> None:
    """However many arrive, two commits are enough, and all are answered after the second."""
    names = [f"n{number}" for number in range(50)]
    desk.ask(register("first"))
    desk.ask(*map(register, names))
    desk.commits.release()
    assert len(desk.answers) == 1
    desk.commits.release()
    assert len(desk.answers) == 51
    assert [[change.name for change in group] for group in desk.store.groups] == [["first"], names]
    assert (desk.registry.tally.commits, desk.registry.tally.committed_requests) == (2, 51)


def test_a_commit_takes_a_bounded_number_of_requests(desk: Desk) -> None:
    """So that deciding them does not keep the event loop for long."""
    desk.ask(*(register(f"n{number}") for number in range(GROUP_MAX_REQUESTS + 2)))
    desk.run()
    assert [len(group) for group in desk.store.groups] == [1, GROUP_MAX_REQUESTS, 1]


def test_requests_of_one_group_see_what_those_before_them_did(desk: Desk) -> None:
    """Each is decided on the entries as they will be, and answered in the order of submission."""
    desk.ask_together(
        register("dev"),
        Update(name="dev", port=1),
        Deregister("dev"),
        Ping("dev"),
        Delete("dev"),
        Ping("dev"),
        register("dev", port=2),
    )
    assert kinds(desk.run()) == [
        BackendRegistered,
        BackendUpdated,
        BackendDeregistered,
        Pinged,
        BackendDeleted,
        Pinged,
        BackendRegistered,
    ]
    assert [held.url for held in desk.store.load()] == ["ws://a:1", "ws://127.0.0.1:2"]
    assert len(desk.store.groups) == 2


@pytest.mark.parametrize("port", [4444, 4500], ids=["same address", "other address"])
def test_of_two_registers_of_one_name_in_a_group_one_makes_the_entry(desk: Desk, port: int) -> None:
    """The second refreshes what the first made, or is refused by it."""
    desk.ask_together(register("dev"), register("dev", port=port))
    first, second = desk.run()
    assert isinstance(first, BackendRegistered)
    if port == 4444:
        assert isinstance(second, BackendRegistered)
        assert second.backend.id == first.backend.id
    else:
        assert isinstance(second, Failed)
        assert "already registered at ws://127.0.0.1:4444" in second.message
    held = desk.registry.catalog.get("dev")
    assert held
    assert (held.id, held.port) == (first.backend.id, 4444)


def test_a_refusal_does_not_reach_its_neighbours(desk: Desk) -> None:
    """Others of the group are committed and answered as if it had not been there."""
    desk.ask_together(register("a"), register("no name"), Delete("nobody"), register("b"))
    assert kinds(desk.run()) == [BackendRegistered, Failed, Failed, BackendRegistered]
    assert desk.names == ["first", "a", "b"]


def test_times_of_entries_are_whole_seconds(desk: Desk) -> None:
    """The clock may have fractions, the wire has none."""
    desk.ask(register("dev"))
    desk.run()
    held = desk.registry.catalog.get("dev")
    assert held
    assert held.created_at == desk.registry.now() == 500


class SlowDisk:
    """A disk of which every commit takes 20 ms, and timers that end when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.timers: list[Callable[[], None]] = []
        clock = itertools.count(step=0.02)
        monkeypatch.setattr("plexus_registry.registry.time.monotonic", lambda: next(clock))

    def later(self, delay_s: float, function: Callable[[], None]) -> SlowDisk:
        """Keep what is to be called."""
        self.timers.append(function)
        return self

    def cancel(self) -> None:
        """Forget the last timer."""
        self.timers.pop()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    """A slow disk."""
    return SlowDisk(monkeypatch)


def registers(*names: str) -> list[Register]:
    """Return requests that change something."""
    return [Register(name=name, host="h", port=1) for name in names]


def test_clients_that_ask_again_share_the_next_commit_with_those_that_waited(
    slow: SlowDisk,
) -> None:
    """On a slow disk it waits a little, and starts with the last that can be expected."""
    desk = Desk(later=slow.later)
    desk.ask_together(*registers("a", "b"))
    desk.ask(*registers("c"))
    desk.commits.release()
    desk.ask(*registers("d"))
    assert (len(desk.commits), len(slow.timers)) == (0, 1)
    desk.ask(*registers("e"))
    assert (len(desk.commits), len(slow.timers)) == (1, 0)
    desk.run()
    assert [len(group) for group in desk.store.groups] == [1, 2, 3]


def test_clients_that_do_not_ask_again_hold_up_no_one_for_long(slow: SlowDisk) -> None:
    """When the time is over, the commit starts with those that are there."""
    desk = Desk(later=slow.later)
    desk.ask_together(*registers("a", "b"))
    desk.ask(*registers("c"))
    desk.commits.release()
    assert len(desk.commits) == 0
    slow.timers.pop()()
    assert len(desk.commits) == 1
    desk.run()
    assert [len(group) for group in desk.store.groups] == [1, 2, 1]


def test_draining_does_not_wait_for_more_requests(slow: SlowDisk) -> None:
    """What is there is committed at once."""
    desk = Desk(later=slow.later)
    desk.ask_together(*registers("a", "b"))
    desk.ask(*registers("c"))
    desk.commits.release()
    idle: list[bool] = []
    desk.registry.drain(lambda: idle.append(True))
    assert (len(desk.commits), idle, slow.timers) == (1, [], [])
    desk.run()
    assert idle == [True]
    assert len(desk.answers) == 3


# --- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (register("new"), "Failed to register backend"),
        (Update(name="dev", port=1), "Failed to update backend"),
        (Delete("dev"), "Failed to delete backend"),
        (Ping("dev"), "Failed to ping backend"),
        (Deregister("dev"), "Failed to deregister backend"),
        (declares("new"), "Failed to apply declared backends"),
        (
            AutoRegister(Declaration(name="plexus", host="a", port=1)),
            "Failed to register backend",
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_a_store_that_is_unavailable_fails_the_change(request_: Request, message: str) -> None:
    """The event names operation and reason, nothing changes, and the same works later."""
    desk = Desk(entry("dev"))
    desk.store.fail_next(disk_full())
    desk.ask(request_)
    assert desk.run() == [Failed(f"{message}: {DISK_FULL}")]
    assert list(desk.registry.catalog) == desk.store.load() == [entry("dev")]
    desk.ask(request_)
    assert not isinstance(desk.run()[-1], Failed)
    assert list(desk.registry.catalog) == desk.store.load() != [entry("dev")]


def test_a_failed_commit_fails_all_that_it_held(desk: Desk, log: pytest.LogCaptureFixture) -> None:
    """Each is told, the log has one line, and the next group is tried anew."""
    desk.store.fail_next(disk_full())
    desk.ask(register("a"))
    desk.ask(register("b"), register("c"))
    assert kinds(desk.run()) == [Failed, BackendRegistered, BackendRegistered]
    assert desk.names == ["b", "c"]
    errors = [record for record in log.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in errors] == [
        f"commit failed requests=1 reason={DISK_FULL}"
    ]


def test_what_was_refused_for_a_change_that_failed_is_decided_again(desk: Desk) -> None:
    """No answer rests on a neighbour's change that never came to be."""
    desk.ask_together(register("dev"), register("dev", port=1), Delete("nobody"))
    desk.store.fail_next(disk_full())
    lost, won, unknown = desk.run()
    assert lost == Failed(f"Failed to register backend: {DISK_FULL}")
    assert isinstance(won, BackendRegistered)
    assert unknown == Failed("Backend not found: nobody")
    held = desk.registry.catalog.get("dev")
    assert held
    assert held.port == 1


def test_of_a_rejected_group_all_that_can_be_written_is(desk: Desk) -> None:
    """They are committed one by one; what rests on the rejected one is decided again."""
    desk.store.rejected.add("odd")
    desk.ask_together(register("a"), register("odd"), Ping("odd"), Delete("nobody"), register("b"))
    assert kinds(desk.run()) == [BackendRegistered, Failed, Pinged, Failed, BackendRegistered]
    assert desk.answers[1] == Failed(
        "Failed to register backend: backend odd cannot be written, nothing was"
    )
    assert desk.answers[2] == Pinged("odd", False, "Backend not found: odd")
    assert desk.names == [held.name for held in desk.store.load()] == ["first", "a", "b"]


def test_of_a_rejected_pair_the_other_is_written(desk: Desk) -> None:
    """Two are a group already; one alone is refused without another try."""
    desk.store.rejected.add("odd")
    desk.ask_together(register("odd"), register("b"))
    assert kinds(desk.run()) == [Failed, BackendRegistered]
    assert desk.store.attempts == 1 + 1 + 2


def test_after_a_rejected_group_others_share_commits_again(desk: Desk) -> None:
    """Only those that were rejected together are written one by one, before all later ones."""
    desk.store.rejected.add("odd")
    desk.ask_together(register("a"), register("odd"), register("b"))
    desk.ask(register("c"), register("d"))
    desk.run()
    groups = [[change.name for change in group] for group in desk.store.groups]
    assert groups == [["first"], ["a"], ["b"], ["c", "d"]]


def test_a_store_that_is_full_while_a_rejected_group_is_split_fails_only_one(desk: Desk) -> None:
    """Each of them has a commit of its own and fares by that."""
    desk.store.fail_next(StoreRejected("one cannot be written"))
    desk.ask_together(register("a"), register("b"), register("c"))
    desk.store.fail_next(StoreRejected("one cannot be written"))
    desk.store.fail_next(disk_full())
    assert kinds(desk.run()) == [Failed, BackendRegistered, BackendRegistered]
    assert desk.names == ["b", "c"]


def test_a_store_that_breaks_its_promise_is_an_internal_error(
    desk: Desk, log: pytest.LogCaptureFixture
) -> None:
    """Peers learn no more than that; the log has the traceback; the next request works."""
    desk.store.fail_next(ZeroDivisionError("a secret"))
    desk.ask(register("a"))
    assert desk.run() == [Failed(f"Failed to register backend: {INTERNAL}")]
    assert log.records[-1].exc_info
    desk.ask(register("a"))
    assert kinds(desk.run()) == [Failed, BackendRegistered]


def test_a_rule_that_breaks_fails_its_request_alone(log: pytest.LogCaptureFixture) -> None:
    """The neighbours are decided and committed, and the log has the traceback."""
    ids = iter(["0", "1"])
    desk = Desk(new_id=lambda: next(ids))
    desk.ask_together(register("a"), register("b"), Ping("a"))
    assert kinds(desk.run()) == [BackendRegistered, Failed, Pinged]
    assert desk.answers[1] == Failed(f"Failed to register backend: {INTERNAL}")
    assert desk.names == ["first", "a"]
    (record,) = (record for record in log.records if record.exc_info)
    assert record.getMessage() == "rule failed request=Register"


def test_a_reply_that_raises_does_not_reach_its_neighbours(
    desk: Desk, log: pytest.LogCaptureFixture
) -> None:
    """Be it for an answer or for a failure: the others get theirs, and the log tells."""

    def broken(event: Event) -> None:
        raise ConnectionResetError

    desk.ask(register("a"), reply=broken)
    desk.ask(register("b"), reply=broken)
    desk.ask(register("c"))
    desk.commits.release()
    desk.store.fail_next(disk_full())
    assert kinds(desk.run()) == [Failed]
    desk.ask(Delete("nobody"), reply=broken)
    desk.ask(register("d"))
    assert kinds(desk.run()) == [Failed, BackendRegistered]
    assert log.messages.count("reply failed event=BackendRegistered") == 1
    assert log.messages.count("reply failed event=Failed") == 2


# --- replies that ask again ---------------------------------------------------------------------


def test_what_a_reply_asks_comes_after_its_neighbours(desk: Desk) -> None:
    """A group is answered whole, in its order, before anything that its answers lead to."""
    order: list[str] = []

    def ask_again(event: Event) -> None:
        order.append("first")
        desk.ask(Delete("nobody"), reply=lambda event: order.append("again"))

    desk.ask(register("first"), reply=ask_again)
    desk.ask(register("second"), reply=ask_again)
    desk.ask(Delete("nobody"), reply=lambda event: order.append("third"))
    desk.run()
    assert order == ["first", "first", "third", "again", "again"]


def test_requests_of_replies_to_one_group_share_a_commit(desk: Desk) -> None:
    """A hub that goes on after each answer does not undo the grouping."""
    desk.ask(register("first"))
    for number in range(3):
        desk.ask(register(f"n{number}"), reply=lambda event: desk.ask(register("again")))
    desk.run()
    assert [len(group) for group in desk.store.groups] == [1, 3, 1]
    assert desk.registry.tally.committed_requests == 7


@pytest.mark.parametrize("commits", [None, InlineOffload()], ids=["held", "inline"])
def test_ten_thousand_requests_that_ask_on_do_not_nest(commits: Offload | None) -> None:
    """Each reply submits the next request, and the stack stays flat."""
    desk = Desk(commits=commits)
    left = 10_000

    def ask_on(event: Event) -> None:
        nonlocal left
        left -= 1
        if left:
            desk.ask(Delete("nobody") if left % 2 else register("dev"), reply=ask_on)

    desk.ask(Delete("nobody"), reply=ask_on)
    desk.run()
    assert left == 0


def test_ten_thousand_refused_requests_at_once_are_all_answered(desk: Desk) -> None:
    """Whether a commit holds them up or not."""
    desk.ask(*[Delete("nobody")] * 10_000)
    assert len(desk.answers) == 10_000
    desk.ask_together(*[Delete("nobody")] * 10_000)
    assert kinds(desk.run()) == [Failed] * 20_000


def test_a_rejected_group_is_split_by_an_offload_that_reports_at_once() -> None:
    """The port of an offload allows that, for any size of the group."""
    desk = Desk(commits=InlineOffload())
    desk.store.rejected.add("odd")
    several = [register("odd"), *(register(f"n{n}") for n in range(GROUP_MAX_REQUESTS - 1))]
    desk.ask(Delete("nobody"), reply=lambda event: desk.ask(*several))
    assert kinds(desk.answers) == [Failed] + [BackendRegistered] * (GROUP_MAX_REQUESTS - 1)


# --- reloads ------------------------------------------------------------------------------------


def test_a_reload_follows_what_is_declared() -> None:
    """It is read, committed, and then answered; the report of the last reload says the same."""
    desk = Desk(entry("gone", source=Source.FILE))
    desk.declared.found = declares("dev")
    desk.reload()
    desk.reads.release()
    assert desk.answers == []
    reports = [desk.registry.last_reload]
    desk.commits.release()
    event = Reloaded(count=1, updated=0, removed=1, unchanged=0)
    assert desk.answers == [event]
    assert [*reports, desk.registry.last_reload] == [None, ReloadReport(500, event)]
    assert desk.names == ["dev"]
    assert len(desk.store.groups) == 1


def test_a_reload_is_ordered_among_the_changes_of_clients(desk: Desk) -> None:
    """It shares commits like any other request, and sees what came before it."""
    desk.ask(register("first"))
    desk.ask(register("dev"))
    desk.registry.follow(declares("dev", "new"), desk.answers.append)
    desk.ask(register("new", port=1))
    assert desk.run()[2] == Reloaded(count=1, updated=0, removed=0, unchanged=1)
    assert kinds(desk.answers[3:]) == [BackendRegistered]
    assert [len(group) for group in desk.store.groups] == [1, 2]


def test_reloads_during_a_reading_share_the_next(desk: Desk) -> None:
    """An answer never rests on a reading that began before the question."""
    desk.declared.found = declares("old")
    desk.reload()
    desk.reload(explicit=False)
    desk.reload()
    desk.reads.release()
    desk.declared.found = declares("old", "new")
    assert [event.count for event in desk.run() if isinstance(event, Reloaded)] == [1, 1, 1]
    assert desk.declared.asked == [True, True]
    assert desk.names == ["old", "new"]


def test_a_shared_reading_is_explicit_if_one_asked_for_it(desk: Desk) -> None:
    """What a person asked for is not weakened by an inotify event at the same time."""
    for explicit in (False, False, True):
        desk.reload(explicit=explicit)
    desk.reload(explicit=False)
    desk.run()
    assert desk.declared.asked == [False, True]


def test_reloads_that_an_answer_asks_for_are_read_one_at_a_time(desk: Desk) -> None:
    """Two of them share one further reading; no two readings are under way at once."""

    def ask_again(event: Event) -> None:
        desk.reload()

    desk.reload()
    desk.registry.reload(ask_again)
    desk.registry.reload(ask_again)
    desk.reads.release()
    desk.reads.release()
    assert len(desk.reads) == 1
    assert desk.run() == [NOTHING_NEW] * 3
    assert len(desk.declared.asked) == 3


def test_what_did_not_change_is_answered_without_a_commit(desk: Desk) -> None:
    """The reader found nothing new: all counts are zero, the last report stands."""
    desk.reload(explicit=False)
    assert desk.run() == [NOTHING_NEW]
    assert desk.store.attempts == 0
    assert desk.registry.last_reload is None


def faults(count: int) -> ConfigError:
    """Return the error of a file with so many faults."""
    return ConfigError([Fault("backends.toml", line, "no") for line in range(1, count + 1)])


def test_a_bad_file_changes_nothing(log: pytest.LogCaptureFixture) -> None:
    """The event, the report and the log say why; a good file works afterwards."""
    desk = Desk(entry("dev", source=Source.FILE))
    desk.declared.found = faults(2)
    desk.reload()
    desk.reload()
    event = Failed("Failed to parse TOML config: backends.toml:1: no (and 1 more)")
    assert desk.run() == [event, event]
    assert desk.registry.last_reload == ReloadReport(500, event)
    assert desk.names == ["dev"]
    assert log.messages[:2] == [
        "config reload failed, keeping previous: backends.toml:1: no",
        "config reload failed, keeping previous: backends.toml:2: no",
    ]
    desk.declared.found = declares("new")
    desk.reload()
    assert desk.run()[-1] == Reloaded(count=1, updated=0, removed=1, unchanged=0)


def test_fault_that_is_not_of_the_declarations_is_not_called_one_of_toml(desk: Desk) -> None:
    """The Rust program's words are kept for what it means by them."""
    desk.declared.found = AccessFault([Fault("tokens", 1, "no")])
    desk.reload()
    assert desk.run() == [Failed("Failed to reload: tokens:1: no")]


def test_fault_that_is_mended_without_anything_new_is_a_reload_that_was_done(
    log: pytest.LogCaptureFixture,
) -> None:
    """What is declared was read before and stays; the report, the count and the log say so."""
    desk = Desk(entry("dev", source=Source.FILE))
    desk.registry.follow(declares("dev"), desk.answers.append)
    desk.declared.found = AccessFault([Fault("tls.key", 0, "no")])
    desk.reload(explicit=False)
    desk.run()
    desk.declared.found = None
    for _ in range(2):
        desk.reload(explicit=False)
    assert desk.run()[-2:] == [NOTHING_NEW] * 2
    done = Reloaded(count=0, updated=0, removed=0, unchanged=1)
    assert desk.registry.last_reload == ReloadReport(500, done)
    assert (desk.registry.tally.reloads, desk.registry.tally.failed_reloads) == (2, 1)
    assert log.messages[-1] == (
        "configuration is sound again, declared backends are as before peer=client"
    )


def test_fault_that_is_left_is_told_instead_of_the_one_that_is_mended(
    desk: Desk, log: pytest.LogCaptureFixture
) -> None:
    """Once, however often the files are looked at; with the words for its kind."""
    desk.declared.found = AccessFault([Fault("tls.key", 0, "no")])
    desk.reload(explicit=False)
    desk.run()
    for found in (Standing(faults(1)), Standing(faults(1)), Standing(None)):
        desk.declared.found = found
        desk.reload(explicit=False)
        desk.run()
    event = Failed("Failed to parse TOML config: backends.toml:1: no")
    assert desk.registry.last_reload == ReloadReport(500, event)
    assert desk.registry.tally.failed_reloads == 2
    assert log.messages[-1] == "config reload failed, keeping previous: backends.toml:1: no"


def test_files_that_are_sound_do_not_mend_a_store(desk: Desk) -> None:
    """What could not be written is not told to be done because a reading finds nothing new."""
    desk.declared.found = declares("new")
    desk.store.fail_next(disk_full())
    desk.reload()
    desk.run()
    desk.declared.found = None
    desk.reload(explicit=False)
    desk.run()
    event = Failed(f"Failed to apply declared backends: {DISK_FULL}")
    assert desk.registry.last_reload == ReloadReport(500, event)


@pytest.mark.parametrize(("count", "rest"), [(20, []), (21, [1]), (500, [480])])
def test_the_log_of_a_bad_file_is_bounded(
    desk: Desk, log: pytest.LogCaptureFixture, count: int, rest: list[int]
) -> None:
    """Beyond twenty faults their number is told."""
    desk.declared.found = faults(count)
    desk.reload()
    desk.run()
    assert LOGGED_FAULTS_MAX == 20
    assert len(log.messages) == 20 + len(rest)
    assert log.messages[20:] == [
        f"config reload failed, keeping previous: {more} more faults" for more in rest
    ]


def test_a_reader_that_breaks_is_an_internal_error(
    desk: Desk, log: pytest.LogCaptureFixture
) -> None:
    """Nothing changes, the log has the traceback, and the next reload works."""
    desk.declared.found = ZeroDivisionError("a secret")
    desk.reload()
    assert desk.run() == [Failed(f"Failed to reload: {INTERNAL}")]
    assert log.records[-1].exc_info
    desk.declared.found = declares("dev")
    desk.reload()
    assert desk.run()[-1] == Reloaded(count=1, updated=0, removed=0, unchanged=0)


def test_a_reload_that_cannot_be_committed_changes_nothing() -> None:
    """All or nothing: neither additions nor removals show, and the report has the reason."""
    desk = Desk(entry("dev", source=Source.FILE))
    desk.declared.found = declares("new")
    desk.store.fail_next(disk_full())
    desk.reload()
    event = Failed(f"Failed to apply declared backends: {DISK_FULL}")
    assert desk.run() == [event]
    assert desk.registry.last_reload == ReloadReport(500, event)
    assert desk.names == ["dev"]


@pytest.mark.parametrize(
    "found", [None, faults(1), declares("dev"), Declare()], ids=["same", "bad", "new", "empty"]
)
def test_a_reply_that_raises_does_not_keep_a_reload_from_others(
    desk: Desk, found: Declare | Exception | None
) -> None:
    """Neither from those who share the reading, nor from those who wait for the next."""

    def broken(event: Event) -> None:
        raise ConnectionResetError

    desk.declared.found = found
    desk.registry.reload(broken)
    desk.registry.reload(broken)
    desk.reload()
    desk.reads.release()
    desk.reload()
    assert len(desk.run()) == 2


def test_a_vanished_file_keeps_its_entries_and_warns(log: pytest.LogCaptureFixture) -> None:
    """Unless somebody asks explicitly: then a missing file declares nothing."""
    desk = Desk(entry("dev", source=Source.FILE), entry("own"), entry("hub", source=Source.AUTO))
    desk.declared.found = Declare(file=None)
    desk.reload(explicit=False)
    assert desk.run() == [NOTHING_NEW]
    assert desk.names == ["dev", "own", "hub"]
    assert log.messages[0] == (
        "declared backends kept, their file is missing entries=1; reload explicitly to forget them"
    )
    desk.declared.found = Declare(file={})
    desk.reload()
    assert desk.run()[1:] == [Reloaded(count=0, updated=0, removed=1, unchanged=0)]
    assert desk.names == ["own", "hub"]
    assert [record.levelname for record in log.records] == ["WARNING", "INFO", "INFO", "INFO"]


def test_a_file_that_was_never_there_is_no_reason_to_warn(
    desk: Desk, log: pytest.LogCaptureFixture
) -> None:
    """A registry without a file is a registry like any other."""
    desk.registry.follow(Declare(), desk.answers.append)
    assert desk.run() == [NOTHING_NEW]
    assert [record.levelname for record in log.records] == ["INFO"]


def test_files_that_are_there_are_no_reason_to_warn(log: pytest.LogCaptureFixture) -> None:
    """Only entries whose file is missing are kept against what is declared."""
    desk = Desk(entry("dev", source=Source.FILE))
    desk.registry.follow(declares("dev", "new"), desk.answers.append)
    desk.run()
    assert [record.levelname for record in log.records] == ["INFO", "INFO"]


# --- idling -------------------------------------------------------------------------------------


def test_an_idle_registry_is_drained_at_once(desk: Desk) -> None:
    """Nothing was asked, so nothing is waited for."""
    idle: list[int] = []
    desk.registry.drain(lambda: idle.append(1))
    assert idle == [1]


def test_draining_waits_for_every_answer(desk: Desk) -> None:
    """It ends once, after the last commit, also of what replies ask for."""
    order: list[str] = []

    def ask_again(event: Event) -> None:
        order.append("answer")
        desk.ask(register("again"), reply=lambda event: order.append("last answer"))

    desk.ask(register("a"), reply=ask_again)
    desk.ask(Delete("nobody"), reply=lambda event: order.append("answer"))
    desk.registry.drain(lambda: order.append("idle"))
    desk.run()
    assert order == ["answer", "answer", "last answer", "idle"]
    desk.ask(register("later"))
    desk.run()
    assert order.count("idle") == 1


@pytest.mark.parametrize(
    "found", [None, faults(1), declares("dev"), Declare()], ids=["same", "bad", "new", "empty"]
)
def test_draining_waits_for_every_reload(desk: Desk, found: Declare | Exception | None) -> None:
    """Also for those that wait for the next reading, whatever the first one finds."""
    desk.declared.found = found
    desk.reload()
    desk.reload()
    counts: list[int] = []
    desk.registry.drain(lambda: counts.append(len(desk.answers)))
    desk.run()
    assert counts == [2]


@pytest.mark.parametrize(
    "request_", [register("a"), Delete("nobody")], ids=["committed", "refused"]
)
def test_draining_from_a_reply_waits_for_its_neighbours(desk: Desk, request_: Request) -> None:
    """The rest of the group has its answers before the registry is idle."""
    counts: list[int] = []

    def drain(event: Event) -> None:
        desk.registry.drain(lambda: counts.append(len(desk.answers)))

    desk.ask(register("first"), reply=lambda event: None)
    desk.ask(request_, reply=drain)
    desk.ask(Delete("nobody"))
    desk.run()
    assert counts == [1]


def test_draining_ends_after_a_commit_that_failed(desk: Desk) -> None:
    """A store that fails does not keep the program from stopping."""
    counts: list[int] = []
    desk.store.fail_next(StoreError("no"))
    desk.ask(register("a"))
    desk.registry.drain(lambda: counts.append(len(desk.answers)))
    desk.run()
    assert counts == [1]


# --- the log ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (
            register("new"),
            "backend registered name=new url=ws://127.0.0.1:4444 source=manual peer=client",
        ),
        (
            Update(name="dev", host="::1"),
            "backend updated name=dev url=ws://[::1]:4444 source=manual peer=client",
        ),
        (Delete("dev"), "backend deleted name=dev peer=client"),
        (Deregister("dev"), "backend deregistered name=dev peer=client"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_the_log_tells_what_changed_and_who_asked(
    log: pytest.LogCaptureFixture, request_: Request, line: str
) -> None:
    """One line, once the change is committed."""
    desk = Desk(entry("dev"))
    desk.ask(request_)
    assert log.messages == []
    desk.run()
    assert log.messages == [line]
    assert log.records[0].levelno == logging.INFO


def test_the_log_tells_what_a_reload_did_to_each_backend(log: pytest.LogCaptureFixture) -> None:
    """One line a backend, one for all, and one for declarations that have no effect."""
    desk = Desk(entry("dev"), entry("old", source=Source.FILE), entry("gone", source=Source.FILE))
    desk.registry.follow(declares("dev", "new", "old", port=9), desk.answers.append, peer="client")
    desk.run()
    assert log.messages == [
        "backend declared name=new url=ws://127.0.0.1:9 source=file peer=client",
        "backend declared anew name=old url=ws://127.0.0.1:9 source=file peer=client",
        "backend no longer declared name=gone peer=client",
        "declared backends applied added=1 updated=1 removed=1 unchanged=1 peer=client",
        "declarations without effect, held by run-time registrations entries=1 names=dev",
    ]


def test_the_log_tells_a_change_from_an_addition_within_one_second(
    log: pytest.LogCaptureFixture,
) -> None:
    """What was declared in the same second is declared anew all the same."""
    desk = Desk()
    for port in (1, 2):
        desk.registry.follow(declares("a", port=port), desk.answers.append)
        desk.run()
    verbs = [line.split(" name=")[0] for line in log.messages if " name=a " in line]
    assert verbs == ["backend declared", "backend declared anew"]


def test_the_log_of_a_large_reload_is_bounded(log: pytest.LogCaptureFixture) -> None:
    """Nobody reads a line for each of thousands of backends."""
    desk = Desk()
    desk.ask(declares(*(f"b{number}" for number in range(1000))))
    desk.run()
    assert len(log.messages) == LOGGED_DECLARATIONS_MAX + 2
    assert log.messages[-2] == "backends declared or no longer declared: 900 more"


@pytest.mark.parametrize(
    "request_",
    [
        Register(name="dev", host="127.0.0.1", port=4444),
        Update(name="dev", port=4444),
        Deregister("off"),
        Register(name="dev", host="elsewhere", port=1, source=Source.AUTO),
    ],
    ids=lambda request_: type(request_).__name__,
)
def test_what_only_refreshes_is_for_debugging(
    log: pytest.LogCaptureFixture, request_: Request
) -> None:
    """Hubs and Synapse say the same again and again; nobody needs to read it."""
    desk = Desk(entry("dev"), entry("off", is_active=False))
    desk.ask(request_)
    desk.run()
    assert [record.levelno for record in log.records] == [logging.DEBUG]


def test_a_change_among_refreshes_is_told(desk: Desk, log: pytest.LogCaptureFixture) -> None:
    """Also if all of them share a commit: each is told by what it did itself."""
    desk.ask_together(
        *[register("dev")] * 2,
        *[Deregister("dev")] * 2,
        *[register("dev")] * 2,
        *[Update(name="dev", port=1)] * 2,
    )
    desk.run()
    assert [record.levelname for record in log.records] == ["INFO", *["INFO", "DEBUG"] * 4]


def test_the_log_of_declarations_without_effect_is_bounded(log: pytest.LogCaptureFixture) -> None:
    """All are counted, the first twenty are named, and no name forges a line."""
    names = [f"n{number:03}" for number in range(500)]
    desk = Desk(*map(entry, names), entry("\n"))
    desk.declared.found = declares(*names, "\n")
    desk.reload()
    desk.run()
    start, _, shown = log.messages[-1].partition(" names=")
    assert start.endswith(" entries=501")
    assert shown.split(",") == ['"\\n"', *names[: LOGGED_FAULTS_MAX - 1]]
    desk.ask(*map(Delete, names), Delete("\n"))
    desk.reload()
    desk.run()
    assert log.messages[-1].startswith("declared backends applied added=501 ")


def test_a_broken_observer_does_not_stop_reloads(desk: Desk, log: pytest.LogCaptureFixture) -> None:
    """Whoever watches reloads may raise; reloads go on, and the log has the traceback."""

    def fail(*event: object) -> None:
        raise RuntimeError("broken observer")

    desk.registry.on_reload = desk.registry.on_reloaded = fail
    for _ in range(2):
        desk.reload()
        assert isinstance(desk.run()[-1], Reloaded)
    assert len(desk.answers) == 2
    assert len([record for record in log.records if record.exc_info]) == 4


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (Ping("dev"), "backend pinged name=dev peer=client"),
        (Ping("two\nlines"), 'backend pinged name="two\\nlines" peer=client'),
        (Delete("nobody"), "request refused reason=Backend not found: nobody peer=client"),
        (
            AutoRegister(Declaration(name="dev", host="a", port=1)),
            "backend registered name=dev url=ws://127.0.0.1:4444 source=manual peer=client",
        ),
    ],
    ids=["ping", "unknown", "refused", "unchanged"],
)
def test_what_changes_nothing_of_note_is_for_debugging(
    log: pytest.LogCaptureFixture, request_: Request, line: str
) -> None:
    """Heartbeats and refusals do not fill the log of a registry that is well."""
    desk = Desk(entry("dev"))
    desk.ask(request_)
    desk.run()
    assert log.messages == [line]
    assert log.records[0].levelno == logging.DEBUG


@pytest.mark.parametrize("source", [Source.FILE, Source.ENV])
def test_the_log_tells_that_a_declared_name_comes_back(
    log: pytest.LogCaptureFixture, source: Source
) -> None:
    """Who deletes what file or environment still declare is told, and it does come back."""
    desk = Desk()
    desk.declared.found = declares("dev", source=source)
    desk.reload()
    desk.run()
    desk.ask(Delete("dev"))
    desk.run()
    assert log.messages[-1] == (
        "backend deleted name=dev peer=client (still declared: it comes back at the next reload)"
    )
    desk.reload()
    assert desk.run()[-1] == Reloaded(count=1, updated=0, removed=0, unchanged=0)


def test_the_log_names_everyone_who_shared_a_reload(
    desk: Desk, log: pytest.LogCaptureFixture
) -> None:
    """Each once."""
    desk.declared.found = declares("dev")
    desk.reload(peer="SIGHUP")
    for peer in ("inotify", "SIGHUP", "inotify"):
        desk.reload(peer=peer)
    desk.run()
    applied = [message for message in log.messages if "applied" in message]
    assert [message.rpartition("peer=")[2] for message in applied] == ["SIGHUP", "SIGHUP,inotify"]


ODD = ["two\nlines", "a name=b", "x" * 500, "\x1b[31m", ""]


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_no_name_host_or_peer_forges_or_floods_the_log(
    log: pytest.LogCaptureFixture, odd: str
) -> None:
    """The Rust program's database may hold anything; each takes its one place on one line."""
    desk = Desk(entry(odd, host=odd))
    requests = (Ping(odd), Update(name=odd, port=1), Deregister(odd), Delete(odd), Delete(odd))
    for request in requests:
        desk.registry.submit(request, desk.answers.append, peer=odd)
    desk.run()
    assert kinds(desk.answers) == [
        Pinged,
        BackendUpdated,
        BackendDeregistered,
        BackendDeleted,
        Failed,
    ]
    assert len(log.messages) == len(requests)
    for message in log.messages:
        assert message.isprintable()
        assert len(message) < 500
        unquoted = re.sub(r'"(\\.|[^"\\])*"', "TEXT", message)
        assert re.fullmatch(r"[a-z ]+( (name|url|source|reason|peer)=[^=]+)+", unquoted)
        assert unquoted.count("name=") <= 1
        assert unquoted.partition(" peer=")[2].startswith("TEXT")


def test_a_store_gets_changes_in_the_order_of_requests(desk: Desk) -> None:
    """Each once, save those of one name in one group, which become one."""
    desk.ask(register("a"), register("b"), Ping("a"), Ping("b"), Ping("a"))
    desk.run()
    names = [change.name for group in desk.store.groups for change in group]
    assert names == ["a", "b", "a"]
    assert all(isinstance(change, Put) for group in desk.store.groups for change in group)


# --- a damaged store ----------------------------------------------------------------------------


def damaged() -> StoreDamaged:
    """Return what a store raises whose database is damaged."""
    return StoreDamaged("database registry.db is not sound (page 7)", reason="page 7")


def test_damaged_store_is_rebuilt_and_nobody_notices(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """All that was acknowledged is in the catalog; the group that met the damage comes again."""
    desk.ask(Register(name="a", host="h", port=1))
    desk.run()
    desk.store.fail_next(damaged())
    desk.ask(
        Register(name="b", host="h", port=1), Delete("a"), Register(name="c", host="h", port=2)
    )
    answers = desk.run()
    assert [type(answer) for answer in answers] == [
        BackendRegistered,
        BackendRegistered,
        BackendDeleted,
        BackendRegistered,
    ]
    assert [held.name for held in desk.store.load()] == desk.names == ["b", "c"]
    assert desk.store.rebuilt == ["page 7"]
    (line,) = [one for one in caplog.records if one.levelname == "CRITICAL"]
    assert line.getMessage() == (
        "database damaged, set aside path=aside salvaged=1 lost=0 reason=page 7"
    )


def test_store_that_stays_damaged_is_not_rebuilt_for_ever(desk: Desk) -> None:
    """Damage right after a rebuilding is told to who asked; a commit that works ends the matter."""
    desk.store.fail_next(damaged())
    desk.store.fail_next(damaged())
    desk.ask(Register(name="a", host="h", port=1))
    (answer,) = desk.run()
    assert answer == Failed(
        "Failed to register backend: database registry.db is not sound (page 7)"
    )
    assert desk.store.rebuilt == []  # the second fault was the rebuilding's

    desk.store.fail_next(damaged())
    desk.ask(Register(name="a", host="h", port=1))
    assert isinstance(desk.run()[-1], BackendRegistered)
    desk.store.fail_next(damaged())
    desk.ask(Register(name="b", host="h", port=1))
    assert isinstance(desk.run()[-1], BackendRegistered)
    assert desk.store.rebuilt == ["page 7", "page 7"]


# --- limits ---------------------------------------------------------------------------------------


def test_entries_have_a_limit_over_a_whole_group() -> None:
    """Those that share a commit count, those that go make room, and what is there can change."""
    desk = Desk(entry("old"), entry("gone"), max_entries=4)
    desk.ask_together(
        register("a"), register("b"), register("old"), Delete("gone"), register("c"), register("d")
    )
    assert kinds(desk.run()) == [
        BackendRegistered,
        LimitReached,
        BackendRegistered,
        BackendDeleted,
        BackendRegistered,
        LimitReached,
    ]
    assert desk.names == ["old", "first", "a", "c"]
    assert desk.answers[1] == LimitReached(
        "Failed to register backend: that makes 5 entries, and max_entries allows 4;"
        " delete some or raise it"
    )


def test_declarations_beyond_the_limit_are_refused_whole(log: pytest.LogCaptureFixture) -> None:
    """The reload fails, the log says why; as many as there is room for are applied."""
    desk = Desk(entry("old"), entry("f", source=Source.FILE), max_entries=3)
    for names in (("a", "b", "c"), ("a", "b")):
        desk.declared.found = declares(*names)
        desk.reload()
        desk.run()
    assert kinds(desk.answers) == [LimitReached, Reloaded]
    assert desk.names == ["old", "a", "b"]
    text = "that makes 4 entries, and max_entries allows 3"
    assert [record.levelname for record in log.records if text in record.getMessage()] == [
        "ERROR",
        "DEBUG",
    ]


def test_entries_that_are_there_stay_when_the_limit_is_lower() -> None:
    """They can be refreshed, changed and deleted; there is just no room for more."""
    desk = Desk(*(entry(name) for name in "abc"), max_entries=1)
    desk.ask(register("a"), Update(name="b", port=9), Delete("c"), register("d"))
    assert kinds(desk.run()) == [
        BackendRegistered,
        BackendUpdated,
        BackendDeleted,
        LimitReached,
    ]
    assert desk.names == ["a", "b"]


def test_failures_that_go_on_fill_no_log(desk: Desk, log: pytest.LogCaptureFixture) -> None:
    """A full disk and a bad file are told some times a minute, however often somebody tries."""
    desk.declared.found = faults(1)
    for number in range(100):
        desk.store.fail_next(disk_full())
        desk.ask(register(f"n{number}"))
        desk.reload()
        desk.run()
    errors = [record for record in log.records if record.levelno >= logging.WARNING]
    assert len(errors) == 2 * SAME_FAILURES_MAX
