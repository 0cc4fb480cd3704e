# SPDX-License-Identifier: AGPL-3.0-only
"""What became of requests, as lines of the log; with fields, so that one backend's life is a query.

INFO is what changed an entry or was asked for by an operator; what only refreshed or refused is
DEBUG, for it comes with every heartbeat.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from plexus_registry import messages
from plexus_registry.errors import ConfigError, StoreError, word
from plexus_registry.messages import fields
from plexus_registry.rules import (
    BackendDeleted,
    BackendDeregistered,
    BackendRegistered,
    BackendUpdated,
    Event,
    Failed,
    Pinged,
    Reloaded,
)

logger = logging.getLogger(__name__)

LOGGED_FAULTS_MAX = 20


def log_event(event: Event, *, is_change: bool, peer: str, declared: Collection[str]) -> None:
    """Log what a request came to.

    Args:
        event: Its answer.
        is_change: Whether something was written for it.
        peer: Who asked.
        declared: Names that files or environment declare.
    """
    shown_peer = word(peer)
    match event:
        case BackendRegistered(backend) | BackendUpdated(backend):
            is_new = isinstance(event, BackendRegistered)
            logger.log(
                logging.INFO if is_change else logging.DEBUG,
                "backend %s name=%s url=%s source=%s peer=%s",
                "registered" if is_new else "updated",
                word(backend.name),
                word(backend.url),
                backend.source.value,
                shown_peer,
                extra=fields(
                    messages.BACKEND_REGISTERED if is_new else messages.BACKEND_UPDATED,
                    backend=backend.name,
                    peer=peer,
                ),
            )
        case BackendDeleted(name):
            back = " (still declared: it comes back at the next reload)"
            logger.info(
                "backend deleted name=%s peer=%s%s",
                word(name),
                shown_peer,
                back if name in declared else "",
                extra=fields(messages.BACKEND_DELETED, backend=name, peer=peer),
            )
        case BackendDeregistered(name):
            logger.info(
                "backend deregistered name=%s peer=%s",
                word(name),
                shown_peer,
                extra=fields(messages.BACKEND_DEREGISTERED, backend=name, peer=peer),
            )
        case Reloaded():
            logger.info(
                "declared backends applied added=%d updated=%d removed=%d unchanged=%d peer=%s",
                event.count,
                event.updated,
                event.removed,
                event.unchanged,
                shown_peer,
                extra=fields(messages.RELOADED, peer=peer),
            )
        case Pinged():
            logger.debug(
                "backend pinged name=%s peer=%s",
                word(event.name),
                shown_peer,
                extra=fields(backend=event.name, peer=peer),
            )
        case Failed():
            logger.debug("request refused reason=%s peer=%s", event.message, shown_peer)
        case _:
            raise AssertionError(f"unknown event: {event}")


def log_reload_failed(reason: Exception, *, peer: str) -> None:
    """Log why declarations could not be read: each fault on a line of its own, bounded."""
    extra = fields(messages.RELOAD_FAILED, peer=peer)
    if not isinstance(reason, ConfigError):
        logger.error("config reload failed, keeping previous", exc_info=reason, extra=extra)
        return
    for fault in reason.faults[:LOGGED_FAULTS_MAX]:
        logger.error("config reload failed, keeping previous: %s", fault, extra=extra)
    unseen = len(reason.faults) - LOGGED_FAULTS_MAX
    if unseen > 0:
        logger.error("config reload failed, keeping previous: %d more faults", unseen, extra=extra)


def log_commit_failed(reason: Exception, *, requests: int) -> None:
    """Log why a group of requests could not be written."""
    extra = fields(messages.STORE_FAILED)
    if isinstance(reason, StoreError):
        logger.error("commit failed requests=%d reason=%s", requests, reason, extra=extra)
    else:
        logger.error("commit failed requests=%d", requests, exc_info=reason, extra=extra)


def log_file_missing(kept: int) -> None:
    """Log that a declared file vanished, and that its entries stay."""
    logger.warning(
        "declared backends kept, their file is missing entries=%d;"
        " reload explicitly to forget them",
        kept,
    )
