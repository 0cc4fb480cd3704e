# SPDX-License-Identifier: AGPL-3.0-only
"""JSON-RPC framing: which bytes are requests, what their ids are, how answers look."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plexus_registry.protocol.jsonrpc import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    LEADING_BLANKS_MAX,
    PARSE_ERROR,
    RpcError,
    error,
    parse,
    result,
    split,
)


def refusal_of(message: bytes, *, in_batch: bool = False) -> tuple[int, bytes]:
    """Parse what must be refused; return code and id."""
    with pytest.raises(RpcError) as refused:
        parse(message, in_batch=in_batch)
    return refused.value.code, refused.value.id


def outcome_of(message: bytes) -> list[bytes | None] | int:
    """Read a message; return the ids of its requests, or the code with which it is refused."""
    try:
        parts = split(message)
        return [parse(part).id for part in ([parts] if isinstance(parts, bytes) else parts)]
    except RpcError as refusal:
        msgspec.json.decode(error(refusal))
        return refusal.code


def with_id(id: str) -> bytes:
    """Return a request with that id, given as JSON."""
    return b'{"jsonrpc":"2.0","method":"m","id":%b}' % id.encode("utf-8", "surrogatepass")


USABLE = [
    "0",
    "-0",
    "1",
    "-1",
    "9007199254740993",
    "18446744073709551615",
    "-9223372036854775808",
    "null",
    '""',
    '"1"',
    '"a\\"b\\\\c\\u0000\\ud83d\\ude00"',
    '"ä€😀"',
    '"' + "x" * 2**20 + '"',
]
UNUSABLE = [
    "18446744073709551616",
    "-9223372036854775809",
    "1" + "0" * 5000,
    "1.5",
    "1.0",
    "1e3",
    "1E3",
    "-1e-3",
    "true",
    "false",
    "[]",
    "[1]",
    "{}",
    '{"id":1}',
]
MALFORMED = [
    "01",
    "-",
    "--1",
    "+1",
    "1.",
    ".5",
    "0x1",
    "nul",
    "NaN",
    "Infinity",
    "'a'",
    '"\\q"',
    '"\\u12"',
    '"\n"',
    '"\0"',
    '"\\ud800"',
    '"\ud800"',
    "",
]


@pytest.mark.parametrize("id", USABLE, ids=lambda id: id[:20])
def test_usable_id_is_kept_letter_by_letter(id: str) -> None:
    """Integers of 64 bits of either sign, strings and null are ids, kept as they were written."""
    request = parse(with_id(id))
    assert request.id == id.encode()
    assert error(RpcError(INVALID_REQUEST, request.id)).startswith(
        b'{"jsonrpc":"2.0","id":%b,"error":' % id.encode()
    )


@pytest.mark.parametrize("id", UNUSABLE, ids=lambda id: id[:20])
def test_unusable_id_is_an_invalid_request(id: str) -> None:
    """An id of another type, or beyond 64 bits, cannot be answered to: the answer's id is null."""
    assert refusal_of(with_id(id)) == (INVALID_REQUEST, b"null")


@pytest.mark.parametrize("id", MALFORMED, ids=repr)
def test_id_that_is_no_json_is_a_parse_error(id: str) -> None:
    """What is no JSON, or no UTF-8, is never echoed, not even as an id."""
    assert outcome_of(with_id(id)) == PARSE_ERROR


def test_request_without_id_is_a_notification() -> None:
    """A request without an id is told from one whose id is null."""
    assert parse(b'{"jsonrpc":"2.0","method":"m"}').id is None
    assert parse(b'{"jsonrpc":"2.0","method":"m","id":null}').id == b"null"


@pytest.mark.parametrize(
    ("members", "params"),
    [
        ("", b"null"),
        (',"params":null', b"null"),
        (',"params":[]', b"[]"),
        (',"params": {"a" : 1} ', b'{"a" : 1}'),
        (',"params":"text"', b'"text"'),
        (',"unknown":{"params":1}', b"null"),
    ],
)
def test_params_are_kept_as_json(members: str, params: bytes) -> None:
    """Params are handed on undecoded; absent ones are null."""
    request = parse(b'{"jsonrpc":"2.0","method":"m","id":1%b}' % members.encode())
    assert bytes(request.params) == params


@pytest.mark.parametrize(
    "members",
    [
        '"id":1',
        '"id":1,"method":"m"',
        '"id":1,"jsonrpc":"2.0"',
        '"id":1,"jsonrpc":"1.0","method":"m"',
        '"id":1,"jsonrpc":2,"method":"m"',
        '"id":1,"jsonrpc":"2.0","method":1',
        '"id":1,"jsonrpc":"2.0","method":null',
        '"id":1,"jsonrpc":"2.0","method":"m","method":"n"',
        '"id":1,"jsonrpc":"2.0","jsonrpc":"2.0","method":"m"',
        '"id":1,"id":1,"jsonrpc":"2.0","method":"m"',
        '"id":1,"jsonrpc":"2.0","method":"m","params":1,"params":1',
        '"id":1,"jsonrpc":"2.0","method":"m","p\\u0061rams":1,"params":1',
    ],
)
def test_faulty_request_keeps_its_id(members: str) -> None:
    """An object with a usable id that is no valid request is refused under that id."""
    message = b"{%b}" % members.encode()
    assert refusal_of(message) == (INVALID_REQUEST, b"1")
    assert refusal_of(message, in_batch=True) == (INVALID_REQUEST, b"1")


@pytest.mark.parametrize(
    "message",
    [
        b"{}",
        b'{"a":1}',
        b'{"jsonrpc":"2.0","method":1}',
        b'{"jsonrpc":"2.0","method":"m","method":"n"}',
        b"1",
        b"null",
        b'"x"',
        b"[[]]",
    ],
)
def test_what_is_no_request_depends_on_where_it_stands(message: bytes) -> None:
    """Alone it is a parse error, as an entry of a batch an invalid request."""
    assert refusal_of(message) == (PARSE_ERROR, b"null")
    assert refusal_of(message, in_batch=True) == (INVALID_REQUEST, b"null")


@pytest.mark.parametrize(
    "params",
    [
        '{"method":1,"id":2,"jsonrpc":3,"params":4}',
        '[{"id":1},{"id":2}]',
        '{"text":"\\"id\\":1,\\"method\\":2"}',
        '{"id":1,"id":2}',
    ],
)
def test_keys_inside_params_are_no_duplicates(params: str) -> None:
    """Keys of params that are called like those of the request do not count as theirs."""
    message = b'{"jsonrpc":"2.0","id":7,"method":"m","params":%b}' % params.encode()
    assert parse(message).id == b"7"


def test_keys_in_a_text_are_no_duplicates() -> None:
    """A text outside of params that holds the letters of a key is a text."""
    message = {"jsonrpc": "2.0", "id": '"id"', "method": '"method"', "x": '"params""params"'}
    assert parse(json.dumps(message).encode()).method == '"method"'


@pytest.mark.parametrize(
    "message",
    [b"", b" ", b"x", b'"x"', b"1", b"null", b"]", b"}", b"\0{}", b"\xef\xbb\xbf{}", b"\xff{}"],
)
def test_message_begins_with_an_object_or_a_batch(message: bytes) -> None:
    """Anything that begins in another way is a parse error."""
    with pytest.raises(RpcError) as refused:
        split(message)
    assert refused.value.code == PARSE_ERROR


@pytest.mark.parametrize("message", [b"{\xff}", b'{"a":"\xed\xa0\x80"}', b"[\xc3\x28]", b"[\xc3"])
def test_message_is_utf8(message: bytes) -> None:
    """Bytes that are no UTF-8 are a parse error, wherever they stand."""
    with pytest.raises(RpcError) as refused:
        split(message)
    assert refused.value.code == PARSE_ERROR


@pytest.mark.parametrize("start", [b"{}", b"[{}]"])
def test_leading_blanks_are_bounded(start: bytes) -> None:
    """The first byte that is no blank comes within the first 128."""
    assert split(b" " * LEADING_BLANKS_MAX + start)
    with pytest.raises(RpcError):
        split(b" " * (LEADING_BLANKS_MAX + 1) + start)


def test_split_returns_the_entries_of_a_batch() -> None:
    """A batch is taken apart into its entries, which are not looked into yet."""
    entries = split(b' [1, {"a": [2]} , "x"] ')
    assert isinstance(entries, list)
    assert [bytes(entry) for entry in entries] == [b"1", b'{"a": [2]}', b'"x"']


@pytest.mark.parametrize("message", [b"[", b"[1", b"[1,]", b"[1]]", b"[}", b"[01]", b'["\\q"]'])
def test_broken_batch_is_a_parse_error(message: bytes) -> None:
    """A batch that is no JSON is refused as a whole."""
    with pytest.raises(RpcError) as refused:
        split(message)
    assert refused.value.code == PARSE_ERROR


def test_empty_batch_is_an_invalid_request() -> None:
    """A batch has at least one entry."""
    with pytest.raises(RpcError) as refused:
        split(b"[ ]")
    assert refused.value.code == INVALID_REQUEST


@pytest.mark.parametrize("depth", [100, 1000, 100_000])
@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a":', "}")])
def test_depth_never_breaks_the_parser(depth: int, begin: str, end: str) -> None:
    """Nesting of any depth is parsed or refused, or too much for the decoder, which says so."""
    nested = begin * depth + "1" + end * depth
    for method in ("m", "m\\u0020"):
        message = f'{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{nested}}}'
        with contextlib.suppress(RecursionError):
            assert outcome_of(message.encode()) in ([b"1"], PARSE_ERROR, INVALID_REQUEST)
        assert outcome_of(b'{"jsonrpc":"2.0","id":1,"method":"m"}') == [b"1"]


def test_error_object_has_no_other_keys() -> None:
    """An error has code, message and, if there is any, data as a string."""
    plain = json.loads(error(RpcError(PARSE_ERROR)))
    assert plain == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": PARSE_ERROR, "message": "Parse error"},
    }
    fault = RpcError(INVALID_PARAMS, b'"x"', message='a "b"', data="c\n\0")
    assert json.loads(error(fault)) == {
        "jsonrpc": "2.0",
        "id": "x",
        "error": {"code": INVALID_PARAMS, "message": 'a "b"', "data": "c\n\0"},
    }


def test_result_is_put_in_as_it_is() -> None:
    """A result is JSON already."""
    assert result(b"7", b'{"a": 1}') == b'{"jsonrpc":"2.0","id":7,"result":{"a": 1}}'


IDS = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**64 - 1),
    st.text(st.characters(exclude_categories=["Cs"])),
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=12,
)


@settings(deadline=None)
@given(id=IDS, method=st.text(st.characters(exclude_categories=["Cs"])), params=JSON)
def test_requests_survive_the_round_trip(id: Any, method: str, params: Any) -> None:
    """Whatever id, method and params a client writes in JSON, that is what is read."""
    members = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
    for ascii_only in (True, False):
        request = parse(json.dumps(members, ensure_ascii=ascii_only).encode("utf-8"))
        assert request.id is not None
        assert json.loads(request.id) == id
        assert type(json.loads(request.id)) is type(id)
        assert request.method == method
        assert json.loads(bytes(request.params)) == params
        assert json.loads(result(request.id, b"1"))["id"] == id


@settings(deadline=None)
@given(
    st.binary(max_size=200)
    | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace"))
)
def test_any_bytes_are_parsed_or_refused(message: bytes) -> None:
    """No input makes the framing fail in another way than by an `RpcError`."""
    for head in (b"", b"{", b"[", b'{"jsonrpc":"2.0","method":"m","id":'):
        outcome = outcome_of(head + message)
        if isinstance(outcome, list):
            assert all(id is None or json.loads(id) != {} for id in outcome)
        else:
            assert outcome in (PARSE_ERROR, INVALID_REQUEST)
