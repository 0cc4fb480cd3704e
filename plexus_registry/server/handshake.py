# SPDX-License-Identifier: AGPL-3.0-only
"""What an HTTP request gets: an upgrade to WebSocket, or a status that says why not.

Pure. The websockets library judges the upgrade itself; what is here is what it leaves to servers
(the Origin check against hostile web pages) or does differently from version to version (requests
that are not ``GET … HTTP/1.1``, which version 15 drops without an answer).
"""

from __future__ import annotations

import http
import ipaddress
import re
from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

from websockets.datastructures import Headers
from websockets.http11 import Response
from websockets.server import ServerProtocol

END_OF_HEAD = b"\r\n\r\n"
REQUEST_LINE_MAX_BYTES = 8192
HEAD_MAX_BYTES = 16384
_REQUEST_LINE = re.compile(
    rb"(?P<method>[!#-'*+.^_`|~0-9A-Za-z-]+) [!-~]+ HTTP/(?P<version>\d\.\d)"
)

NOT_WEBSOCKET = (
    "This is the Plexus registry. It speaks JSON-RPC over WebSocket:"
    " connect to this address with ws:// and a WebSocket client.\n"
)
TOO_MANY = "Too many connections. Please try again later.\n"


def plain_response(status: http.HTTPStatus, text: str, *headers: str) -> bytes:
    """Encode a whole HTTP response that ends the connection (RFC 9112)."""
    body = text.encode()
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def judge_head(head: bytes) -> bytes | None:
    """Answer what the library cannot: any request that is not ``GET … HTTP/1.1``, or is too long.

    Args:
        head: The bytes received so far.

    Returns:
        The response to send before closing, or None if there is no fault so far.
    """
    line, end, _ = head.partition(b"\r\n")
    if len(line) > REQUEST_LINE_MAX_BYTES:
        return plain_response(http.HTTPStatus.REQUEST_URI_TOO_LONG, "Too long.\n")
    if not end:
        return None
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        return plain_response(http.HTTPStatus.BAD_REQUEST, "This is no HTTP request.\n")
    if match["method"] != b"GET":
        return plain_response(http.HTTPStatus.METHOD_NOT_ALLOWED, NOT_WEBSOCKET, "Allow: GET")
    if match["version"] != b"1.1":
        return plain_response(http.HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "Only HTTP/1.1.\n")
    if head.find(END_OF_HEAD, 0, HEAD_MAX_BYTES) < 0 and len(head) > HEAD_MAX_BYTES:
        return plain_response(http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "Too long.\n")
    return None


def refuse_upgrade(
    websocket: ServerProtocol, headers: Headers, allowed_origins: Collection[str]
) -> Response | None:
    """Answer a request that the library would accept, or could not answer, and should not.

    Returns:
        The response to send; None if the library is to judge the request.
    """
    if "Upgrade" not in headers:
        response = websocket.reject(http.HTTPStatus.METHOD_NOT_ALLOWED, NOT_WEBSOCKET)
        response.headers["Allow"] = "GET"
        response.headers["Upgrade"] = "websocket"
        return response
    if not is_handshake_ascii(headers.raw_items()):
        return websocket.reject(
            http.HTTPStatus.BAD_REQUEST, "A header of the handshake is not in ASCII.\n"
        )
    if not all(is_origin_allowed(it, allowed_origins) for it in headers.get_all("Origin")):
        return websocket.reject(
            http.HTTPStatus.FORBIDDEN,
            "Web pages of this origin may not use the registry;"
            " list it in the setting allowed_origins to let them.\n",
        )
    return None


def is_handshake_ascii(headers: Iterable[tuple[str, str]]) -> bool:
    """Tell whether the headers that make the handshake are in ASCII, as all valid ones are.

    Version 15 of the library takes others for a fault of its own.
    """
    return all(
        value.isascii()
        for name, value in headers
        if name.lower() in ("connection", "upgrade") or name.lower().startswith("sec-websocket-")
    )


def is_origin_allowed(origin: str, allowed: Collection[str]) -> bool:
    """Tell whether a web page of that origin may connect (RFC 6454; RFC 6455, 10.2).

    Pages on the loopback host are the user's own; others must be listed. ``null``, which any page
    can make itself, is never allowed.
    """
    if origin in allowed:
        return True
    try:
        parts = urlsplit(origin)
        host = parts.hostname
    except ValueError:
        return False
    if not host or parts.scheme not in ("http", "https"):
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
