# SPDX-License-Identifier: AGPL-3.0-only
"""What callers give, checked before anything is sent."""

from __future__ import annotations

from typing import Any

import msgspec

from plexus_registry import backend as fields
from plexus_registry.backend import GREATEST_LIMITS, Source
from plexus_registry.errors import InvalidValue

_encode = msgspec.json.Encoder().encode

_NOT_JSON = (TypeError, ValueError, OverflowError, RecursionError)


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
        "description": fields.check_description(description, GREATEST_LIMITS),
        "namespace": fields.check_namespace(namespace),
        "version": fields.check_version(version),
        # Most registries would leave out a longer one without a word.
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


def encoded(request: dict[str, object]) -> bytes:
    """Return the JSON of *request*.

    Raises:
        InvalidValue: If there is none, as of an object, or of a text that UTF-8 cannot hold; with
            the innermost name of what has none.
    """
    try:
        return _encode(request)
    except _NOT_JSON:
        field, value = _culprit(request)
        raise InvalidValue(field, value, "what JSON can hold, in UTF-8") from None


def _culprit(request: object) -> tuple[str, object]:
    field, value = "request", request
    while isinstance(value, dict):
        for key, part in value.items():
            try:
                _encode({key: None})
            except _NOT_JSON:
                return field, value
            try:
                _encode(part)
            except RecursionError:  # there may be no end to what is inside
                return str(key), part
            except _NOT_JSON:
                field, value = str(key), part
                break
        else:  # each part by itself is just not too deep
            break
    return field, value
