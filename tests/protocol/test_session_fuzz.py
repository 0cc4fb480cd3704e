# SPDX-License-Identifier: AGPL-3.0-only
"""A session against anything: it never fails, and what it sends is always sound."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from support.sessions import Desk, request
from support.soundness import check_entries, check_sent

TEXT = st.text(max_size=20)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 1, 65535, 65536, 2**53, 2**63, 2**64 - 1, 2**64, 10**400])
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(TEXT, children, max_size=4),
    max_leaves=10,
)
REGISTRY_METHODS = (
    *("register", "list", "get", "update", "delete", "ping", "deregister", "reload"),
    *("status", "schema", "hash"),
)
METHODS = st.sampled_from(
    [
        *("_info", "_info_unsub", "registry.unsubscribe_list"),
        *(f"registry-hub.{name}" for name in ("call", "hash", "hashes", "schema", "respond")),
        *(f"registry.{name}" for name in REGISTRY_METHODS),
        *(f"registry_{name}" for name in REGISTRY_METHODS),
    ]
)
# Names made of the parts of names, also hundreds of them: routing takes them apart.
DOTTED = st.builds(
    lambda prefix, count, parts: prefix * count + ".".join(parts),
    st.sampled_from(["registry-hub.", "registry.", "plexus.", ".", "a."]),
    st.sampled_from([0, 1, 2, 7, 8, 9, 100, 1000, 5000]),
    st.lists(st.sampled_from(["registry-hub", "registry", "call", "schema", "list", ""]) | TEXT),
)
FIELDS = st.sampled_from(
    [
        *("name", "host", "port", "protocol", "description", "namespace"),
        *("version", "metadata", "source", "active_only", "limit", "after"),
        *("method", "params", "request_id", "response_data", "subscription"),
    ]
)
# Near to what is right, so that the depths are reached.
PARAMS = st.one_of(
    JSON,
    st.dictionaries(FIELDS, JSON, max_size=8),
    st.fixed_dictionaries(
        {"name": TEXT, "host": st.just("h"), "port": st.integers(1, 65535)},
        optional={"version": JSON, "metadata": JSON, "source": JSON, "description": JSON},
    ),
    st.fixed_dictionaries({"method": METHODS | TEXT}, optional={"params": JSON}),
)
ROUTED: st.SearchStrategy[Any] = st.recursive(
    st.fixed_dictionaries({"method": METHODS | DOTTED | TEXT}, optional={"params": PARAMS})
    | st.tuples(METHODS | DOTTED | JSON, PARAMS)
    | JSON,
    lambda inner: st.fixed_dictionaries({"method": st.just("registry-hub.call"), "params": inner}),
    max_leaves=20,
)


def nested(depth: int, inner: Any) -> Any:
    """Wrap params into that many calls of the hub through itself."""
    for _ in range(depth):
        inner = {"method": "registry-hub.call", "params": inner}
    return inner


REQUESTS = st.one_of(
    st.builds(request, JSON, METHODS | TEXT, PARAMS),
    st.builds(request, st.integers(0, 9), METHODS, PARAMS),
    st.builds(request, st.integers(0, 9), DOTTED, PARAMS),
    st.builds(request, st.integers(0, 9), st.just("registry-hub.call"), ROUTED),
    st.builds(
        request,
        st.integers(0, 9),
        st.just("registry-hub.call"),
        st.builds(nested, st.sampled_from([1, 7, 8, 9, 200]), ROUTED),
    ),
    st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params", "x"]), JSON),
    JSON,
)


def check(desk: Desk, message: bytes) -> None:
    """Give the session a message; all that it sends must be JSON-RPC with whole streams."""
    desk.receive(message)
    desk.advance()
    assert desk.session.pending == 0
    assert not desk.session.is_busy
    check_sent(desk.session.messages_to_send())
    check_entries(desk.registry.catalog, desk.store.load())


def encoded(message: object, ascii_only: bool) -> bytes:
    """Encode as JSON; what has no UTF-8 form stays broken, as a hostile client would send it."""
    return json.dumps(message, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


@settings(max_examples=300, deadline=None)
@given(message=st.binary(max_size=300))
def test_any_bytes(message: bytes) -> None:
    """Bytes of any kind are answered or ignored."""
    check(Desk(), message)


@settings(max_examples=400, deadline=None)
@given(message=REQUESTS, ascii_only=st.booleans())
def test_any_json(message: Any, ascii_only: bool) -> None:
    """JSON of any form, near to requests or not, is answered or ignored."""
    check(Desk(), encoded(message, ascii_only))


@settings(max_examples=150, deadline=None)
@given(messages=st.lists(REQUESTS | st.lists(REQUESTS, max_size=6), max_size=8))
def test_any_conversation(messages: list[Any]) -> None:
    """Messages and batches one after another leave a session that works as at first."""
    desk = Desk()
    for message in messages:
        check(desk, encoded(message, ascii_only=True))
    info = desk.ask(request("still there", "_info"))
    assert [answer.get("id") for answer in info] == ["still there", None, None]


@settings(max_examples=200, deadline=None)
@given(
    message=REQUESTS,
    cut=st.floats(0, 1),
    inserted=st.binary(max_size=3),
)
def test_damaged_requests(message: Any, cut: float, inserted: bytes) -> None:
    """A request with bytes put in, or cut off, at any place is answered or ignored."""
    whole = encoded(message, ascii_only=False)
    place = int(cut * len(whole))
    check(Desk(), whole[:place] + inserted + whole[place:])
    check(Desk(), whole[:place])
