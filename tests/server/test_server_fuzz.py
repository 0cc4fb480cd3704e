# SPDX-License-Identifier: AGPL-3.0-only
"""A running server against anything that a socket can carry: it goes on answering."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Opcode

from plexus_registry.config.settings import Settings
from support.conversation import conversation
from support.rawsocket import close_frame, frame, head_of, raw_socket, raw_websocket, text_frame
from support.serving import Served, serving

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=10), children, max_size=3)
    ),
    max_leaves=8,
)
# Names made of the parts of names, also thousands of them: routing takes them apart.
DOTTED = st.builds(
    lambda prefix, count, parts: prefix * count + ".".join(parts),
    st.sampled_from(["registry-hub.", "registry.", "."]),
    st.sampled_from([0, 1, 8, 9, 1000, 5000]),
    st.lists(st.sampled_from(["registry-hub", "registry", "call", "list", ""])),
)
METHOD = st.sampled_from(["_info", "registry.list", "registry.register", "nope"]) | DOTTED
REQUEST = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0") | JSON, "method": METHOD | JSON},
    optional={"id": st.integers(0, 9) | JSON, "params": JSON},
)
ROUTED = st.fixed_dictionaries(
    {
        "jsonrpc": st.just("2.0"),
        "id": st.integers(0, 9),
        "method": st.just("registry-hub.call"),
        "params": st.recursive(
            st.fixed_dictionaries({"method": METHOD | JSON}, optional={"params": JSON}),
            lambda inner: st.fixed_dictionaries(
                {"method": st.just("registry-hub.call"), "params": inner}
            ),
            max_leaves=20,
        ),
    }
)
FRAMES = st.builds(
    frame,
    st.sampled_from(list(Opcode)) | st.integers(0, 15),
    st.binary(max_size=200),
    fin=st.booleans(),
    mask=st.sampled_from([True, True, True, False]),
    reserved=st.sampled_from([0, 0, 0, 1, 4]),
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all examples; each example checks that it still answers."""
    folder = tmp_path_factory.mktemp("fuzz")
    empty = Settings(
        port=0,
        database=folder / "registry.db",
        config=folder / "backends.toml",
        auto_register=None,
    )
    with serving(empty) as served:
        with raw_socket(served.port) as raw:  # the thread of the pages begins with the first
            raw.send(head_of(headers={"Upgrade": None}))
            assert raw.read_response().status == 200
        yield served


def expect_answers(served: Served) -> None:
    """Check that a new client is answered."""
    with conversation(served.url) as client:
        client.expect_silence()


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=400), is_line=st.booleans())
def test_any_bytes_instead_of_http(shared: Served, data: bytes, is_line: bool) -> None:
    """Bytes of any kind instead of a request end in a status or in silence."""
    with raw_socket(shared.port) as raw:
        raw.send(data + b"\r\n\r\n" if is_line else data)
        raw.socket.shutdown(1)
        answer = raw.read_to_end()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4") or answer.startswith(b"HTTP/1.1 5")
    expect_answers(shared)


@settings(max_examples=60, deadline=None)
@given(
    headers=st.dictionaries(
        st.sampled_from(["Host", "Connection", "Upgrade", "Origin", "X"]) | st.text(max_size=8),
        st.none() | st.text(max_size=20),
        max_size=4,
    )
)
def test_any_headers(shared: Served, headers: dict[str, str | None]) -> None:
    """Headers of any kind lead to a WebSocket or to a status."""
    with raw_socket(shared.port) as raw:
        raw.send(head_of(headers=headers))
        raw.socket.shutdown(1)
        answer = raw.read_to_end()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    expect_answers(shared)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=400))
def test_any_bytes_in_a_websocket(shared: Served, data: bytes) -> None:
    """Bytes of any kind behind a handshake end that connection at the most."""
    with raw_websocket(shared.port) as raw:
        raw.send(data)
        raw.socket.shutdown(1)
        raw.read_to_end()
    expect_answers(shared)


@settings(max_examples=100, deadline=None)
@given(frames=st.lists(FRAMES, max_size=8), cut=st.integers(0, 50))
def test_any_frames(shared: Served, frames: list[bytes], cut: int) -> None:
    """Frames of any kind, in any order and cut anywhere, end that connection at the most."""
    data = b"".join(frames)
    with raw_websocket(shared.port) as raw:
        raw.send(data[:cut])
        raw.send(data[cut:])
        raw.socket.shutdown(1)
        raw.read_to_end()
    expect_answers(shared)


@settings(max_examples=150, deadline=None)
@given(
    messages=st.lists(REQUEST | ROUTED | JSON | st.lists(REQUEST | ROUTED, max_size=4), max_size=5)
)
def test_any_json_over_the_socket(shared: Served, messages: list[Any]) -> None:
    """Every message that asks for something is answered, in sound JSON, on the same connection."""
    with raw_websocket(shared.port) as raw:
        raw.send(b"".join(map(text_frame, messages)))
        raw.send(text_frame({"jsonrpc": "2.0", "id": "the end", "method": "nope"}) + close_frame())
        ids = []
        while (received := raw.read_frame()).opcode is Opcode.TEXT:
            answer = json.loads(received.data)
            assert isinstance(answer, dict | list)
            ids += [answer.get("id")] if isinstance(answer, dict) else []
        assert "the end" in ids
        assert received.close_code == 1000
