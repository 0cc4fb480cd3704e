# SPDX-License-Identifier: AGPL-3.0-only
"""Logs on stderr: with priorities for the journal, with times for a person.

Other modules get their logger by ``logging.getLogger(__name__)``; only this one configures any.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Mapping

_PRIORITIES = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


class JournalFormatter(logging.Formatter):
    """Prefixes every line with its priority, ``<N>`` (sd-daemon(3)); the journal has the time."""

    def format(self, record: logging.LogRecord) -> str:
        """Format the record, a traceback's lines included."""
        level = max((known for known in _PRIORITIES if known <= record.levelno), default=10)
        prefix = f"<{_PRIORITIES[level]}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


def is_journal_stream(environ: Mapping[str, str], descriptor: int) -> bool:
    """Tell whether the descriptor leads to the journal (``$JOURNAL_STREAM``, systemd.exec(5))."""
    device, separator, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    if not separator:
        return False
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return stat.S_ISSOCK(status.st_mode) and f"{status.st_dev}:{status.st_ino}" == (
        f"{device}:{inode}"
    )


def configure(level: str, environ: Mapping[str, str]) -> None:
    """Send the program's log to stderr.

    Args:
        level: One of `LEVELS`.
        environ: The environment, which tells whether stderr leads to the journal.
    """
    handler = logging.StreamHandler(sys.stderr) if sys.stderr else logging.NullHandler()
    if sys.stderr and is_journal_stream(environ, sys.stderr.fileno()):
        handler.setFormatter(JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)-8s %(message)s", "%Y-%m-%d %H:%M:%S")
        )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("plexus_registry").setLevel(LEVELS[level])
    logging.captureWarnings(True)
