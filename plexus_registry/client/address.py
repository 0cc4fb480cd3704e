# SPDX-License-Identifier: AGPL-3.0-only
"""Where a registry is, from its client's side."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from plexus_registry.errors import InvalidValue

URL_VARIABLE: Final = "PLEXUS_REGISTRY_URL"
TOKEN_VARIABLE: Final = "PLEXUS_REGISTRY_TOKEN"  # noqa: S105
DEFAULT_URL: Final = "ws://127.0.0.1:4445"
UNIX_PREFIX: Final = "unix:"
ACCEPTED: Final = "ws://HOST:PORT, wss://HOST:PORT or unix:/PATH"

_SOCKET = Path("plexus-registry/registry.sock")
_SYSTEM_SOCKET = Path("/run") / _SOCKET


def check_url(url: str) -> str:
    """Return *url* if it has a form that leads to a registry.

    Raises:
        InvalidValue: If it has another form.
    """
    if url.startswith(f"{UNIX_PREFIX}/") or _is_websocket_url(url):
        return url
    raise InvalidValue("url", url, ACCEPTED)


def _is_websocket_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # brackets without an address, a port beyond 65535
        return False
    has_place = bool(parts.hostname) and port != 0 and not parts.fragment
    return parts.scheme in ("ws", "wss") and has_place and url.isprintable() and " " not in url


def find(environ: Mapping[str, str]) -> str:
    """Find the registry that a client talks to unless told otherwise.

    In this order: ``$PLEXUS_REGISTRY_URL``, the Unix socket of the user's registry, that of the
    system's, and the default port of this machine.

    Raises:
        InvalidValue: If the variable holds no URL of a registry.
    """
    if environ.get(URL_VARIABLE):
        return check_url(environ[URL_VARIABLE])
    runtime = environ.get("XDG_RUNTIME_DIR")
    sockets = [*([Path(runtime) / _SOCKET] if runtime else []), _SYSTEM_SOCKET]
    for path in sockets:
        # Where one may not look, as in the folder of somebody else's session, there is nothing.
        with contextlib.suppress(OSError):
            if path.is_socket():
                return f"{UNIX_PREFIX}{path}"
    return DEFAULT_URL
