# SPDX-License-Identifier: AGPL-3.0-only
"""What became of requests, as lines of the log; with fields, so that one backend's life is a query.

INFO is what changed an entry or was asked for by an operator; what only refreshed or refused is
DEBUG, for it comes with every heartbeat.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Final

from plexus_registry import messages
from plexus_registry.backend import Backend, Change, Remove
from plexus_registry.errors import ConfigError, StoreError, word
from plexus_registry.messages import fields
from plexus_registry.notices import Allowance, Notices
from plexus_registry.rules import (
    BackendDeleted,
    BackendDeregistered,
    BackendRegistered,
    BackendUpdated,
    Decision,
    Declare,
    Event,
    Failed,
    LimitReached,
    Pinged,
    Reloaded,
    Request,
)
from plexus_registry.store.port import Salvage

logger = logging.getLogger(__name__)

AT_START = "start"
"""The peer of what belongs to the start: it fails, and says why, where something is wrong."""
LOGGED_FAULTS_MAX = 20
LOGGED_DECLARATIONS_MAX = 100
CHANGES_BURST: Final = 4000
CHANGES_PER_S: Final = 20
RELOADS_BURST: Final = 200
RELOADS_PER_S: Final = 1
"""Together far below what systemd-journald takes of a service, 10,000 lines in 30 s: past that it
drops errors as well. Reloads are counted apart, for an operator must see them in a flood."""
SAME_FAILURES_MAX = 10
"""How often a minute the same failure is logged, however often somebody runs into it."""


class Diary:
    """Logs what requests came to; bounded, for whoever may write can change entries at will.

    Args:
        clock: Returns the time in seconds.

    Attributes:
        failures: Bounds the lines about failures, which whoever asks again can cause again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        allow = partial(Allowance, logger, clock=clock)
        self.failures = Notices(logger, burst=SAME_FAILURES_MAX, clock=clock)
        self._changes = allow("changes", burst=CHANGES_BURST, per_s=CHANGES_PER_S)
        self._reloads = allow("reloads", burst=RELOADS_BURST, per_s=RELOADS_PER_S)

    def tell_left_out(self) -> None:
        """Log how much was left out and not told of yet, for nothing more comes."""
        for bounded in (self._changes, self._reloads, self.failures):
            bounded.tell_left_out()

    def log_decision(self, decision: Decision, peer: str, declared: Collection[str]) -> None:
        """Log what a request came to.

        Args:
            decision: What was written for it, and its answer.
            peer: Who asked.
            declared: Names that files or environment declare.
        """
        event = decision.event
        if isinstance(event, Reloaded):
            self._log_reload(decision, event, peer)
        elif not decision.changes or decision.is_refresh:
            if logger.isEnabledFor(logging.DEBUG):
                _log_event(logging.DEBUG, event, peer, declared)
        elif self._may_tell_change():
            _log_event(logging.INFO, event, peer, declared)

    def log_overruled(self, names: Sequence[str]) -> None:
        """Log which declarations have no effect, as entries made at run time hold their names."""
        if names and self._may_tell_reload():
            shown = ",".join(map(word, sorted(names)[:LOGGED_FAULTS_MAX]))
            logger.info(
                "declarations without effect, held by run-time registrations entries=%d names=%s",
                len(names),
                shown,
            )

    def _log_reload(self, decision: Decision, event: Reloaded, peer: str) -> None:
        """Log what a reload did to each backend, as far as a person would read, and in all."""
        for change in decision.changes[:LOGGED_DECLARATIONS_MAX]:
            if self._may_tell_change():
                _log_declared(change, decision.added, peer)
        if not self._may_tell_reload():
            return
        unseen = len(decision.changes) - LOGGED_DECLARATIONS_MAX
        if unseen > 0:
            logger.info("backends declared or no longer declared: %d more", unseen)
        logger.info(
            "declared backends applied added=%d updated=%d removed=%d unchanged=%d peer=%s",
            event.count,
            event.updated,
            event.removed,
            event.unchanged,
            word(peer),
            extra=fields(messages.RELOADED, peer=peer),
        )

    def _may_tell_change(self) -> bool:
        return logger.isEnabledFor(logging.INFO) and self._changes.take()

    def _may_tell_reload(self) -> bool:
        return logger.isEnabledFor(logging.INFO) and self._reloads.take()


def _log_event(level: int, event: Event, peer: str, declared: Collection[str]) -> None:
    match event:
        case BackendRegistered(backend):
            _log_entry(level, messages.BACKEND_REGISTERED, "registered", backend, peer)
        case BackendUpdated(backend):
            _log_entry(level, messages.BACKEND_UPDATED, "updated", backend, peer)
        case BackendDeleted(name):
            back = " (still declared: it comes back at the next reload)"
            _log_end(messages.BACKEND_DELETED, "deleted", name, peer, name in declared and back)
        case BackendDeregistered(name):
            logger.log(
                level,
                "backend deregistered name=%s peer=%s",
                word(name),
                word(peer),
                extra=fields(messages.BACKEND_DEREGISTERED, backend=name, peer=peer),
            )
        case Pinged(name):
            # Worth more than debugging if it made an entry active again.
            is_news = level > logging.DEBUG
            logger.log(
                level,
                "backend %s name=%s peer=%s",
                "active again" if is_news else "pinged",
                word(name),
                word(peer),
                extra=fields(messages.BACKEND_UPDATED if is_news else "", backend=name, peer=peer),
            )
        case Failed():
            logger.debug("request refused reason=%s peer=%s", event.message, word(peer))
        case _:
            raise AssertionError(f"unknown event: {event}")


def _log_declared(change: Change, added: Collection[str], peer: str) -> None:
    if isinstance(change, Remove):
        _log_end(messages.BACKEND_DELETED, "no longer declared", change.name, peer)
    elif change.name in added:
        _log_entry(logging.INFO, messages.BACKEND_REGISTERED, "declared", change.backend, peer)
    else:
        _log_entry(logging.INFO, messages.BACKEND_UPDATED, "declared anew", change.backend, peer)


def _log_entry(level: int, message_id: str, verb: str, backend: Backend, peer: str) -> None:
    logger.log(
        level,
        "backend %s name=%s url=%s source=%s peer=%s",
        verb,
        word(backend.name),
        word(backend.url),
        backend.source.value,
        word(peer),
        extra=fields(message_id, backend=backend.name, peer=peer),
        stacklevel=2,
    )


def _log_end(message_id: str, verb: str, name: str, peer: str, more: str | bool = "") -> None:
    logger.info(
        "backend %s name=%s peer=%s%s",
        verb,
        word(name),
        word(peer),
        more or "",
        extra=fields(message_id, backend=name, peer=peer),
        stacklevel=2,
    )


def log_reload_failed(reason: Exception | str, *, peer: str, notices: Notices) -> None:
    """Log why a reload failed: each fault on a line of its own, bounded.

    Args:
        reason: What was raised, or an event's message.
        peer: Who asked.
        notices: `Diary.failures`.
    """
    extra = fields(messages.RELOAD_FAILED, peer=peer)
    message = "config reload failed, keeping previous"
    if isinstance(reason, Exception) and not isinstance(reason, ConfigError):
        notices.log(
            logging.ERROR, message, kind=type(reason).__name__, exc_info=reason, extra=extra
        )
        return
    faults = [reason] if isinstance(reason, str) else reason.faults
    for fault in faults[:LOGGED_FAULTS_MAX]:
        notices.log(logging.ERROR, f"{message}: %s", fault, kind=str(fault), extra=extra)
    unseen = len(faults) - LOGGED_FAULTS_MAX
    if unseen > 0:
        notices.log(logging.ERROR, f"{message}: %d more faults", unseen, extra=extra)


def log_mended(*, peer: str) -> None:
    """Log that what made the last reload fail is mended, and that it declares nothing new."""
    logger.info(
        "configuration is sound again, declared backends are as before peer=%s",
        word(peer),
        extra=fields(messages.RELOADED, peer=peer),
    )


def log_full(request: Request, refusal: LimitReached, *, peer: str, notices: Notices) -> None:
    """Log that there is no room for what a request would enter."""
    if isinstance(request, Declare) and peer == AT_START:
        return
    if isinstance(request, Declare):
        log_reload_failed(refusal.message, peer=peer, notices=notices)
    else:
        notices.warning("entry refused reason=%s peer=%s", refusal.message, word(peer))


def log_commit_failed(reason: Exception, *, requests: int, notices: Notices) -> None:
    """Log why a group of requests could not be written; *notices* is `Diary.failures`."""
    known = isinstance(reason, StoreError)
    notices.log(
        logging.ERROR,
        "commit failed requests=%d reason=%s" if known else "commit failed requests=%d",
        *((requests, reason) if known else (requests,)),
        kind=type(reason).__name__,
        exc_info=None if known else reason,
        extra=fields(messages.STORE_FAILED),
    )


def log_salvage(salvage: Salvage) -> None:
    """Log that the database was damaged, where it is now, and what was read out of it."""
    lost = "unknown" if salvage.lost is None else str(salvage.lost)
    names = ",".join(map(word, salvage.names))
    if salvage.lost is not None and salvage.lost > len(salvage.names) > 0:
        names += f",+{salvage.lost - len(salvage.names)}"
    logger.critical(
        "database damaged, set aside path=%s salvaged=%d lost=%s%s reason=%s",
        word(salvage.aside),
        salvage.salvaged,
        lost,
        f" names={names}" if names else "",
        salvage.reason,
        extra=fields(messages.STORE_SALVAGED),
    )


def log_file_missing(kept: int) -> None:
    """Log that a declared file vanished, and that its entries stay."""
    logger.warning(
        "declared backends kept, their file is missing entries=%d;"
        " reload explicitly to forget them",
        kept,
    )
