# SPDX-License-Identifier: AGPL-3.0-only
"""What an HTTP request gets: an upgrade to WebSocket, or a status that says why not.

Pure. The websockets library judges the upgrade itself; what is here is what it leaves to servers
(the Origin and Host checks against hostile web pages, and tokens) or does differently from version
to version (requests that are not ``GET … HTTP/1.1``, which version 15 drops without an answer).
"""

from __future__ import annotations

import http
import ipaddress
import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import NamedTuple

from websockets.datastructures import Headers
from websockets.http11 import Response
from websockets.server import ServerProtocol

from plexus_registry.access import ORIGIN_OF_TOKENS, Access, Client, Trust
from plexus_registry.errors import quote

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
_HOST = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^\[\]:@/?#\s]+)(?::\d*)?", re.ASCII)
# No more than browsers send: parsers of URLs differ in what they make of the rest, "@" above all.
_ORIGIN = re.compile(
    r"https?://(?P<host>\[[0-9a-f]*:[0-9a-f:.]+\]|[0-9a-z._-]+)(?::[0-9]{1,5})?",
    re.ASCII | re.IGNORECASE,
)
_BEARER = re.compile(r"bearer +(?P<token>[!-~]+) *", re.ASCII | re.IGNORECASE)
_COOKIE = "access_token"
_RELAYING = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")
"""What a proxy adds: the client is not who connected."""
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


class Terms(NamedTuple):
    """On what terms clients are admitted.

    Attributes:
        access: Knows the tokens.
        allowed_origins: As for `is_origin_allowed`.
        allowed_hosts: As for `is_host_allowed`.
    """

    access: Access
    allowed_origins: Collection[str] = ()
    allowed_hosts: Collection[str] = ()


class Refusal(NamedTuple):
    """Why a handshake is refused.

    Attributes:
        response: What the client gets.
        notice: What the log says, with ``%s`` for *shown* and for the peer; empty for nothing.
        shown: What the client sent.
    """

    response: Response
    notice: str = ""
    shown: str = ""


def admit(
    websocket: ServerProtocol, headers: Headers, client: Client, terms: Terms, *, is_unix: bool
) -> Client | Refusal:
    """Tell who a client is by its request, or why it is refused.

    Args:
        websocket: Makes the response of a refusal.
        headers: Of the request.
        client: As it was accepted.
        terms: What to hold it to.
        is_unix: It came by a Unix socket, as no web page can.
    """
    return (
        _refuse_upgrade(websocket, headers)
        or _refuse_web_page(websocket, headers, terms, is_host_checked=not is_unix)
        or _identify(websocket, headers, client, terms.access)
    )


def _refuse_upgrade(websocket: ServerProtocol, headers: Headers) -> Refusal | None:
    """Refuse a request that the library would accept, or could not answer, and should not."""
    if "Upgrade" not in headers:
        response = websocket.reject(http.HTTPStatus.METHOD_NOT_ALLOWED, NOT_WEBSOCKET)
        response.headers["Allow"] = "GET"
        response.headers["Upgrade"] = "websocket"
        return Refusal(response)
    if not is_handshake_ascii(headers.raw_items()):
        text = "A header of the handshake is not in ASCII.\n"
        return Refusal(websocket.reject(http.HTTPStatus.BAD_REQUEST, text))
    return None


def _refuse_web_page(
    websocket: ServerProtocol, headers: Headers, terms: Terms, *, is_host_checked: bool
) -> Refusal | None:
    for origin in headers.get_all("Origin"):
        if not is_origin_allowed(origin, terms.allowed_origins):
            text = (
                "Web pages of this origin may not use the registry;"
                " list it in the setting allowed_origins to let them.\n"
            )
            response = websocket.reject(http.HTTPStatus.FORBIDDEN, text)
            return Refusal(response, "handshake refused origin=%s peer=%s", quote(origin))
    for host in headers.get_all("Host") if is_host_checked else ():
        if not is_host_allowed(host, terms.allowed_hosts):
            text = (
                "The registry does not know this name of its host; list it in the setting"
                " allowed_hosts, or connect to localhost or an IP address.\n"
            )
            response = websocket.reject(http.HTTPStatus.FORBIDDEN, text)
            return Refusal(response, "handshake refused host=%s peer=%s", quote(host))
    return None


def _identify(
    websocket: ServerProtocol, headers: Headers, client: Client, access: Access
) -> Client | Refusal:
    """Tell who a client is, or refuse a token that is wrong (RFC 6750, 3)."""
    if any(name in headers for name in _RELAYING):
        client = replace(client, trust=Trust.REMOTE)
    known = access.identify(client, bearer=bearer_token(headers), cookie=cookie_token(headers))
    if known is not None:
        return known
    text = f"This token is not known here; send one that was {ORIGIN_OF_TOKENS}, or none to read."
    response = websocket.reject(http.HTTPStatus.UNAUTHORIZED, f"{text}\n")
    response.headers["WWW-Authenticate"] = 'Bearer realm="plexus-registry", error="invalid_token"'
    return Refusal(response, "handshake refused, %s peer=%s", "unknown token")


def bearer_token(headers: Headers) -> str:
    """Return the token of the ``Authorization`` header, empty if there is none (RFC 6750, 2.1)."""
    given = map(_BEARER.fullmatch, headers.get_all("Authorization"))
    return next((match["token"] for match in given if match), "")


def cookie_token(headers: Headers) -> str:
    """Return the cookie ``access_token``, as Synapse sends it; empty if there is none."""
    for header in headers.get_all("Cookie"):
        for cookie in header.split(";"):
            name, _, value = cookie.strip().partition("=")
            if name == _COOKIE:
                return value.strip('"')
    return ""


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
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return False
    host = match["host"].lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_host_allowed(host: str, allowed: Collection[str]) -> bool:
    """Tell whether a client may call this host so (DNS rebinding).

    A web page may have the name of its own host lead to ours, and would then pass for a page of
    this host. Names of ours and addresses cannot be made to.

    Args:
        host: The ``Host`` header.
        allowed: Names of this host, in lower case.
    """
    match = _HOST.fullmatch(host.lower())
    if match is None:
        return False
    name = match["host"]
    if name in allowed or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
