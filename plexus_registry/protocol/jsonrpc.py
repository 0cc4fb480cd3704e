# SPDX-License-Identifier: AGPL-3.0-only
"""JSON-RPC 2.0 framing: bytes to requests, answers to bytes (wire protocol, 1.3 and 1.4).

Stricter than the JSON-RPC specification asks, as the Plexus clients and servers are: a request's
id is an integer of 64 bits, a string or null, and a top-level key may stand once.
"""

from __future__ import annotations

import json
from typing import Final, Literal

import msgspec

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603

MESSAGES: Final = {
    PARSE_ERROR: "Parse error",
    INVALID_REQUEST: "Invalid request",
    METHOD_NOT_FOUND: "Method not found",
    INVALID_PARAMS: "Invalid params",
    INTERNAL_ERROR: "Internal error",
}

LEADING_BLANKS_MAX: Final = 127
INT64_DIGITS: Final = 19
NULL: Final = b"null"
_BLANKS: Final = b" \t\n\r"
_MEMBERS: Final = (b'"jsonrpc"', b'"id"', b'"method"', b'"params"')


class RpcError(Exception):
    """A request that gets an error object for an answer.

    Attributes:
        code: One of the codes of this module.
        id: The request's id as JSON, ``null`` if it had no usable one.
        message: The ``message`` of the error object.
        data: The ``data`` of the error object, None for no such key.
    """

    def __init__(
        self, code: int, id: bytes = NULL, *, message: str | None = None, data: str | None = None
    ) -> None:
        super().__init__(message or MESSAGES[code])
        self.code = code
        self.id = id
        self.message = message or MESSAGES[code]
        self.data = data


class Request(msgspec.Struct, gc=False):
    """One call.

    Attributes:
        id: As JSON, to be echoed letter by letter; None for a notification.
        method: The method's name.
        params: As JSON; ``null`` if absent.
    """

    id: bytes | None
    method: str
    params: msgspec.Raw


class _Call(msgspec.Struct, gc=False):
    jsonrpc: Literal["2.0"]
    method: str
    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    params: msgspec.Raw = msgspec.Raw(NULL)


class _AnyObject(msgspec.Struct, gc=False):
    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_call = msgspec.json.Decoder(_Call).decode
_decode_any_object = msgspec.json.Decoder(_AnyObject).decode
_decode_entries = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode_text = msgspec.json.Encoder().encode

MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for text that is no JSON, is no UTF-8, or is nested deeper than it goes.

`msgspec.ValidationError`, for JSON of another type than asked, is a `msgspec.DecodeError`.
"""
_BROKEN: Final = (msgspec.DecodeError, UnicodeDecodeError)

_COMPACT_BYTES: Final = len(b'{"jsonrpc":"2.0","id":,"method":"","params":}')


def split(message: bytes) -> bytes | list[msgspec.Raw]:
    """Tell a single message from a batch: return the message, or the entries of the batch.

    Raises:
        RpcError: If the message begins with neither ``{`` nor ``[``, is no UTF-8, or is a broken
            batch (parse error), or is an empty batch (invalid request).
        RecursionError: If it is nested deeper than decoding goes.
    """
    if not message.isascii():
        try:
            message.decode()
        except UnicodeDecodeError:
            raise RpcError(PARSE_ERROR) from None
    first = message[:1]
    if first != b"{":
        trimmed = message.lstrip(_BLANKS)
        first = trimmed[:1]
        if first not in (b"{", b"[") or len(message) - len(trimmed) > LEADING_BLANKS_MAX:
            raise RpcError(PARSE_ERROR)
    if first == b"{":
        return message
    try:
        entries = _decode_entries(message)
    except _BROKEN:
        raise RpcError(PARSE_ERROR) from None
    if not entries:
        raise RpcError(INVALID_REQUEST)
    return entries


def parse(message: bytes | msgspec.Raw, *, in_batch: bool = False) -> Request:
    """Parse one JSON object into a request.

    Raises:
        RpcError: With the id to answer to.
        RecursionError: If it is nested deeper than decoding goes.
    """
    malformed = INVALID_REQUEST if in_batch else PARSE_ERROR
    try:
        call = _decode_call(message)
    except _BROKEN:
        id = _find_id(message)
        raise RpcError(malformed if id is None else INVALID_REQUEST, id or NULL) from None
    if call.id is msgspec.UNSET:
        if _has_duplicate_members(bytes(message), call.params):
            raise RpcError(malformed)
        return Request(None, call.method, call.params)
    id = bytes(call.id)
    if not (id.isdigit() and len(id) < INT64_DIGITS) and not _is_usable_id(id):
        raise RpcError(INVALID_REQUEST)
    # As long as its members and not a byte longer: there is no room for another one.
    compact = _COMPACT_BYTES + len(id) + len(call.method) + len(call.params)
    if len(message) != compact and _has_duplicate_members(bytes(message), call.params):
        raise RpcError(INVALID_REQUEST, id)
    return Request(id, call.method, call.params)


def result(id: bytes, value: bytes) -> bytes:
    """Encode the answer with a result that is JSON already."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id, value)


def accepted(id: bytes, subscription: int) -> bytes:
    """Encode the answer that a subscription has begun."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%d}' % (id, subscription)


def error(fault: RpcError) -> bytes:
    """Encode the answer with an error object; it has no keys beyond code, message and data."""
    data = b"" if fault.data is None else b',"data":%b' % _encode_text(fault.data)
    return b'{"jsonrpc":"2.0","id":%b,"error":{"code":%d,"message":%b%b}}' % (
        fault.id,
        fault.code,
        _encode_text(fault.message),
        data,
    )


def _find_id(message: bytes | msgspec.Raw) -> bytes | None:
    """Find the usable id of an object that is no valid request."""
    try:
        id = _decode_any_object(message).id
    except MALFORMED:
        return None
    if id is msgspec.UNSET or not _is_usable_id(bytes(id)):
        return None
    return bytes(id)


def _is_usable_id(id: bytes) -> bool:
    if id.isdigit() or id[:1] == b"-":
        # Other peers hold ids in 64 bits; int() is bounded by the length first.
        return len(id) <= 20 and id.lstrip(b"-").isdigit() and -(2**63) <= int(id) < 2**64
    return id[:1] == b'"' or id == NULL


def _has_duplicate_members(message: bytes, params: msgspec.Raw) -> bool:
    """Tell whether a top-level key of JSON-RPC stands twice (RFC 8259, section 4).

    Counting outside of params rules it out for nearly every message; the exact look follows only
    where the counts or an escape leave a doubt.
    """
    inner = bytes(params)
    count, count_inner = message.count, inner.count
    if b"\\" not in message and all(count(member) - count_inner(member) < 2 for member in _MEMBERS):
        return False
    try:
        pairs = json.loads(message, object_pairs_hook=list, parse_int=str, parse_float=str)
    except RecursionError:
        return True
    keys = [key for key, _ in pairs if key in ("jsonrpc", "id", "method", "params")]
    return len(keys) != len(set(keys))
