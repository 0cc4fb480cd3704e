# SPDX-License-Identifier: AGPL-3.0-only
"""The one writer: groups changes, commits them through the store, publishes them, answers.

Requests that arrive while a commit runs share the next one, so the rate of durable changes is not
bound to the rate at which the disk can flush. The order is: decide on the entries as they will
be, commit, show in the catalog, answer; so an answer that reports a change is never ahead of the
disk, and a read never shows what a power cut could take back.

Callbacks only, no event loop: what blocks is handed to an `Offload`, and its outcome must come
back in the thread that calls the registry.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from plexus_registry.backend import DEFAULT_LIMITS, Change, Source, TextLimits
from plexus_registry.catalog import Catalog, Overlay
from plexus_registry.errors import StoreDamaged, StoreError, StoreRejected
from plexus_registry.eventlog import (
    Diary,
    log_commit_failed,
    log_file_missing,
    log_full,
    log_salvage,
)
from plexus_registry.gathering import Gathering, Later
from plexus_registry.ids import uuid7
from plexus_registry.reloads import ReloadReport, Reloads, Standing
from plexus_registry.rules import (
    FAILED,
    Decision,
    Declare,
    Event,
    Failed,
    LimitReached,
    Reloaded,
    Request,
    Terms,
    decide,
)
from plexus_registry.store.port import Salvage, Store
from plexus_registry.tally import Tally

logger = logging.getLogger(__name__)

GROUP_MAX_REQUESTS = 1024
"""How many requests share one commit; bounds how long deciding them keeps the event loop."""
DEFAULT_MAX_ENTRIES = 100_000
OURSELVES = "registry"
"""The peer of what the registry does without being asked."""

T = TypeVar("T")
P = ParamSpec("P")

Reply = Callable[[Event], None]
"""Takes the event of a request, once, in the thread of the registry."""

Declarations = Callable[[bool], Declare | Standing | None]
"""Reads what is declared; blocks. The argument tells whether somebody asked for it explicitly.

Returns None if nothing changed since the last time, or what is wrong nevertheless (only when not
asked explicitly). Raises `ConfigError`.
"""


class Offload(Protocol):
    """Runs blocking work elsewhere, one job after another."""

    def __call__(self, job: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """Run *job*, then call *done* with what it returned or raised, in the caller's thread."""


@dataclass(slots=True)
class _Submission:
    request: Request
    reply: Reply
    peer: str
    decision: Decision | None = None


class Registry:
    """Entries: read through `catalog`, changed through `submit` and `reload`.

    Args:
        store: Open; the registry is its only user from now on, until `drain` has called back.
        commits: Runs the store's work.
        reads: Runs the reading of declarations.
        declarations: Reads what is declared.
        later: Lets a commit wait for requests that would share it; None for no such waits.
        max_entries: How many entries there may be. Those that are there already may stay.
        limits: How long new texts may be.
        clock: Unix seconds, possibly with a fraction.
        new_id: Makes the id of a new entry, a UUID.

    Attributes:
        catalog: The entries as they are on disk.
        tally: What was done since the start.
        on_reload: Called when reading begins.
        on_reloaded: Called with its event when a reload is over, before it is answered.
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        *,
        commits: Offload,
        reads: Offload,
        declarations: Declarations,
        later: Later | None = None,
        max_entries: int = DEFAULT_MAX_ENTRIES,
        limits: TextLimits = DEFAULT_LIMITS,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = uuid7,
    ) -> None:
        self.catalog = catalog
        self.on_reload: Callable[[], None] = _nothing
        self.on_reloaded: Reply = _ignore
        self.tally = Tally()
        self._store = store
        self._offload_commit = commits
        self._offload_read = reads
        self._declarations = declarations
        self._gathering = Gathering(later, self._work)
        self._max_entries = max_entries
        self._limits = limits
        self._diary = Diary()
        self._notices = self._diary.failures
        self._past_reloads = Reloads(self.tally, self._notices, self.now)
        self._clock = clock
        self._new_id = new_id
        self._queue: deque[_Submission] = deque()
        self._working = False
        self._committing = False
        self._is_rebuilt = False  # and nothing was committed since
        self._alone = 0  # how many of the queue must be committed one by one
        self._reading = False
        self._reloads: list[tuple[Reply, bool, str]] = []
        self._declared: frozenset[str] = frozenset()
        self._on_idle: Callable[[], None] | None = None

    @property
    def last_reload(self) -> ReloadReport | None:
        """How the last reload went; None before the first."""
        return self._past_reloads.last

    def now(self) -> int:
        """Return the time that goes into answers, in Unix seconds."""
        return int(self._clock())

    # --- asking -----------------------------------------------------------------------------------

    def submit(self, request: Request, reply: Reply, *, peer: str = OURSELVES) -> None:
        """Decide and commit *request*, in the order of submission, then call *reply* once.

        Args:
            request: What is asked.
            reply: May be called before this returns, if nothing has to be written. What it submits
                in turn waits until its neighbours have their answers.
            peer: Who asks, for the log.
        """
        self._queue.append(_Submission(request, reply, peer))
        if not self._gathering.holds(len(self._queue)):
            self._work()

    def reload(self, reply: Reply, *, explicit: bool = True, peer: str = OURSELVES) -> None:
        """Read what is declared, whole, and follow it; all of it or nothing.

        Everyone who asks while one reading is under way shares the next, so that an answer never
        rests on a reading that began before the question.

        Args:
            reply: Gets `Reloaded`, or `Failed` with the reason.
            explicit: Somebody asked, so that declarations apply even if no file changed, and a
                missing file declares nothing. Otherwise a file that vanished keeps its entries.
            peer: Who asks, for the log.
        """
        self._reloads.append((reply, explicit, peer))
        if not self._reading:
            self._start_reading()

    def follow(self, declared: Declare, reply: Reply, *, peer: str = OURSELVES) -> None:
        """Follow declarations that were read already. *reply* gets `Reloaded` or `Failed`."""
        if declared.file is None:
            kept = sum(held.source is Source.FILE for held in self.catalog)
            if kept:
                log_file_missing(kept)
        self._declared = frozenset({*declared.env, *(declared.file or ())})
        self.submit(declared, reply, peer=peer)

    def drain(self, on_idle: Callable[[], None]) -> None:
        """Call *on_idle* once, when everything that was asked so far is done."""
        self._on_idle = on_idle
        self._gathering.close()
        self._work()

    # --- groups -----------------------------------------------------------------------------------

    def _work(self) -> None:
        """Take groups until a commit runs or none is left; a reply that asks again only queues."""
        if self._working:
            return
        self._working = True
        try:
            while self._queue and not self._committing:
                self._start_group()
        finally:
            self._working = False
        self._check_idle()

    def _start_group(self) -> None:
        group = self._take_group()
        overlay = Overlay(self.catalog)
        entries = len(self.catalog)
        for submission in group:
            decision = self._decide(overlay, submission.request)
            growth = overlay.growth(decision.changes)
            if growth > 0 and entries + growth > self._max_entries:
                decision, growth = self._refuse_growth(submission, entries + growth), 0
            submission.decision = decision
            overlay.apply(decision.changes)
            entries += growth
        changes = overlay.changes()
        if changes:
            self._committing = True
            self._offload_commit(
                partial(self._store.commit, changes),
                partial(self._committed, group, changes, time.monotonic()),
            )
        else:
            self._answer(group)

    def _take_group(self) -> list[_Submission]:
        size = GROUP_MAX_REQUESTS
        if self._alone:
            self._alone -= 1
            size = 1
        return [self._queue.popleft() for _ in range(min(size, len(self._queue)))]

    def _decide(self, overlay: Overlay, request: Request) -> Decision:
        try:
            return decide(overlay, request, Terms(self.now(), self._new_id, self._limits))
        except Exception:  # one request's fault must not become its neighbours'
            logger.exception("rule failed request=%s", type(request).__name__)
            return Decision(Failed(f"{FAILED[type(request)]}: internal error, see the log"))

    def _refuse_growth(self, submission: _Submission, entries: int) -> Decision:
        request = submission.request
        refusal = LimitReached(
            f"{FAILED[type(request)]}: that makes {entries} entries, and max_entries allows"
            f" {self._max_entries}; delete some or raise it"
        )
        log_full(request, refusal, peer=submission.peer, notices=self._notices)
        return Decision(refusal)

    def _committed(
        self,
        group: list[_Submission],
        changes: list[Change],
        began: float,
        outcome: Exception | None,
    ) -> None:
        if outcome is None:
            took_s, waiting = time.monotonic() - began, len(self._queue)
            self.tally.count_commit(len(group))
            self._is_rebuilt = False
            self.catalog.apply(changes)
            self._answer(group)
            self._gathering.begin(answered=len(group), waiting=waiting, commit_s=took_s)
        elif isinstance(outcome, StoreRejected) and len(group) > 1:
            # One of them cannot be written: find out which, so that the others are not refused.
            self._queue.extendleft(reversed(group))
            self._alone += len(group)
        elif isinstance(outcome, StoreDamaged) and not self._is_rebuilt:
            # All that was acknowledged is in the catalog: a new store can be made of it.
            rebuild = partial(self._store.rebuild, list(self.catalog), outcome.reason)
            self._offload_commit(rebuild, partial(self._rebuilt, group))
            return
        else:
            self._refuse(group, outcome)
        self._committing = False
        if not self._gathering.holds(len(self._queue)):
            self._work()

    def _rebuilt(self, group: list[_Submission], outcome: Salvage | Exception) -> None:
        if isinstance(outcome, Exception):
            self._refuse(group, outcome)
        else:
            self._is_rebuilt = True
            log_salvage(outcome)
            self._queue.extendleft(reversed(group))
        self._committing = False
        self._work()

    def _answer(self, group: list[_Submission]) -> None:
        for submission in group:
            assert submission.decision is not None
            event = submission.decision.event
            self._diary.log_decision(submission.decision, submission.peer, self._declared)
            if isinstance(event, Reloaded):
                self._diary.log_overruled(self._overruled())
            _call(submission.reply, event)

    def _overruled(self) -> list[str]:
        """Return the declared names that entries made at run time hold."""
        held = map(self.catalog.get, self._declared)
        return [entry.name for entry in held if entry and entry.source is Source.MANUAL]

    def _refuse(self, group: list[_Submission], reason: Exception) -> None:
        log_commit_failed(reason, requests=len(group), notices=self._notices)
        text = str(reason) if isinstance(reason, StoreError) else "internal error, see the log"
        is_stores = not isinstance(reason, StoreRejected)
        self.tally.count_failure(text, at=self.now(), is_stores=is_stores)
        # What changes nothing was decided on its neighbours' changes, which did not come to be.
        again = [submission for submission in group if not _changes(submission)]
        self._queue.extendleft(reversed(again))
        for submission in filter(_changes, group):
            _call(submission.reply, Failed(f"{FAILED[type(submission.request)]}: {text}"))

    # --- reloads ----------------------------------------------------------------------------------

    def _start_reading(self) -> None:
        waiting, self._reloads = self._reloads, []
        self._reading = True
        explicit = any(asked for _, asked, _ in waiting)
        peers = ",".join(sorted({peer for _, _, peer in waiting}))

        def answer(event: Event) -> None:
            _call(self.on_reloaded, event)
            for reply, _, _ in waiting:
                _call(reply, event)

        def report(event: Event) -> None:
            self._past_reloads.report(event)
            answer(event)

        def read(outcome: Declare | Standing | Exception | None) -> None:
            past = self._past_reloads
            if isinstance(outcome, Exception):
                answer(past.refuse(outcome, peer=peers))
            elif outcome is None or isinstance(outcome, Standing):
                past.note_nothing_new(outcome, declared=len(self._declared), peer=peers)
                answer(Reloaded(count=0, updated=0, removed=0, unchanged=0))
            else:
                self.follow(outcome, report, peer=peers)
            self._reading = False
            if self._reloads:
                self._start_reading()
            self._check_idle()

        _call(self.on_reload)
        self._offload_read(partial(self._declarations, explicit), read)

    # --- idling -----------------------------------------------------------------------------------

    def _check_idle(self) -> None:
        is_busy = self._working or self._committing or self._reading
        if self._on_idle and not is_busy:
            on_idle, self._on_idle = self._on_idle, None
            self._diary.tell_left_out()
            on_idle()


def _nothing() -> None:
    """Stand in for an observer of reloads that begin."""


def _ignore(event: Event) -> None:
    """Stand in for an observer of reloads that end."""


def _call(function: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call whoever asked or observes: one that is broken must not take others along."""
    try:
        function(*args, **kwargs)
    except Exception:
        logger.exception("reply failed event=%s", type(args[0]).__name__ if args else "none")


def _changes(submission: _Submission) -> bool:
    return submission.decision is not None and bool(submission.decision.changes)
