# SPDX-License-Identifier: AGPL-3.0-only
"""Lines for the journal and how it is recognised."""

from __future__ import annotations

import logging
import os
import socket
import sys

import pytest

from plexus_registry.service.log import JournalFormatter, is_journal_stream


def record(level: int, message: str, *, with_traceback: bool = False) -> logging.LogRecord:
    """Return a record, with the traceback of an exception if wanted."""
    exc_info = None
    if with_traceback:
        try:
            raise ValueError("first\nsecond")
        except ValueError:
            exc_info = sys.exc_info()
    return logging.LogRecord("name", level, "file", 1, message, None, exc_info)


@pytest.mark.parametrize(
    ("level", "prefix"),
    [
        (logging.DEBUG, "<7>"),
        (logging.INFO, "<6>"),
        (logging.INFO + 5, "<6>"),
        (logging.WARNING, "<4>"),
        (logging.ERROR, "<3>"),
        (logging.CRITICAL, "<2>"),
        (logging.CRITICAL + 50, "<2>"),
        (logging.DEBUG - 5, "<7>"),
    ],
)
def test_level_becomes_a_priority(level: int, prefix: str) -> None:
    """A level between two known ones counts as the lower; the journal's own fields are left out."""
    assert JournalFormatter("%(message)s").format(record(level, "message")) == f"{prefix}message"


def test_every_line_of_a_traceback_has_the_priority() -> None:
    """The journal takes each line for a message of its own."""
    shown = JournalFormatter("%(message)s").format(
        record(logging.ERROR, "two\nlines", with_traceback=True)
    )

    lines = shown.split("\n")
    assert lines[:3] == ["<3>two", "<3>lines", "<3>Traceback (most recent call last):"]
    assert lines[-2:] == ["<3>ValueError: first", "<3>second"]
    assert all(line.startswith("<3>") for line in lines)


def test_journal_is_the_socket_that_the_variable_names() -> None:
    """Device and inode both count, and only for a socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    read_end, write_end = os.pipe()
    try:
        found, pipe = os.fstat(theirs.fileno()), os.fstat(write_end)
        named = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}

        assert is_journal_stream(named, theirs.fileno())
        assert not is_journal_stream(named, ours.fileno())
        assert not is_journal_stream(named, write_end)
        for value in ("", ":", "x", "1:2:3", str(found.st_ino), f"{found.st_dev}:{found.st_ino}0"):
            assert not is_journal_stream({"JOURNAL_STREAM": value}, theirs.fileno())
        assert not is_journal_stream({}, theirs.fileno())
        named = {"JOURNAL_STREAM": f"{pipe.st_dev}:{pipe.st_ino}"}
        assert not is_journal_stream(named, write_end)
    finally:
        ours.close()
        theirs.close()
        os.close(read_end)
        os.close(write_end)
    assert not is_journal_stream(named, write_end)
