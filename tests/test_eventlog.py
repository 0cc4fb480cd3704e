# SPDX-License-Identifier: AGPL-3.0-only
"""What is logged about requests, however many there are."""

from __future__ import annotations

import logging
import re
from collections import Counter

import pytest

from plexus_registry.backend import Backend, Put, Remove, Source
from plexus_registry.errors import StoreUnavailable
from plexus_registry.eventlog import (
    CHANGES_BURST,
    RELOADS_BURST,
    SAME_FAILURES_MAX,
    Diary,
    log_commit_failed,
    log_salvage,
)
from plexus_registry.rules import BackendDeleted, BackendRegistered, Decision, Reloaded
from plexus_registry.store.port import Salvage

JOURNAL_LINES, JOURNAL_S = 10_000, 30
"""What systemd-journald takes of a service by default: RateLimitBurst, RateLimitIntervalSec."""

REGISTERED = Backend(
    id="1",
    name="hub",
    host="h",
    port=1,
    protocol="ws",
    source=Source.AUTO,
    is_active=True,
    registered_at=1,
    created_at=1,
    updated_at=1,
)
DECISIONS = (
    Decision(BackendRegistered(REGISTERED), (Put(REGISTERED),)),
    Decision(BackendDeleted("hub"), (Remove("hub"),)),
    Decision(Reloaded(count=0, updated=0, removed=1, unchanged=0), (Remove("hub"),)),
)


def test_flood_of_changes_leaves_the_journal_room(caplog: pytest.LogCaptureFixture) -> None:
    """Who registers, deletes and reloads without end fills not even 2/3 of what journald takes."""
    caplog.set_level(logging.INFO, logger="plexus_registry")
    now = 0.0
    diary = Diary(clock=lambda: now)
    given = 0
    while now < JOURNAL_S:
        for decision in DECISIONS * 200:
            diary.log_decision(decision, "mallory", ())
            diary.log_overruled(["hub"])
            given += 1
        now += 0.1
    logged = len(caplog.messages)
    assert CHANGES_BURST < logged < JOURNAL_LINES * 2 / 3

    # Afterwards everything is logged again, and no line was lost count of.
    now += 3600
    for decision in DECISIONS:
        diary.log_decision(decision, "operator", ())
    said = Counter(message.partition(" ")[0] for message in caplog.messages)
    left_out = sum(
        int(found[1])
        for found in map(re.compile(r".*left out=(\d+)").match, caplog.messages)
        if found
    )
    backends = said["backend"] - len(DECISIONS)
    overruled = said["declarations"]
    reloaded = said["declared"] - 1
    assert backends + overruled + reloaded + left_out == given + given + given // 3


def test_reload_is_told_amid_a_flood_of_changes(caplog: pytest.LogCaptureFixture) -> None:
    """An operator's reload does not go under in what somebody else writes."""
    caplog.set_level(logging.INFO, logger="plexus_registry")
    diary = Diary(clock=lambda: 0.0)
    for _ in range(2 * CHANGES_BURST):
        diary.log_decision(DECISIONS[0], "mallory", ())
    diary.log_decision(DECISIONS[2], "operator", ())
    assert len(caplog.messages) == CHANGES_BURST + 1
    assert caplog.messages[-1].startswith("declared backends applied added=0 updated=0 removed=1")


def test_what_was_left_out_is_told_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """Of changes, reloads and failures, each by itself and once."""
    caplog.set_level(logging.INFO, logger="plexus_registry")
    diary = Diary(clock=lambda: 0.0)
    for _ in range(CHANGES_BURST + 1982):
        diary.log_decision(DECISIONS[0], "hub", ())
    for _ in range(RELOADS_BURST + 7):
        diary.log_overruled(["hub"])
    for _ in range(SAME_FAILURES_MAX + 3):
        reason = StoreUnavailable("the disk is full")
        log_commit_failed(reason, requests=1, notices=diary.failures)
    caplog.clear()
    for _ in range(2):
        diary.tell_left_out()
        assert caplog.messages == [
            "too many changes to log each of them, left out=1982",
            "too many reloads to log each of them, left out=7",
            "as before, and not logged each time: StoreUnavailable times=3",
        ]


def test_lines_below_the_level_use_up_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Who logs warnings only gets no warning about lines that he would not see."""
    caplog.set_level(logging.WARNING, logger="plexus_registry")
    diary = Diary(clock=lambda: 0.0)
    for _ in range(2 * CHANGES_BURST):
        diary.log_decision(DECISIONS[0], "hub", ())
    caplog.set_level(logging.INFO, logger="plexus_registry")
    diary.log_decision(DECISIONS[0], "hub", ())
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_names_of_lost_entries_say_how_many_more_there_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Or whoever reads them takes them for all."""
    log_salvage(Salvage("aside", "reason", salvaged=1, lost=5, names=("a", "b")))
    log_salvage(Salvage("aside", "reason", salvaged=1, lost=2, names=("a", "b")))
    assert [line.split(" names=")[1] for line in caplog.messages] == [
        "a,b,+3 reason=reason",
        "a,b reason=reason",
    ]
