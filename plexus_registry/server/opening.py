# SPDX-License-Identifier: AGPL-3.0-only
"""How a connection begins: its HTTP request, until it is a WebSocket or has its answer."""

from __future__ import annotations

import http
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from plexus_registry.access import Client
from plexus_registry.server.handshake import (
    END_OF_HEAD,
    TOO_MANY,
    Head,
    Refusal,
    admit,
    asks_for_websocket,
    judge_head,
    plain_response,
    refuse_web_page,
    without_body,
)
from plexus_registry.server.pages import Answer, Page, encode, path_of

if TYPE_CHECKING:
    from plexus_registry.server.listener import Server


class Opening:
    """One connection's request.

    Args:
        server: Whose connection it is.
        websocket: Becomes open if the request is for a WebSocket and is accepted.
        client: Who it is, as far as the kernel knows.
        place: What the connection counts for, see `Crowd`.
        is_unix: It came by a Unix socket.
        finish: Sends a whole response and ends the connection.
        send: Sends what the library has to say, which may end the connection.

    Attributes:
        client: Who it is, by its request as well.
        is_decided: The request is whole: nothing more is looked at.
        rest: What came behind the request.
    """

    def __init__(
        self,
        server: Server,
        websocket: ServerProtocol,
        client: Client,
        *,
        place: str,
        is_unix: bool,
        finish: Callable[[bytes], None],
        send: Callable[[list[bytes]], None],
    ) -> None:
        self.client = client
        self.is_decided = False
        self.rest = b""
        self._server = server
        self._websocket = websocket
        self._place = place
        self._is_unix = is_unix
        self._finish = finish
        self._send = send
        self._head = b""

    def receive(self, data: bytes) -> None:
        """Judge the request as it comes in, then hand it to the library, and only it.

        What follows it counts once the handshake is done, for the library would take it for
        frames even where the request is refused.
        """
        if self.is_decided:
            return
        self._head += data
        refusal = judge_head(self._head, self._server.pages)
        if refusal is not None:
            self._end(refusal)
            return
        text, end, self.rest = self._head.partition(END_OF_HEAD)
        if not end:
            return
        self.is_decided = True
        self._head = b""
        head = Head.of(text + end)
        websocket = self._websocket
        websocket.receive_data(head.for_library)
        events = websocket.events_received()
        if not events:  # the library refuses it by itself
            self._server.counts.refused["request"] += 1
        for event in events:
            assert isinstance(event, Request)
            outcome = self._decide(event, head)
            if not isinstance(outcome, Response):
                outcome(partial(self._give, has_body=head.method != b"HEAD"))
                return
            websocket.send_response(outcome)
        writes = websocket.data_to_send()
        if not any(writes):  # some versions of the library drop a broken request without a word
            reason = "This is no valid HTTP request.\n"
            writes.insert(0, plain_response(http.HTTPStatus.BAD_REQUEST, reason))
        if head.method == b"HEAD":
            writes[0] = without_body(writes[0])
        self._send(writes)

    def _decide(self, request: Request, head: Head) -> Response | Page:
        """Find the page that is asked for, or accept or refuse a WebSocket."""
        websocket, server = self._websocket, self._server
        limit = server.limit_reached(self._place)
        if limit is not None:
            message = f"handshake refused, too many connections {limit[0]}=%d peer=%s"
            server.notices.warning(message, limit[1], self.client.label)
            server.counts.refused["limit"] += 1
            return websocket.reject(http.HTTPStatus.TOO_MANY_REQUESTS, TOO_MANY)
        headers, is_unix = request.headers, self._is_unix
        # An upgrade to what is not known here is not taken up (RFC 9110, 7.8).
        is_upgrade = asks_for_websocket(headers)
        page = None if is_upgrade else server.pages.get(path_of(request.path))
        who: Client | Refusal
        if page is not None and head.version == b"1.1" and "Host" not in headers:
            text = "HTTP/1.1 needs a Host header.\n"
            who = Refusal(websocket.reject(http.HTTPStatus.BAD_REQUEST, text))
        elif page is not None:
            who = refuse_web_page(websocket, headers, server.terms, is_unix=is_unix) or self.client
        else:
            who = admit(websocket, headers, head, self.client, server.terms, is_unix=is_unix)
        if isinstance(who, Refusal):
            if who.notice:
                server.notices.warning(who.notice, who.shown, self.client.label)
            server.counts.refused[who.reason] += 1
            return who.response
        self.client = who
        if page is not None:
            return page
        response = websocket.accept(request)
        if response.status_code != http.HTTPStatus.SWITCHING_PROTOCOLS:
            server.counts.refused["request"] += 1
        return response

    def _give(self, answer: Answer, *, has_body: bool) -> None:
        self._finish(encode(answer, has_body=has_body))

    def _end(self, response: bytes) -> None:
        self.is_decided = True
        self._server.counts.refused["request"] += 1
        self._finish(without_body(response) if self._head.startswith(b"HEAD ") else response)
