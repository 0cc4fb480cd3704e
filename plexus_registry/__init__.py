# SPDX-License-Identifier: AGPL-3.0-only
"""The Plexus backend registry: it knows where every backend is and tells whoever asks.

What an embedding program needs is here, loaded when it is first used; importing the package alone
does no I/O and loads nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "ConfigError",
    "Declaration",
    "Delete",
    "Deregister",
    "Failed",
    "InvalidValue",
    "ListenError",
    "Ping",
    "PlexusRegistryError",
    "Register",
    "Service",
    "Settings",
    "Source",
    "StoreError",
    "Update",
    "__version__",
]

if TYPE_CHECKING:
    from plexus_registry.backend import Backend, Declaration, Source
    from plexus_registry.config.settings import Settings
    from plexus_registry.errors import (
        ConfigError,
        InvalidValue,
        ListenError,
        PlexusRegistryError,
        StoreError,
    )
    from plexus_registry.rules import Delete, Deregister, Failed, Ping, Register, Update
    from plexus_registry.service.service import Service

_HOMES = {
    "plexus_registry.backend": ("Backend", "Declaration", "Source"),
    "plexus_registry.config.settings": ("Settings",),
    "plexus_registry.errors": (
        "ConfigError",
        "InvalidValue",
        "ListenError",
        "PlexusRegistryError",
        "StoreError",
    ),
    "plexus_registry.rules": ("Delete", "Deregister", "Failed", "Ping", "Register", "Update"),
    "plexus_registry.service.service": ("Service",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Load a public name from its module (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value
