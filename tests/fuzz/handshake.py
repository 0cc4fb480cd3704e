# SPDX-License-Identifier: AGPL-3.0-only
"""Bytes in place of an HTTP request: heads, sound and not, in one piece or in two.

The first byte says where the cut is.
"""

from __future__ import annotations

import base64
import hashlib
import re

from fuzz.wire import converse, frames_in
from support.sessions import Desk
from support.soundness import check_entries

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_LOOPBACK_ORIGIN = re.compile(
    r"https?://([^/?#@]*@)?(localhost|[^/?#@:]+\.localhost|127\.\d+\.\d+\.\d+|\[::(1|ffff:127.*)\])"
    r"([:/?#].*)?",
    re.IGNORECASE | re.DOTALL,
)


def one_input(data: bytes) -> None:
    """A request gets one whole answer; a WebSocket is for a sound request of an own page only."""
    cut = data[0] if data else 0
    sent = data[1:]
    desk = Desk()
    answer = converse(desk.hub, [sent[:cut], sent[cut:]] if cut else [sent])
    check_entries(desk.registry.catalog, desk.store.load())
    if not answer:
        assert b"\r\n\r\n" not in sent
        return
    head, end, body = answer.partition(b"\r\n\r\n")
    assert end
    status_line, *lines = head.decode("ascii").split("\r\n")
    match = re.fullmatch(r"HTTP/1\.1 ([1-5]\d\d) [ -~]+", status_line)
    assert match, status_line
    assert all(re.fullmatch(r"[A-Za-z-]+: [ -~]*", line) for line in lines)
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert len(headers) == len(lines)
    if match[1] != "101":
        assert match[1] in ("200", "400", "403", "405", "414", "426", "431", "505")
        assert headers["connection"] == "close"
        assert int(headers["content-length"]) == len(body)
        assert not list(desk.registry.catalog)
        return
    list(frames_in(body))
    check_request(sent, headers["sec-websocket-accept"])


def check_request(sent: bytes, accept: str) -> None:
    """Check that a request is one that may be accepted, and that this is the answer to it."""
    request_line, *lines = sent.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert re.fullmatch(rb"GET [!-~]+ HTTP/1\.1", request_line)
    headers = [
        (name.lower(), value.strip(b" \t"))
        for name, _, value in (it.partition(b":") for it in lines)
    ]
    given = dict(headers)
    assert b"websocket" in given[b"upgrade"].lower()
    assert b"upgrade" in given[b"connection"].lower()
    assert given[b"sec-websocket-version"] == b"13"
    key = given[b"sec-websocket-key"]
    assert len(base64.b64decode(key)) == 16
    assert accept == base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
    for name, value in headers:
        if name == b"origin":
            assert _LOOPBACK_ORIGIN.fullmatch(value.decode("latin-1")), value
