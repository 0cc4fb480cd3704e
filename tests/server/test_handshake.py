# SPDX-License-Identifier: AGPL-3.0-only
"""Handshakes: which requests become a WebSocket, and what the others are told."""

from __future__ import annotations

import dataclasses
import socket
import time

import pytest

from plexus_registry.config.settings import Settings
from plexus_registry.server.connection import Connection
from plexus_registry.server.handshake import (
    HEAD_MAX_BYTES,
    REQUEST_LINE_MAX_BYTES,
    is_origin_allowed,
    judge_head,
)
from support.conversation import conversation
from support.loglines import first_lines
from support.rawsocket import (
    close_frame,
    head_of,
    raw_socket,
    raw_websocket,
    text_frame,
)
from support.serving import Served, serving
from support.timing import TIMEOUT_S, wait_until

INFO = {"jsonrpc": "2.0", "id": 1, "method": "_info"}


def status_of(served: Served, *packets: bytes) -> int:
    """Send packets one by one, return the status, and check that nothing follows but the end."""
    with raw_socket(served.port) as raw:
        for packet in packets:
            raw.send(packet)
        response = raw.read_response(has_body=not packets[0].startswith(b"HEAD "))
        if response.status != 101:
            assert response.headers["content-type"].startswith("text/plain")
            assert bool(response.body) is not packets[0].startswith(b"HEAD ")
            assert raw.read_to_end() == b""
        return response.status


# --- what is accepted -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_line", "headers"),
    [
        ("GET / HTTP/1.1", {}),
        ("GET /any/path?x=1&y=%20 HTTP/1.1", {}),
        ("GET * HTTP/1.1", {}),
        ("GET http://localhost/ HTTP/1.1", {}),
        ("GET / HTTP/1.1", {"Host": None}),
        ("GET / HTTP/1.1", {"Connection": "keep-alive, UPGRADE", "Upgrade": "WebSocket"}),
        ("GET / HTTP/1.1", {"Sec-WebSocket-Protocol": "a, b"}),
        ("GET / HTTP/1.1", {"Sec-WebSocket-Extensions": "permessage-deflate; foo=bar"}),
        ("GET / HTTP/1.1", {"Cookie": "access_token=abc", "Authorization": "Bearer abc"}),
        ("GET / HTTP/1.1", {"X-Long": "x" * 8000}),
        ("GET / HTTP/1.1", {"X-Text": "é€"}),
    ],
)
def test_accepted_requests(
    served: Served, request_line: str, headers: dict[str, str | None]
) -> None:
    """Any path and any header that does not matter leads to a WebSocket that works."""
    with raw_socket(served.port) as raw:
        raw.send(head_of(request_line, headers))
        response = raw.read_response()
        assert response.status == 101
        assert response.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert "sec-websocket-protocol" not in response.headers
        assert "sec-websocket-extensions" not in response.headers
        raw.send(text_frame(INFO))
        assert raw.read_frame().json["id"] == 1


def test_request_in_single_bytes(served: Served) -> None:
    """A handshake and a request that come byte by byte are put together."""
    with raw_socket(served.port) as raw:
        for byte in head_of() + text_frame(INFO):
            raw.send(bytes([byte]))
        assert raw.read_response().status == 101
        assert raw.read_frame().json["id"] == 1


def test_frames_in_the_packet_of_the_handshake(served: Served) -> None:
    """A client that does not wait for the 101 is answered after it."""
    with raw_socket(served.port) as raw:
        raw.send(head_of() + text_frame(INFO) + close_frame())
        assert raw.read_response().status == 101
        assert raw.read_frame().json["id"] == 1


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_line", "statuses"),
    [
        ("HEAD / HTTP/1.1", {405}),
        ("POST / HTTP/1.1", {405}),
        ("PUT / HTTP/1.1", {405}),
        ("OPTIONS * HTTP/1.1", {405}),
        ("CONNECT localhost:80 HTTP/1.1", {405}),
        ("get / HTTP/1.1", {405}),
        ("Get / HTTP/1.1", {405}),
        ("X-Custom / HTTP/1.1", {405}),
        ("GET / HTTP/1.0", {505}),
        ("GET / HTTP/2.0", {505}),
        ("GET / HTTP/1.2", {505}),
        ("GET / http/1.1", {400}),
        ("GET /", {400}),
        ("GET", {400}),
        ("", {400}),
        ("GET  / HTTP/1.1", {400}),
        (" GET / HTTP/1.1", {400}),
        ("GET / a HTTP/1.1", {400}),
        ("GET /ä HTTP/1.1", {400}),
        ("G\0T / HTTP/1.1", {400}),
        ("PRI * HTTP/2.0", {405}),
        ("SSH-2.0-OpenSSH_9.2", {400}),
        ("GET /" + "x" * REQUEST_LINE_MAX_BYTES + " HTTP/1.1", {414}),
        ("x" * 20_000, {414}),
    ],
)
def test_refused_request_lines(served: Served, request_line: str, statuses: set[int]) -> None:
    """A request that is not a GET of HTTP/1.1 gets the status that says why."""
    whole = head_of(request_line)
    assert status_of(served, whole) in statuses
    assert status_of(served, whole[:-2], whole[-2:]) in statuses


@pytest.mark.parametrize(
    ("headers", "statuses"),
    [
        ({"Upgrade": None}, {405}),
        ({"Upgrade": None, "Connection": None}, {405}),
        ({"Upgrade": "h2c"}, {426}),
        ({"Upgrade": "h2c, websocket"}, {426}),
        ({"Connection": None}, {426}),
        ({"Connection": "close"}, {426}),
        ({"Sec-WebSocket-Key": None}, {400}),
        ({"Sec-WebSocket-Key": ""}, {400}),
        ({"Sec-WebSocket-Key": "not base64!"}, {400}),
        ({"Sec-WebSocket-Key": "c2hvcnQ="}, {400}),
        ({"Sec-WebSocket-Version": None}, {400}),
        ({"Sec-WebSocket-Version": "8"}, {400, 426}),
        ({"Sec-WebSocket-Version": "thirteen"}, {400, 426}),
        ({"Content-Length": "5"}, {400}),
        ({"Transfer-Encoding": "chunked"}, {400}),
        ({"no colon here\r\nX": "y"}, {400}),
        ({"X-Bad": "a\0b"}, {400}),
        ({"Connection": "Upgräde"}, {400, 426}),
        ({"Upgrade": "wébsocket"}, {400, 426}),
        ({"Sec-WebSocket-Key": "é"}, {400}),
        ({"Sec-WebSocket-Version": "１３"}, {400, 426}),
        ({f"X-{number}": "y" for number in range(200)}, {400, 431}),
        ({"X-Long": "x" * 9000}, {400, 431}),
        ({"X-Long": "x" * HEAD_MAX_BYTES}, {431}),
        ({f"X-{number}": "y" * 1000 for number in range(100)}, {431}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused_headers(
    served: Served, headers: dict[str, str | None], statuses: set[int]
) -> None:
    """Headers that make no WebSocket get the status that says why."""
    assert status_of(served, head_of("GET /ws HTTP/1.1", headers)) in statuses


@pytest.mark.parametrize(
    "first",
    [
        b"POST / HTTP/1.1\r\nContent-Length: 40\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        head_of(headers={"Sec-WebSocket-Key": "x"}),
        head_of(headers={"Origin": "https://example.com"}),
        b"nonsense\r\n",
    ],
    ids=["post", "get", "bad-key", "bad-origin", "nonsense"],
)
@pytest.mark.parametrize(
    "rest",
    [
        b'{"jsonrpc":"2.0","id":1,"method":"_info"}',
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        close_frame(),
        text_frame(INFO),
        b"\0" * 1000,
    ],
    ids=["body", "request", "close", "message", "nul"],
)
def test_what_follows_a_refused_request_is_not_looked_at(
    served: Served, first: bytes, rest: bytes
) -> None:
    """A body, a second request or frames behind a refused one change nothing, however cut."""
    assert status_of(served, first + rest) >= 400
    assert status_of(served, first, rest, rest) >= 400
    assert served.in_loop(lambda: len(served.service.registry.catalog)) == 0


def test_refusals_say_what_would_be_right(served: Served) -> None:
    """Who finds the port by mistake reads what it is; methods are told in Allow."""
    for request_line in ("GET /x HTTP/1.1", "POST /x HTTP/1.1"):
        with raw_socket(served.port) as raw:
            raw.send(head_of(request_line, {"Upgrade": None}))
            response = raw.read_response()
            assert response.status == 405
            assert response.headers["allow"] == "GET"
            assert b"ws://" in response.body
            assert b"/healthz" in response.body
            assert response.headers["connection"].lower() == "close"


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: localhost\r\n"])
def test_handshake_has_to_come_in_time(served: Served, sent: bytes) -> None:
    """A client that says nothing, or does not come to an end, is cut off."""
    served.in_loop(lambda: setattr(served.server, "handshake_timeout_s", 3600.0))

    def connections() -> list[Connection]:
        return served.in_loop(lambda: list(served.server.connections))

    with raw_socket(served.port) as raw:
        raw.send(sent)
        wait_until(connections, "the connection")
        served.let_pass(1800.0)
        assert connections()
        served.let_pass(1800.0)
        assert raw.read_to_end() == b""
    assert not connections()


def test_trickling_does_not_extend_the_time(served: Served) -> None:
    """The limit is on the whole handshake: a byte now and then does not move it."""
    served.in_loop(lambda: setattr(served.server, "handshake_timeout_s", 0.3))
    with raw_socket(served.port) as raw:
        raw.socket.settimeout(0.05)
        begin = time.monotonic()
        is_open = True
        while is_open and time.monotonic() - begin < TIMEOUT_S:
            try:
                raw.send(b"x")
                is_open = bool(raw.socket.recv(1))
            except TimeoutError:
                continue
            except (ConnectionResetError, BrokenPipeError):
                is_open = False
        assert not is_open


def test_time_limit_ends_with_the_handshake(served: Served) -> None:
    """An open WebSocket is not cut off when the time of the handshake is over."""
    with raw_websocket(served.port) as raw:
        served.let_pass(2 * served.server.handshake_timeout_s)
        raw.send(text_frame(INFO))
        assert raw.read_frame().json["id"] == 1


# --- origins --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("http://localhost", True),
        ("http://localhost:5173", True),
        ("https://localhost", True),
        ("http://LOCALHOST:80", True),
        ("http://app.localhost:3000", True),
        ("http://127.0.0.1", True),
        ("http://127.8.9.10:80", True),
        ("http://[::1]", True),
        ("https://[::1]:8443", True),
        ("https://listed.example", True),
        ("https://listed.example:443", False),
        ("http://listed.example", False),
        ("https://sub.listed.example", False),
        ("null", False),
        ("", False),
        ("*", False),
        ("file://", False),
        ("file://localhost", False),
        ("localhost", False),
        ("//localhost", False),
        ("ftp://localhost", False),
        ("https://example.com", False),
        ("https://localhost.example.com", False),
        ("https://notlocalhost", False),
        ("https://localhost.", False),
        ("https://127.0.0.1.example.com", False),
        ("https://example.com/http://localhost", False),
        ("https://example.com#localhost", False),
        ("https://localhost@example.com", False),
        ("http://evil.example\\@localhost", False),
        ("http://evil.example@localhost", False),
        ("http://evil.example:80@localhost:80", False),
        ("http://localhost/", False),
        ("http://localhost?", False),
        ("http://localhost\n", False),
        ("http://localhost:", False),
        ("http://localhost:x", False),
        ("http://evil,.localhost", False),
        ("http://[127.0.0.1]", False),
        ("http://[::1%lo]", False),
        ("https://example.com\\@localhost.example.com", False),
        ("http://0.0.0.0", False),
        ("http://10.0.0.1", False),
        ("http://192.168.1.1:4445", False),
        ("http://2130706433", False),
        ("http://0x7f.1", False),
        ("http://[::2]", False),
        ("http://[::1", False),
        ("http://[", False),
        ("chrome-extension://abcdef", False),
    ],
)
def test_origin_policy(origin: str, is_allowed: bool) -> None:
    """Pages of this host may connect, others only if they are listed letter by letter."""
    assert is_origin_allowed(origin, {"https://listed.example"}) is is_allowed


@pytest.mark.parametrize(
    ("origins", "status"),
    [
        ("http://localhost:5173", 101),
        ("https://listed.example", 101),
        ("https://example.com", 403),
        ("null", 403),
        ("", 403),
        ("http://localhost\r\nOrigin: https://example.com", 403),
        ("https://example.com\r\nOrigin: http://localhost", 403),
        ("http://localhost\r\nOrigin: http://localhost", 400),
        ("http://localhost, https://example.com", 403),
    ],
)
def test_origin_policy_over_the_socket(settings: Settings, origins: str, status: int) -> None:
    """A hostile page gets 403, several origins never count as a good one."""
    listing = dataclasses.replace(settings, allowed_origins=("https://listed.example",))
    with serving(listing) as served:
        assert status_of(served, head_of(headers={"Origin": origins})) == status


def test_refused_origin_is_logged_bounded(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """The operator learns which origin was refused; the log cannot be flooded or forged."""
    origin = "https://example.com/" + "x" * 5000
    for _ in range(3):
        assert status_of(served, head_of(headers={"Origin": origin})) == 403
    [record] = [it for it in caplog.records if "handshake refused" in it.message]
    assert "https://example.com/" in record.message
    assert len(record.message) < 300


# --- judging without sockets ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "head", [b"", b"G", b"GET / HTTP/1.1", b"GET / HTTP/1.1\r\nHost:", head_of()]
)
def test_a_good_head_is_not_judged_too_early(head: bytes) -> None:
    """A head without a fault so far gets no answer."""
    assert judge_head(head) is None


def test_client_of_tls_is_told_that_this_is_a_plain_port(served: Served) -> None:
    """At once: what it sends has no line that could end."""
    with raw_socket(served.port) as raw:
        raw.socket.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        response = raw.read_to_end()
    assert response.startswith(b"HTTP/1.1 400 ")
    assert b"This port speaks no TLS: connect with ws:// in place of wss://." in response


def test_length_of_a_whole_head_counts_without_what_follows() -> None:
    """Frames behind a short head do not make it too long."""
    assert judge_head(head_of() + b"\0" * HEAD_MAX_BYTES) is None


def test_limit_on_connections_is_lifted_when_one_ends(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Above the limit the status is 429; a place that becomes free is given again, many times.

    The log says so once.
    """
    with serving(dataclasses.replace(settings, max_connections=1)) as served:
        for _ in range(5):
            with conversation(served.url) as client:
                client.expect_silence()
                assert status_of(served, head_of()) == 429
            with raw_socket(served.port) as raw:
                # The connection before it may still be closing.
                while True:
                    raw.send(head_of())
                    response = raw.read_response()
                    if response.status == 101:
                        break
                    assert response.status == 429
                    raw.socket.close()
                    raw.socket = socket.create_connection(("127.0.0.1", served.port), TIMEOUT_S)
                raw.reset()
    [record] = [it for it in first_lines(caplog) if "too many connections" in it.message]
    assert "max_connections=1 peer=127.0.0.1:" in record.message
