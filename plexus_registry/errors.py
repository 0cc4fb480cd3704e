# SPDX-License-Identifier: AGPL-3.0-only
"""Every error that the package raises on purpose.

::

    PlexusRegistryError
    ├── InvalidValue          a field holds something that is not accepted
    ├── AnswerTooLarge        what was asked for is more than is given at once
    ├── ConfigError           files or settings have faults; nothing was applied
    │   └── AccessFault       it is the tokens or the certificate
    ├── NotWritten            a file cannot be written
    ├── ListenError           an address cannot be listened on
    ├── AlreadyRunning        another daemon holds the PID file
    ├── Unreachable           a registry cannot be talked to
    │   └── OutcomeUnknown    a change was sent, and its answer did not come
    ├── Refused               a registry refused what was asked
    │   └── BackendNotFound   it knows no backend of that name
    └── StoreError            the store cannot do what was asked
        ├── StoreUnavailable  the machine's fault: full, read-only, I/O error
        ├── StoreRejected     this one change cannot be written, others can
        ├── StoreCorrupt      the file is no sound database
        │   └── StoreDamaged  what is in it is not what was written
        ├── StoreInUse        another process holds the database
        └── StoreTooNew       a newer version of the program wrote the database

``str()`` of each is one sentence that says what was wrong and what would be right. This module
imports nothing of the package.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

QUOTED_MAX_CHARACTERS = 80
QUOTED_MAX_ESCAPED_CHARACTERS = 240
WORD_MAX_CHARACTERS = 128


def quote(value: object) -> str:
    """Show *value* in a message: as JSON where it has a JSON form, bounded, on one line, in ASCII.

    Peer-supplied text reaches messages and logs through this function or `word` only, so that it
    can neither flood nor forge them.
    """
    if isinstance(value, str):
        shown = value[:QUOTED_MAX_CHARACTERS]
        while len(json.dumps(shown)) > QUOTED_MAX_ESCAPED_CHARACTERS:  # an escape is 6 characters
            shown = shown[: len(shown) // 2]
        cut = f"… ({len(value)} characters)" if shown != value else ""
        return json.dumps(shown) + cut
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        # Python refuses str() of a huge integer: sys.set_int_max_str_digits().
        return str(value) if value.bit_length() <= 128 else "an integer beyond 128 bits"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"a table of {len(value)}"
    return f"a {type(value).__name__}"


def word(text: str) -> str:
    """Show a name or an address in a log line: as it is if it is one plain word, else quoted.

    A text that looks as if it was quoted is quoted too, so that no text can pass for another.
    """
    is_plain = 1 <= len(text) <= WORD_MAX_CHARACTERS and text.isprintable() and " " not in text
    return text if is_plain and not text.startswith('"') else quote(text)


class PlexusRegistryError(Exception):
    """Base of all errors of this package."""


class InvalidValue(PlexusRegistryError):
    """A field holds a value that is not accepted.

    Attributes:
        field: Name of the field, as on the wire.
        accepted: What would be accepted, in words.
    """

    def __init__(self, field: str, given: object, accepted: str) -> None:
        super().__init__(f"{field}: {quote(given)} is not accepted, expected {accepted}")
        self.field = field
        self.accepted = accepted


class AnswerTooLarge(PlexusRegistryError):
    """What was asked for is more than is given at once."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(
            f"that takes more than {max_bytes} bytes (max_answer_size), ask for fewer at a time"
            " by limit and after"
        )


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One fault in a file or a setting.

    Attributes:
        place: The file's path, or where the setting came from (``$REGISTRY_PORT``, ``--port``).
        line: Line number in the file, from 1; 0 where there are no lines.
        message: What is wrong and what would be right.
    """

    place: str
    line: int
    message: str

    def __str__(self) -> str:
        where = f"{self.place}:{self.line}" if self.line else self.place
        return f"{where}: {self.message}"


class ConfigError(PlexusRegistryError):
    """Files or settings have faults.

    Attributes:
        faults: All of them, at least one, in the order of the files.
    """

    def __init__(self, faults: list[Fault]) -> None:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        super().__init__(f"{faults[0]}{more}")
        self.faults = faults


class AccessFault(ConfigError):
    """The file of tokens, or certificate and key, has faults."""


class NotWritten(PlexusRegistryError):
    """A file cannot be written, for the disk is full or it is not permitted."""

    def __init__(self, path: object, reason: str | None) -> None:
        super().__init__(f"{path}: cannot be written: {reason}")


class ListenError(PlexusRegistryError):
    """An address cannot be listened on: taken, not ours, or not permitted."""


class AlreadyRunning(PlexusRegistryError):
    """Another daemon holds the PID file."""


class Unreachable(PlexusRegistryError):
    """A registry cannot be talked to, or its answer did not come.

    Attributes:
        url: Where it was expected.
        reason: Why it does not answer, without the URL.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"no registry answers at {url}: {reason}")
        self.url = url
        self.reason = reason


class OutcomeUnknown(Unreachable):
    """A change was sent, and its answer did not come: it may be applied, or may yet be."""


class Refused(PlexusRegistryError):
    """A registry refused what was asked, in its own words."""


class BackendNotFound(Refused):
    """A registry knows no backend of the name that was asked for."""


class StoreError(PlexusRegistryError):
    """The store cannot do what was asked."""


class StoreUnavailable(StoreError):
    """The machine's fault: disk full, file system read-only, I/O error. Later it may work again."""


class StoreRejected(StoreError):
    """One of the changes cannot be written; others can."""


class StoreCorrupt(StoreError):
    """The file is no sound database."""


class StoreDamaged(StoreCorrupt):
    """What is in the file is not what was written.

    Attributes:
        reason: What is wrong with it, without the file's name.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class StoreInUse(StoreError):
    """Another process holds the database."""


class StoreTooNew(StoreError):
    """A newer version of the program wrote the database."""
