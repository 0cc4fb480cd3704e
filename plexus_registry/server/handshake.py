# SPDX-License-Identifier: AGPL-3.0-only
"""What a request for a WebSocket gets: the upgrade, or a status that says why not.

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
from typing import NamedTuple, Self

from websockets.datastructures import Headers
from websockets.http11 import Response
from websockets.server import ServerProtocol

from plexus_registry.access import ORIGIN_OF_TOKENS, Access, Client, Trust
from plexus_registry.errors import quote
from plexus_registry.server.pages import allowed_at, what_there_is

END_OF_HEAD = b"\r\n\r\n"
REQUEST_LINE_MAX_BYTES = 8192
HEAD_MAX_BYTES = 16384
_REQUEST_LINE = re.compile(
    rb"(?P<method>[!#-'*+.^_`|~0-9A-Za-z-]+) (?P<target>[!-~]+) HTTP/(?P<version>\d\.\d)"
)
_NO_TLS = "This port speaks no TLS: connect with ws:// in place of wss://.\n"
_TLS_HANDSHAKE = b"\x16\x03"
"""How the first record of every TLS client begins (RFC 8446, 5.1); its line would have no end."""
_HOST = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^\[\]:@/?#\s]+)(?::\d*)?", re.ASCII)
# No more than browsers send: parsers of URLs differ in what they make of the rest, "@" above all.
_ORIGIN = re.compile(
    r"https?://(?P<host>\[[0-9a-f]*:[0-9a-f:.]+\]|[0-9a-z._-]+)(?::[0-9]{1,5})?",
    re.ASCII | re.IGNORECASE,
)
_BEARER = re.compile(r"bearer +(?P<token>[!-~]+) *", re.ASCII | re.IGNORECASE)
_COOKIE = "access_token"
_RELAYING = re.compile(r"forwarded|via|x-real-ip|x-forwarded-.*", re.IGNORECASE)
"""What a proxy adds, some of it alone: the client is not who connected."""
ONLY_1_1 = "WebSocket needs HTTP/1.1.\n"
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


class Head(NamedTuple):
    """A whole request that `judge_head` found no fault with.

    Attributes:
        method: GET or HEAD.
        version: Of HTTP, 1.0 or 1.1.
        for_library: The request as a GET of HTTP/1.1, which is all that the library reads.
    """

    method: bytes
    version: bytes
    for_library: bytes

    @classmethod
    def of(cls, head: bytes) -> Self:
        """Take the head of a request apart."""
        line, end, fields = head.partition(b"\r\n")
        method, target, version = line.split(b" ")
        whole = b"GET %b HTTP/1.1%b%b" % (target, end, fields)
        return cls(method, version.removeprefix(b"HTTP/"), whole)


def judge_head(head: bytes, pages: Collection[str] = ()) -> bytes | None:
    """Answer what is neither for a WebSocket nor for a page, as far as its first line tells.

    Args:
        head: The bytes received so far.
        pages: The paths of pages.

    Returns:
        The response to send before closing, or None if there is no fault so far.
    """
    if head.startswith(_TLS_HANDSHAKE):
        return plain_response(http.HTTPStatus.BAD_REQUEST, _NO_TLS)
    line, end, _ = head.partition(b"\r\n")
    if len(line) > REQUEST_LINE_MAX_BYTES:
        return plain_response(http.HTTPStatus.REQUEST_URI_TOO_LONG, "Too long.\n")
    if not end:
        return None
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        return plain_response(http.HTTPStatus.BAD_REQUEST, "This is no HTTP request.\n")
    if match["method"] not in (b"GET", b"HEAD"):
        allow = f"Allow: {allowed_at(match['target'].decode(), pages)}"
        return plain_response(http.HTTPStatus.METHOD_NOT_ALLOWED, what_there_is(pages), allow)
    if match["version"] not in (b"1.0", b"1.1"):
        return plain_response(http.HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, ONLY_1_1)
    if head.find(END_OF_HEAD, 0, HEAD_MAX_BYTES) < 0 and len(head) > HEAD_MAX_BYTES:
        return plain_response(http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "Too long.\n")
    return None


def asks_for_websocket(headers: Headers) -> bool:
    """Tell whether a request is for an upgrade to WebSocket, among others (RFC 9110, 7.8)."""
    asked = ",".join(headers.get_all("Upgrade")).lower().split(",")
    return "websocket" in map(str.strip, asked)


def without_body(response: bytes) -> bytes:
    """Cut a response off after its head, as for HEAD (RFC 9110, 9.3.2)."""
    head, end, _ = response.partition(END_OF_HEAD)
    return head + end


class Terms(NamedTuple):
    """On what terms clients are admitted.

    Attributes:
        access: Knows the tokens.
        allowed_origins: As for `is_origin_allowed`.
        allowed_hosts: As for `is_host_allowed`.
        pages: The paths of pages, to tell of them.
    """

    access: Access
    allowed_origins: Collection[str] = ()
    allowed_hosts: Collection[str] = ()
    pages: Collection[str] = ()


REASONS = ("request", "tls", "limit", "cut", "origin", "host", "token")
"""Why clients are refused: the request, TLS (no handshake of it, or none that fits), too many
connections, far too many, and who they are."""


class Refusal(NamedTuple):
    """Why a handshake is refused.

    Attributes:
        response: What the client gets.
        reason: In one word of `REASONS`.
        notice: What the log says, with ``%s`` for *shown* and for the peer; empty for nothing.
        shown: What the client sent.
    """

    response: Response
    reason: str = "request"
    notice: str = ""
    shown: str = ""


def admit(
    websocket: ServerProtocol,
    headers: Headers,
    head: Head,
    client: Client,
    terms: Terms,
    *,
    is_unix: bool,
) -> Client | Refusal:
    """Tell who a client is by its request, or why it is refused.

    Args:
        websocket: Makes the response of a refusal.
        headers: Of the request.
        head: The request.
        client: As it was accepted.
        terms: What to hold it to.
        is_unix: It came by a Unix socket, as no web page can.
    """
    return (
        _refuse_upgrade(websocket, headers, head, terms.pages)
        or refuse_web_page(websocket, headers, terms, is_unix=is_unix)
        or _identify(websocket, headers, client, terms.access)
    )


def _refuse_upgrade(
    websocket: ServerProtocol, headers: Headers, head: Head, pages: Collection[str]
) -> Refusal | None:
    """Refuse a request that the library would accept, or could not answer, and should not."""
    if "Upgrade" not in headers or head.method != b"GET":
        response = websocket.reject(http.HTTPStatus.METHOD_NOT_ALLOWED, what_there_is(pages))
        response.headers["Allow"] = "GET"
        response.headers["Upgrade"] = "websocket"
        return Refusal(response)
    if head.version != b"1.1":
        return Refusal(websocket.reject(http.HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, ONLY_1_1))
    if not is_handshake_ascii(headers.raw_items()):
        text = "A header of the handshake is not in ASCII.\n"
        return Refusal(websocket.reject(http.HTTPStatus.BAD_REQUEST, text))
    return None


def refuse_web_page(
    websocket: ServerProtocol, headers: Headers, terms: Terms, *, is_unix: bool
) -> Refusal | None:
    """Refuse what comes from a web page of somebody else.

    Args:
        websocket: Makes the response.
        headers: Of the request.
        terms: Which origins and hosts are allowed.
        is_unix: It came by a Unix socket, as no web page can: its Host does not matter.
    """
    hosts = headers.get_all("Host")
    for origin in headers.get_all("Origin"):
        if not (
            is_origin_allowed(origin, terms.allowed_origins)
            or is_own_page(origin, hosts, terms.allowed_hosts)
        ):
            text = (
                "Web pages of this origin may not use the registry;"
                " list it in the setting allowed_origins to let them.\n"
            )
            response = websocket.reject(http.HTTPStatus.FORBIDDEN, text)
            return Refusal(response, "origin", "handshake refused origin=%s peer=%s", quote(origin))
    for host in () if is_unix else hosts:
        if not is_host_allowed(host, terms.allowed_hosts):
            text = (
                "The registry does not know this name of its host; list it in the setting"
                " allowed_hosts, or connect to localhost or an IP address.\n"
            )
            response = websocket.reject(http.HTTPStatus.FORBIDDEN, text)
            return Refusal(response, "host", "handshake refused host=%s peer=%s", quote(host))
    return None


def _identify(
    websocket: ServerProtocol, headers: Headers, client: Client, access: Access
) -> Client | Refusal:
    """Tell who a client is, or refuse a token that is wrong (RFC 6750, 3)."""
    if any(_RELAYING.fullmatch(name) for name, _ in headers.raw_items()):
        client = replace(client, trust=Trust.REMOTE)
    known = access.identify(client, bearer=bearer_token(headers), cookie=cookie_token(headers))
    if known is not None:
        return known
    text = f"This token is not known here; send one that was {ORIGIN_OF_TOKENS}, or none to read."
    response = websocket.reject(http.HTTPStatus.UNAUTHORIZED, f"{text}\n")
    response.headers["WWW-Authenticate"] = 'Bearer realm="plexus-registry", error="invalid_token"'
    return Refusal(response, "token", "handshake refused, %s peer=%s", "unknown token")


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


def is_own_page(origin: str, hosts: Collection[str], allowed_hosts: Collection[str]) -> bool:
    """Tell whether a web page came from this port, as the status page does (RFC 6454, 5).

    Args:
        origin: The ``Origin`` header.
        hosts: The ``Host`` headers. The page's own host is what it calls, by a name of ours.
        allowed_hosts: As for `is_host_allowed`.
    """
    _, _, authority = origin.lower().partition("://")
    return (
        _ORIGIN.fullmatch(origin) is not None
        and [host.lower() for host in hosts] == [authority]
        and is_host_allowed(authority, allowed_hosts)
    )


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
