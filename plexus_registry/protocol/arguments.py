# SPDX-License-Identifier: AGPL-3.0-only
"""The forms in which the hub's own methods take their params (wire protocol, 2 and 3.1)."""

from __future__ import annotations

from typing import Any

import msgspec

from plexus_registry.protocol.jsonrpc import MALFORMED
from plexus_registry.protocol.parameters import Mismatch, describe
from plexus_registry.protocol.streams import SUBSCRIPTION_ID_MAX


class CallArguments(msgspec.Struct, gc=False):
    """What ``call`` is asked to call.

    Attributes:
        method: Full name, ``namespace.method``.
        params: Of that method, as JSON; ``null`` if absent.
    """

    method: str
    params: msgspec.Raw = msgspec.Raw(b"null")


_decode = msgspec.json.Decoder().decode
_decode_named = msgspec.json.Decoder(CallArguments).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode


def decoded(params: msgspec.Raw) -> Any:
    """Decode params, which are sound JSON.

    Raises:
        Mismatch: If they hold a number that no type holds.
    """
    try:
        return _decode(params)
    except MALFORMED:
        raise Mismatch("cannot be read, expected numbers within 64-bit floating point") from None


def call_arguments(params: msgspec.Raw) -> CallArguments:
    """Read the params of ``call``: ``{"method": …, "params": …}`` or ``[method, params]``.

    Raises:
        Mismatch: If they have another form.
    """
    try:
        return _decode_named(params)
    except MALFORMED:
        pass
    try:
        method, *rest = _decode_list(params)
        return CallArguments(_decode_text(method), *rest[:1])
    except (*MALFORMED, ValueError):
        pass
    given = decoded(params)
    if not isinstance(given, dict):
        raise Mismatch("expected an object with method and params")
    if "method" not in given:
        raise Mismatch("missing field: method")
    raise Mismatch(f"invalid type: {describe(given['method'])}, expected a string for method")


def method_asked_for(params: msgspec.Raw) -> str | None:
    """Return the method that a schema query names; params of any other form ask for all."""
    try:
        given = decoded(params)
    except Mismatch:
        return None
    name = given.get("method") if isinstance(given, dict) else None
    if isinstance(given, list) and given:
        name = given[0]
    return name if isinstance(name, str) else None


def subscription_named_in(params: msgspec.Raw) -> int | None:
    """Return the id in the params of an unsubscribe method: ``[id]`` or ``{"subscription": id}``.

    An id may come as a string. None stands for params of any other form.
    """
    try:
        given = decoded(params)
    except Mismatch:
        return None
    if isinstance(given, dict):
        given = [given.get("subscription")]
    if not isinstance(given, list) or len(given) != 1:
        return None
    (id,) = given
    if isinstance(id, str):
        return int(id) if id.isdecimal() and len(id) <= len(str(SUBSCRIPTION_ID_MAX)) else None
    return id if isinstance(id, int) and not isinstance(id, bool) else None
