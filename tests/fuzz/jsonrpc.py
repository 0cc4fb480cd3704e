# SPDX-License-Identifier: AGPL-3.0-only
"""Messages to a session with a registry, one after another; a NUL byte parts them.

Python's own JSON parser says, independently, what has to be answered, and to which id.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from plexus_registry.protocol.batch import DEFAULT_MAX_BATCH
from plexus_registry.protocol.nesting import DEFAULT_MAX_NESTING
from support.sessions import Desk, request
from support.soundness import Json, check_entries, check_sent

MESSAGES_MAX = 32

_NOTHING = object()
"""A notification's answer."""


def one_input(data: bytes) -> None:
    """Each message is answered as JSON-RPC says, and leaves registry and session sound."""
    desk = Desk()
    for message in data.split(b"\0", MESSAGES_MAX - 1):
        before = list(desk.registry.catalog)
        desk.receive(message)
        desk.advance()
        assert desk.session.pending == 0
        assert not desk.session.is_busy
        responses = check_sent(desk.session.messages_to_send())
        check_entries(desk.registry.catalog, desk.store.load())
        check_answer(message, responses)
        if not responses:
            assert list(desk.registry.catalog) == before
    info = desk.ask(request("still there", "_info"))
    assert [answer.get("id") for answer in info] == ["still there", None, None]


def check_answer(message: bytes, responses: list[Json | list[Json]]) -> None:
    """Compare responses with what the message asked for."""
    assert len(responses) <= 1
    try:
        asked = json.loads(
            message.decode(),
            object_pairs_hook=_Members,
            parse_constant=_no_json,
            parse_int=_number,
        )
    except (ValueError, RecursionError):
        if responses:
            assert isinstance(responses[0], dict)
            assert responses[0]["error"]["code"] in (-32700, -32600)
        return
    if _depth_of(asked) > DEFAULT_MAX_NESTING:
        (response,) = responses
        assert isinstance(response, dict)
        assert response["error"]["code"] in (-32700, -32600)
        return
    if not isinstance(asked, list):
        expected = [] if (id := _id_of(asked)) is _NOTHING else [id]
        assert len(responses) == len(expected)
        for response, id in zip(responses, expected, strict=True):
            assert isinstance(response, dict)
            assert _fits(response["id"], id)
        return
    if not 0 < len(asked) <= DEFAULT_MAX_BATCH:
        (response,) = responses
        assert isinstance(response, dict)
        assert response["id"] is None
        assert "error" in response
        return
    (batch,) = responses or [[]]
    if isinstance(batch, dict):
        # A number beyond what one of the parsers holds.
        assert batch["error"]["code"] == -32700
        return
    ids = [id for id in map(_id_of, asked) if id is not _NOTHING]
    assert len(batch) == len(ids)
    assert all(_fits(response["id"], id) for response, id in zip(batch, ids, strict=True))


class _Members(tuple[tuple[str, Any], ...]):
    """An object's members, those that stand twice included."""

    __slots__ = ()


def _depth_of(asked: Any) -> int:
    """Return how many arrays and objects are within one another at most."""
    deepest, left = 0, [(asked, 1)]
    while left:
        value, depth = left.pop()
        if isinstance(value, _Members | list):
            deepest = max(deepest, depth)
            inner = [one for _, one in value] if isinstance(value, _Members) else value
            left += [(one, depth + 1) for one in inner]
    return deepest


def _id_of(asked: Any) -> Any:
    """Return the id that must be answered to, None if there is none that could be used."""
    if not isinstance(asked, _Members):
        return None
    names = [name for name, _ in asked]
    is_call = (
        all(names.count(name) == 1 for name in ("jsonrpc", "method"))
        and ("jsonrpc", "2.0") in asked
        and isinstance(dict(asked)["method"], str)
    )
    if "id" not in names and names.count("params") <= 1 and is_call:
        return _NOTHING
    id = dict(asked).get("id")  # the last one, if there are several
    is_number = isinstance(id, int) and not isinstance(id, bool) and -(2**63) <= id < 2**64
    return id if is_number or isinstance(id, str) else None


def _fits(given: object, expected: object) -> bool:
    return type(given) is type(expected) and given == expected


def _number(text: str) -> float:
    """Read an integer; Python refuses those of thousands of digits, which no id can be anyway."""
    return int(text) if len(text) < 100 else float(text)


def _no_json(word: str) -> NoReturn:
    raise ValueError(word)
