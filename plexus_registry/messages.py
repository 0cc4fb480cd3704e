# SPDX-License-Identifier: AGPL-3.0-only
"""Ids of log messages, and the fields that go with them into the journal.

An id is for good: `journalctl MESSAGE_ID=` and what watches the journal rely on it.
``systemd/plexus-registry.catalog`` explains each to an operator (journalctl(1), ``--catalog``).
"""

from __future__ import annotations

from typing import Final

RELOADED: Final = "d08b60f005a846a68807a0164d0b9396"
"""Declared backends were applied."""
RELOAD_FAILED: Final = "acdf32541380420ca022816a27bfd54c"
"""Declared backends have a fault; nothing changed."""
BACKEND_REGISTERED: Final = "328cf7fe9b1f4d64916073faf07878a5"
"""An entry was made or taken over."""
BACKEND_UPDATED: Final = "ca4761d632ad408cbef836ede6e93148"
"""An entry was changed."""
BACKEND_DELETED: Final = "798595f4c1664ed98efb1db683be9aba"
"""An entry was removed."""
BACKEND_DEREGISTERED: Final = "13714081905c447380c6cd4ca17e0c21"
"""A hub said good-bye; its entry is inactive."""
STORE_FAILED: Final = "311016105aa04bab9dc283db71806573"
"""A change could not be written."""
STORE_SALVAGED: Final = "60946695b69846f3b754186ff4aa3a3a"
"""The database was damaged: it was set aside, and a new one holds what could be salvaged."""
CONFIG_REFUSED: Final = "2a3aa8ae996d490aa7add5c33826ef0e"
"""The daemon does not start because settings or declared backends have a fault."""

FIELDS: Final = ("MESSAGE_ID", "PLEXUS_BACKEND", "PLEXUS_PEER")
"""Attributes of a log record that are fields of their own in the journal."""


def fields(message_id: str = "", *, backend: str = "", peer: str = "") -> dict[str, str]:
    """Return the fields of a log message, for its ``extra``; empty ones are left out.

    Args:
        message_id: One of the ids of this module.
        backend: Name of the backend that it is about.
        peer: Who asked.
    """
    named = zip(FIELDS, (message_id, backend, peer), strict=True)
    return {field: value for field, value in named if value}
