# SPDX-License-Identifier: AGPL-3.0-only
"""What HTTP clients get without a WebSocket: a few pages, each at a path of its own.

What is on them comes from whoever puts the server together; here is how it is sent.
"""

from __future__ import annotations

import http
from collections.abc import Callable, Collection
from email.utils import formatdate
from typing import Final, NamedTuple

TEXT: Final = "text/plain; charset=utf-8"


class Answer(NamedTuple):
    """What a page says.

    Attributes:
        body: Bounded: it waits in memory for clients that read slowly.
        content_type: Of the body.
        status: How it went.
        headers: More header lines.
    """

    body: bytes
    content_type: str = TEXT
    status: http.HTTPStatus = http.HTTPStatus.OK
    headers: tuple[str, ...] = ()


Page = Callable[[Callable[[Answer], None]], None]
"""Makes an answer and passes it on, once, now or later, in the event loop. It must not block."""


def path_of(target: str) -> str:
    """Return the path that a request asks for, without its query (RFC 9112, 3.2).

    Args:
        target: In origin form, or in absolute form, which proxies are sent.
    """
    if target.startswith(("http://", "https://")):
        target = f"/{target.partition('://')[2].partition('/')[2]}"
    return target.partition("?")[0]


def allowed_at(target: str, pages: Collection[str]) -> str:
    """Return the methods for an ``Allow`` header; at any path GET begins a WebSocket."""
    return "GET, HEAD" if path_of(target) in pages else "GET"


def what_there_is(pages: Collection[str]) -> str:
    """Tell somebody who speaks HTTP what the port is for."""
    text = (
        "This is the Plexus registry. It speaks JSON-RPC over WebSocket:"
        " connect to this address with ws:// and a WebSocket client.\n"
    )
    return f"{text}For browsers and monitoring there is: {' '.join(pages)}\n" if pages else text


def encode(answer: Answer, *, has_body: bool) -> bytes:
    """Encode a whole HTTP response that ends the connection (RFC 9112).

    Args:
        answer: What to say.
        has_body: The body follows; not so for HEAD, which has the same header fields.
    """
    head = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Date: {formatdate(usegmt=True)}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Cross-Origin-Resource-Policy: same-origin",
        "Connection: close",
        *answer.headers,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + (answer.body if has_body else b"")
