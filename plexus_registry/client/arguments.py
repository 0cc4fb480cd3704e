# SPDX-License-Identifier: AGPL-3.0-only
"""What callers give, checked before anything is sent."""

from __future__ import annotations

from typing import Any

from plexus_registry import backend as fields
from plexus_registry.backend import Source
from plexus_registry.errors import InvalidValue


def registration(
    name: str,
    host: str,
    port: int,
    *,
    protocol: str,
    description: str | None,
    namespace: str | None,
    version: str | None,
    metadata: object,
) -> dict[str, Any]:
    """Check what is to be registered, and return it as parameters of ``registry.register``.

    Raises:
        InvalidValue: If a field holds what no registry accepts.
    """
    params: dict[str, Any] = {
        "name": fields.check_name(name),
        "host": fields.check_host(host),
        "port": fields.check_port(port),
        "protocol": fields.check_protocol(protocol),
        "description": fields.check_description(description),
        "namespace": fields.check_namespace(namespace),
        "version": fields.check_version(version),
        "metadata": fields.check_metadata(metadata),
    }
    return {field: value for field, value in params.items() if value is not None}


def check_seconds(field: str, value: float) -> float:
    """Return *value* if it is a time that can be waited.

    Raises:
        InvalidValue: If it is not above 0, or no end is in sight.
    """
    if not 0 < value < float("inf"):
        raise InvalidValue(field, value, "seconds, more than 0")
    return value


def check_source(source: str) -> str:
    """Return *source* if a client may say it.

    Raises:
        InvalidValue: If it is neither ``auto`` nor ``manual``.
    """
    # The registry takes every other word for "manual".
    if source not in (Source.AUTO, Source.MANUAL):
        raise InvalidValue("source", source, '"auto" or "manual"')
    return str(source)


def check_token(token: str) -> str:
    """Return *token* if it can be sent in a header.

    Raises:
        InvalidValue: If it cannot; the message does not show it.
    """
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise InvalidValue("token", f"{len(token)} characters", "one word of ASCII")
    return token
