# SPDX-License-Identifier: AGPL-3.0-only
"""Exit statuses, in the style of sysexits.h(3head)."""

from __future__ import annotations

import enum

from plexus_registry.errors import (
    AlreadyRunning,
    ConfigError,
    InvalidValue,
    ListenError,
    NotWritten,
    PlexusRegistryError,
    Refused,
    StoreCorrupt,
    StoreError,
    StoreInUse,
    StoreRejected,
    StoreTooNew,
    StoreUnavailable,
    Unreachable,
)


class Exit(enum.IntEnum):
    """What the program's exit status says."""

    OK = 0
    REFUSED = 1
    USAGE = 64
    DATA = 65
    UNAVAILABLE = 69
    SOFTWARE = 70
    CANNOT_CREATE = 73
    IO = 74
    TEMPORARY = 75
    CONFIG = 78


MEANINGS = {
    Exit.OK: "stopped as asked, or the question was answered",
    Exit.REFUSED: "the registry refused what was asked",
    Exit.USAGE: "the command line is wrong",
    Exit.DATA: "what is there is no sound database, or a newer version wrote it",
    Exit.UNAVAILABLE: "the address cannot be listened on, or no registry answers there",
    Exit.SOFTWARE: "a fault of the program itself; the log has the traceback",
    Exit.CANNOT_CREATE: "a file to be written exists, or a default one or a unit cannot be",
    Exit.IO: "the database, its copy, the tokens or the output cannot be read or written",
    Exit.TEMPORARY: "another process holds the database or the PID file",
    Exit.CONFIG: "settings or declared backends have faults",
}
"""For the manual and ``--help``."""

# The first class that fits counts.
_BY_ERROR: tuple[tuple[type[PlexusRegistryError], Exit], ...] = (
    (ConfigError, Exit.CONFIG),
    (InvalidValue, Exit.USAGE),
    (NotWritten, Exit.IO),
    (ListenError, Exit.UNAVAILABLE),
    (Unreachable, Exit.UNAVAILABLE),
    (Refused, Exit.REFUSED),
    (AlreadyRunning, Exit.TEMPORARY),
    (StoreInUse, Exit.TEMPORARY),
    (StoreTooNew, Exit.DATA),
    (StoreCorrupt, Exit.DATA),
    (StoreRejected, Exit.CANNOT_CREATE),
    (StoreUnavailable, Exit.IO),
    (StoreError, Exit.IO),
    (PlexusRegistryError, Exit.SOFTWARE),
)


class Failure(PlexusRegistryError):
    """A command did not get what it was to get.

    Attributes:
        status: What the program's exit status is to be.
    """

    def __init__(self, status: Exit, message: str) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: PlexusRegistryError) -> Exit:
    """Return the exit status for an error."""
    if isinstance(error, Failure):
        return error.status
    if isinstance(error, ConfigError) and all(
        fault.place.startswith("--") for fault in error.faults
    ):
        return Exit.USAGE
    return next(status for kind, status in _BY_ERROR if isinstance(error, kind))
