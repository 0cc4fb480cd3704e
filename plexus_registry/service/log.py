# SPDX-License-Identifier: AGPL-3.0-only
"""Logs on stderr: with priorities for the journal, with times for a person.

Other modules get their logger by ``logging.getLogger(__name__)``; only this one configures any.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import stat
import sys
from collections.abc import Callable, Mapping
from typing import TextIO

from plexus_registry.messages import FIELDS

IDENTIFIER = "plexus-registry"
SYSLOG_SOCKET = "/dev/log"

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


def priority_of(level: int) -> int:
    """Return the syslog priority of a level of `logging`."""
    return _PRIORITIES[max((known for known in _PRIORITIES if known <= level), default=10)]


class Utf8Formatter(logging.Formatter):
    """The message, with escapes in place of what is not UTF-8, as a path may be.

    Streams escape by themselves; the journal's and syslog's sockets would refuse the line.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format the record, a traceback included."""
        return super().format(record).encode(errors="backslashreplace").decode()


class JournalFormatter(logging.Formatter):
    """Prefixes every line with its priority, ``<N>`` (sd-daemon(3)); the journal has the time."""

    def format(self, record: logging.LogRecord) -> str:
        """Format the record, a traceback's lines included."""
        prefix = _prefix(record.levelno)
        return "\n".join(prefix + line for line in super().format(record).splitlines())


def _prefix(level: int) -> str:
    return f"<{priority_of(level)}>"


def priority_prefix(level: int, stream: TextIO | None, environ: Mapping[str, str]) -> str:
    """Return what a line written to *stream* has to start with: nothing but in the journal."""
    is_journal = stream is not None and is_journal_stream(environ, stream.fileno())
    return _prefix(level) if is_journal else ""


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


class NativeJournalHandler(logging.Handler):
    """Writes to the journal itself, with fields (systemd.journal-fields(7)).

    Args:
        send: ``systemd.journal.send`` of python3-systemd.
    """

    def __init__(self, send: Callable[..., None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; a traceback is part of its message."""
        fields = {name: record.__dict__[name] for name in FIELDS if name in record.__dict__}
        try:
            self._send(
                self.format(record),
                PRIORITY=str(priority_of(record.levelno)),
                SYSLOG_IDENTIFIER=IDENTIFIER,
                LOGGER=record.name,
                CODE_FILE=record.pathname,
                CODE_LINE=record.lineno,
                CODE_FUNC=record.funcName,
                **fields,
            )
        except Exception:  # whoever logs must not pay for it
            self.handleError(record)


def _journal_handler(stream: TextIO) -> logging.Handler:
    try:
        from systemd.journal import send
    except ImportError:
        handler: logging.Handler = logging.StreamHandler(stream)
        handler.setFormatter(JournalFormatter("%(message)s"))
        return handler
    handler = NativeJournalHandler(send)
    handler.setFormatter(Utf8Formatter("%(message)s"))
    return handler


def leads_to_journal(environ: Mapping[str, str]) -> bool:
    """Tell whether standard error leads to the journal."""
    return sys.stderr is not None and is_journal_stream(environ, sys.stderr.fileno())


def configure(environ: Mapping[str, str]) -> None:
    """Send the program's log to stderr, or to the journal if that is where stderr leads.

    Args:
        environ: The environment, which tells whether stderr leads to the journal.
    """
    if sys.stderr is None:
        handler: logging.Handler = logging.NullHandler()
    elif leads_to_journal(environ):
        handler = _journal_handler(sys.stderr)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)-8s %(message)s", "%Y-%m-%d %H:%M:%S")
        )
    _use(handler)


def set_level(level: str) -> None:
    """Choose what of the program's log is shown, before or after it is configured.

    Args:
        level: One of `LEVELS`.
    """
    logging.getLogger("plexus_registry").setLevel(LEVELS[level])


def configure_syslog(address: str = SYSLOG_SOCKET) -> str:
    """Send the program's log to syslog (syslog(3)), if there is one.

    Args:
        address: The socket of the syslog daemon.

    Returns:
        A warning if there is none yet, else nothing.
    """
    handler = logging.handlers.SysLogHandler(address, logging.handlers.SysLogHandler.LOG_DAEMON)
    handler.ident = f"{IDENTIFIER}[{os.getpid()}]: "
    handler.setFormatter(Utf8Formatter("%(message)s"))
    _use(handler)
    # The handler keeps a failure to itself and tries again with every line.
    if handler.socket.fileno() < 0:  # type: ignore[attr-defined]  # unknown to typeshed
        return f"{IDENTIFIER}: there is no log, for syslog does not answer at {address}"
    return ""


def _use(handler: logging.Handler) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
