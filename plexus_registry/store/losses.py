# SPDX-License-Identifier: AGPL-3.0-only
"""What was in a database and is gone, as far as that can be noticed at start."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from plexus_registry.store.lock import is_there
from plexus_registry.store.wal import read_log

logger = logging.getLogger(__name__)


def tell_losses(path: Path, *, has_lost_log: bool) -> None:
    """Log that a database holds less than somebody may expect.

    Args:
        path: The database, not opened yet.
        has_lost_log: See `lock.Lock`.
    """
    _warn_of_empty(path)
    # A log that is damaged is told by the salvage, with what could be read of it.
    if has_lost_log and not read_log(path).fault:
        logger.critical(
            "write-ahead log of the database is missing or empty, changes that were in it are lost"
            " path=%s-wal, restore a backup if it is newer than database=%s",
            path,
            path,
        )


def _warn_of_empty(path: Path) -> None:
    """Say that a database that is there holds nothing: somebody may miss what was in it.

    With a log beside it, what it holds is in the log.
    """
    logs = [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-journal")]
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size == 0 and not any(map(is_there, logs)):
            logger.warning(
                "database is an empty file and begins anew path=%s, restore a backup if it was not"
                " meant to be empty",
                path,
            )
