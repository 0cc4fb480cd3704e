# SPDX-License-Identifier: AGPL-3.0-only
"""Talking to a registry: `Client` asks it, `announce` tells it of a hub.

What is public is here, loaded when it is first used: importing this loads nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "Announcement",
    "Backend",
    "BackendNotFound",
    "Client",
    "InvalidValue",
    "OutcomeUnknown",
    "PlexusRegistryError",
    "Refused",
    "Reload",
    "Source",
    "Unreachable",
    "announce",
]

if TYPE_CHECKING:
    from plexus_registry.backend import Backend, Source
    from plexus_registry.client.announcement import Announcement, announce
    from plexus_registry.client.client import Client
    from plexus_registry.client.results import Reload
    from plexus_registry.errors import (
        BackendNotFound,
        InvalidValue,
        OutcomeUnknown,
        PlexusRegistryError,
        Refused,
        Unreachable,
    )

_HOMES = {
    "plexus_registry.backend": ("Backend", "Source"),
    "plexus_registry.client.announcement": ("Announcement", "announce"),
    "plexus_registry.client.client": ("Client",),
    "plexus_registry.client.results": ("Reload",),
    "plexus_registry.errors": (
        "BackendNotFound",
        "InvalidValue",
        "OutcomeUnknown",
        "PlexusRegistryError",
        "Refused",
        "Unreachable",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Load a public name from its module (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value
