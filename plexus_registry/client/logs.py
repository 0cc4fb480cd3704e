# SPDX-License-Identifier: AGPL-3.0-only
"""The client's logger, and how a registry's words get into its lines."""

from __future__ import annotations

import logging

from plexus_registry.errors import quote

REASON_MAX_CHARACTERS = 500

logger = logging.getLogger("plexus_registry.client")


def shown(reason: str) -> str:
    """Show a sentence as it is if it fits into a line, else quoted and cut."""
    fits = len(reason) <= REASON_MAX_CHARACTERS and reason.isprintable()
    return reason if fits else quote(reason)
