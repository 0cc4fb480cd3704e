# SPDX-License-Identifier: AGPL-3.0-only
"""Frames as another implementation of RFC 6455 reads them."""

from __future__ import annotations

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from plexus_registry.server.framing import text_frames


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 1 << 20])
def test_messages_of_any_length_are_read_back(size: int) -> None:
    """Each message is one whole text frame, whichever form its length takes."""
    messages = [b"x" * size, b"{}"]
    reader = ClientProtocol(parse_uri("ws://h"), state=OPEN, max_size=None)

    reader.receive_data(b"".join(text_frames(messages)))

    frames = [frame for frame in reader.events_received() if isinstance(frame, Frame)]
    assert [(frame.opcode, frame.fin) for frame in frames] == [(Opcode.TEXT, True)] * 2
    assert [bytes(frame.data) for frame in frames] == messages
    assert reader.parser_exc is None
