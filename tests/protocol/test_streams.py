# SPDX-License-Identifier: AGPL-3.0-only
"""The frames of a stream, byte by byte."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plexus_registry.protocol.streams import (
    SUBSCRIPTION_ID_MAX,
    CallError,
    ErrorStream,
    Stream,
)

HASH = "612a4beea16133be"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def test_frames_are_those_of_the_specification() -> None:
    """The frames of ``_info`` are letter by letter those of the transcript in section 3.3."""
    stream = Stream(notification="result", provenance=[], content_type="_info", plexus_hash=HASH)
    data, done = stream.frames(5208731144829061, 1700000000, [b'{"backend":"registry-hub"}'])
    assert data == (
        b'{"jsonrpc":"2.0","method":"result","params":{"subscription":5208731144829061,"result":'
        b'{"type":"data","metadata":{"provenance":[],"plexus_hash":"612a4beea16133be",'
        b'"timestamp":1700000000},"content_type":"_info","content":{"backend":"registry-hub"}}}}'
    )
    assert done == (
        b'{"jsonrpc":"2.0","method":"result","params":{"subscription":5208731144829061,"result":'
        b'{"type":"done","metadata":{"provenance":[],"plexus_hash":"612a4beea16133be",'
        b'"timestamp":1700000000}}}}'
    )


def test_error_frame_is_that_of_the_specification() -> None:
    """The frame of an error is letter by letter that of the transcript in section 4.1."""
    stream = ErrorStream(notification="result", provenance=["registry-hub"], plexus_hash=HASH)
    content = ErrorStream.content(CallError("Invalid params: missing field: host", -32602))
    assert stream.frames(32, 1700000000, [content]) == [
        b'{"jsonrpc":"2.0","method":"result","params":{"subscription":32,"result":{"type":"error",'
        b'"metadata":{"provenance":["registry-hub"],"plexus_hash":"612a4beea16133be",'
        b'"timestamp":1700000000},"message":"Invalid params: missing field: host",'
        b'"code":"-32602","recoverable":false}}}'
    ]


@pytest.mark.parametrize("contents", [[], [b"1"], [b"1", b"2", b"3"]])
def test_one_done_ends_any_number_of_items(contents: list[bytes]) -> None:
    """A stream is its data items, in their order, and then one ``done``."""
    stream = Stream(notification="m", provenance=["a"], content_type="t", plexus_hash=HASH)
    frames = [json.loads(frame)["params"]["result"] for frame in stream.frames(1, 2, contents)]
    assert [item.get("content") for item in frames] == [*map(json.loads, contents), None]
    assert [item["type"] for item in frames] == ["data"] * len(contents) + ["done"]
    assert stream.items(2, contents) == [
        json.dumps(it, separators=(",", ":")).encode() for it in frames
    ]


@settings(deadline=None)
@given(
    notification=TEXT,
    provenance=st.lists(TEXT, max_size=3),
    content_type=TEXT,
    plexus_hash=TEXT,
    subscription=st.integers(0, SUBSCRIPTION_ID_MAX),
    content=TEXT,
)
def test_constants_may_hold_any_text(
    *,
    notification: str,
    provenance: list[str],
    content_type: str,
    plexus_hash: str,
    subscription: int,
    content: str,
) -> None:
    """Quotes, per cent signs and the like in names come out as they went in."""
    encoded = json.dumps(content).encode()
    metadata = {"provenance": provenance, "plexus_hash": plexus_hash, "timestamp": 7}
    stream = Stream(
        notification=notification,
        provenance=provenance,
        content_type=content_type,
        plexus_hash=plexus_hash,
    )
    data, done = map(json.loads, stream.frames(subscription, 7, [encoded]))
    assert data["method"] == done["method"] == notification
    assert data["params"] == {
        "subscription": subscription,
        "result": {
            "type": "data",
            "metadata": metadata,
            "content_type": content_type,
            "content": content,
        },
    }
    assert done["params"]["result"] == {"type": "done", "metadata": metadata}
    errors = ErrorStream(notification=notification, provenance=provenance, plexus_hash=plexus_hash)
    [error] = errors.frames(subscription, 7, [ErrorStream.content(CallError(content, -1))])
    assert json.loads(error)["params"]["result"] == {
        "type": "error",
        "metadata": metadata,
        "message": content,
        "code": "-1",
        "recoverable": False,
    }


def test_per_cent_signs_are_no_placeholders() -> None:
    """Names that look like the places of a template stay names."""
    for text in ("%b", "%d", "%%b", "100 %", "%(x)s"):
        stream = Stream(notification=text, provenance=[text], content_type=text, plexus_hash=text)
        data, done = map(json.loads, stream.frames(1, 2, [b'"%b"']))
        assert data["method"] == done["method"] == text
        assert data["params"]["result"]["content"] == "%b"
        assert data["params"]["result"]["metadata"]["provenance"] == [text]
