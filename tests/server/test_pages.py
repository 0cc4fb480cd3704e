# SPDX-License-Identifier: AGPL-3.0-only
"""HTTP without a WebSocket: pages, who may see them, and clients that do not behave."""

from __future__ import annotations

import dataclasses
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from plexus_registry.config.settings import Settings
from plexus_registry.server.pages import Answer
from support.certificates import Authority
from support.conversation import conversation
from support.rawsocket import RawSocket, Response, head_of, raw_socket
from support.serving import Served, serving
from support.timing import wait_until

PLAIN = {"Upgrade": None, "Connection": None}
PAGES = ("/", "/healthz", "/metrics")


def ask(
    served: Served,
    target: str = "/healthz",
    *,
    method: str = "GET",
    version: str = "1.1",
    tls: ssl.SSLContext | None = None,
    **headers: str | None,
) -> Response:
    """Send a request, and check that nothing follows its answer but the end."""
    with raw_socket(served.port, tls=tls) as raw:
        raw.send(request(target, method=method, version=version, **headers))
        response = raw.read_response() if method != "HEAD" else headers_only(raw)
        assert raw.read_to_end() == b""
    return response


def request(
    target: str = "/healthz", *, method: str = "GET", version: str = "1.1", **headers: str | None
) -> bytes:
    """Encode a request that asks for no WebSocket."""
    return head_of(f"{method} {target} HTTP/{version}", {**PLAIN, **headers})


def headers_only(raw: RawSocket) -> Response:
    """Read a response that must end with its headers."""
    whole = raw.read_to_end()
    assert whole.endswith(b"\r\n\r\n")
    raw.unread += whole.replace(b"Content-Length: ", b"Content-Length: 0\r\nX-Length: ")
    return raw.read_response()


@pytest.fixture
def gate(served: Served) -> list[Callable[[Answer], None]]:
    """A page ``/slow`` whose answers the test gives, from this list."""
    waiting: list[Callable[[Answer], None]] = []
    served.in_loop(lambda: served.server.pages.update({"/slow": waiting.append}))
    return waiting


# --- what pages are sent with ---------------------------------------------------------------------


@pytest.mark.parametrize("target", PAGES)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_pages_are_not_kept_and_are_what_they_say(
    served: Served, target: str, version: str
) -> None:
    """Each has the headers that browsers and proxies go by; old proxies speak HTTP/1.0."""
    response = ask(served, target, version=version)
    assert response.status == 200
    assert response.body
    headers = response.headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["connection"] == "close"
    assert parsedate_to_datetime(headers["date"]).tzinfo is not None
    assert headers["content-type"].startswith("text/html" if target == "/" else "text/plain")


@pytest.mark.parametrize("target", PAGES)
def test_head_has_the_headers_of_get(served: Served, target: str) -> None:
    """And no body (RFC 9110, 9.3.2)."""
    head, get = ask(served, target, method="HEAD"), ask(served, target)
    assert head.status == 200
    if target != "/metrics":  # which differ from one moment to the next
        assert head.headers["x-length"] == get.headers["content-length"]
    assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"])
def test_other_methods_are_told_what_is_allowed(served: Served, method: str) -> None:
    """405 with the methods of that path."""
    for target, allowed in (("/metrics?x=1", "GET, HEAD"), ("/other", "GET")):
        response = ask(served, target, method=method)
        assert (response.status, response.headers["allow"]) == (405, allowed)
        for page in PAGES:
            assert page in response.body.decode()


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [("/other", {}, 405), ("/", {"Host": "evil.example"}, 403), ("/" + "x" * 9000, {}, 414)],
)
def test_refusal_of_head_has_no_body(
    served: Served, target: str, headers: dict[str, Any], status: int
) -> None:
    """As that of GET would be, without it (RFC 9110, 9.3.2)."""
    assert ask(served, target, method="HEAD", **headers).status == status
    assert ask(served, target, **headers).body


@pytest.mark.parametrize("target", PAGES)
def test_upgrade_to_something_else_is_not_taken_up(served: Served, target: str) -> None:
    """Clients that would rather speak HTTP/2 get the page (RFC 9110, 7.8)."""
    h2c: dict[str, Any] = {
        "Upgrade": "h2c",
        "Connection": "Upgrade, HTTP2-Settings",
        "HTTP2-Settings": "AAMAAABk",
    }
    assert ask(served, target, **h2c).status == 200


def test_page_may_be_asked_for_in_absolute_form(served: Served) -> None:
    """As proxies are (RFC 9112, 3.2.2); a target without a path means the root."""
    host = f"http://127.0.0.1:{served.port}"
    assert ask(served, f"{host}/healthz?x").body.startswith(b"ok")
    assert ask(served, host).headers["content-type"].startswith("text/html")


def test_page_needs_the_host_of_http_1_1(served: Served) -> None:
    """RFC 9112, 3.2; older clients need not send one."""
    response = ask(served, Host=None)
    assert (response.status, response.body) == (400, b"HTTP/1.1 needs a Host header.\n")
    assert ask(served, version="1.0", Host=None).status == 200


@pytest.mark.parametrize("target", PAGES)
def test_a_websocket_opens_at_the_path_of_a_page(served: Served, target: str) -> None:
    """The request decides, not the path: a WebSocket opens at any."""
    with conversation(served.url + target) as client:
        assert client.request("_info").content["backend"] == "registry-hub"


def test_requests_for_websockets_need_http_1_1(served: Served) -> None:
    """A proxy that speaks HTTP/1.0 passes pages on and no WebSocket, and is told so."""
    with raw_socket(served.port) as raw:
        raw.send(head_of("GET / HTTP/1.0"))
        response = raw.read_response()
    assert response.status == 505
    assert response.body == b"WebSocket needs HTTP/1.1.\n"


def test_pages_over_tls(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same pages, whole, and the end is told."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    with serving(authority.issue().secure(settings)) as served:
        for target in PAGES:
            assert ask(served, target, tls=authority.client()).status == 200


class LeavingClient:
    """A transport that has the client leave right after the first write.

    Args:
        transport: Passes on what is written.
        leave: Ends the client's connection.
    """

    def __init__(self, transport: Any, leave: Callable[[], object]) -> None:
        self._transport = transport
        self._leave: Callable[[], object] | None = leave

    def write(self, data: bytes) -> None:
        """Pass it on, and then the client is gone before anything else happens."""
        self._transport.write(data)
        if self._leave is not None:
            leave, self._leave = self._leave, None
            leave()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_who_leaves_as_soon_as_the_page_is_there_breaks_nothing(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory, is_tls: bool
) -> None:
    """By the time that the end is to be told nobody is there; that is no fault of anybody."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    given: list[Callable[[Answer], None]] = []
    with serving(authority.issue().secure(settings) if is_tls else settings) as served:
        served.in_loop(lambda: served.server.pages.update({"/slow": given.append}))
        tls = authority.client() if is_tls else None
        with raw_socket(served.port, tls=tls) as raw:
            raw.send(request("/slow"))
            wait_until(lambda: given, "the request")
            [connection] = served.server.connections
            transport: Any = connection.transport

            def read_and_leave() -> None:
                assert raw.read_response().status == 200
                raw.socket.close()

            if is_tls:
                transport._socket = LeavingClient(transport._socket, read_and_leave)
            else:
                connection._outflow._transport = LeavingClient(transport, raw.reset)  # type: ignore[assignment]
            served.in_loop(lambda: given[0](Answer(b"here it is")))
            wait_until(lambda: not served.in_loop(lambda: served.server.connections), "the end")


def test_pages_on_a_unix_socket(settings: Settings) -> None:
    """The same pages, whatever the Host: a proxy may come this way."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/s")
        listening.listen()
        with serving(settings, sockets=[listening]):
            for target in PAGES:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(f"{folder}/s")
                    sock.sendall(request(target, Host="any.example"))
                    assert RawSocket(sock).read_response().status == 200


# --- who may see them -----------------------------------------------------------------------------


@pytest.mark.parametrize("target", PAGES)
def test_names_that_are_not_ours_are_refused(served: Served, target: str) -> None:
    """As for a WebSocket, against DNS rebinding; so are pages of others."""
    assert ask(served, target, Host="evil.example").status == 403
    assert ask(served, target, Origin="https://evil.example").status == 403
    assert ask(served, target, Host="127.0.0.1:1").status == 200


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://192.0.2.1:4445", "192.0.2.1:4445", 101),
        ("https://192.0.2.1", "192.0.2.1", 101),
        ("http://[2001:db8::1]:4445", "[2001:DB8::1]:4445", 101),
        ("https://REG.example", "reg.example", 101),
        ("https://reg.example:444", "reg.example", 403),
        ("https://reg.example", "reg.example:444", 403),
        ("http://192.0.2.1:4446", "192.0.2.1:4445", 403),
        ("http://192.0.2.2:4445", "192.0.2.1:4445", 403),
        ("http://evil.example", "evil.example", 403),
        ("null", "192.0.2.1", 403),
        ("ftp://192.0.2.1", "192.0.2.1", 403),
        ("http://a@192.0.2.1", "a@192.0.2.1", 403),
    ],
)
def test_the_status_page_may_connect_to_where_it_is_from(
    settings: Settings, origin: str, host: str, status: int
) -> None:
    """By an address or a name of ours, also behind a proxy; other pages may not."""
    named = dataclasses.replace(settings, allowed_hosts=("reg.example",))
    with serving(named) as served, raw_socket(served.port) as raw:
        raw.send(head_of(headers={"Origin": origin, "Host": host}))
        assert raw.read_response().status == status


def test_a_proxys_unix_socket_does_not_make_foreign_pages_ours(settings: Settings) -> None:
    """There any Host will do, but a page is ours only by a name of ours."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/s")
        listening.listen()
        with serving(settings, sockets=[listening]), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"{folder}/s")
            headers = {"Origin": "http://evil.example", "Host": "evil.example"}
            sock.sendall(head_of(headers=headers))
            assert RawSocket(sock).read_response().status == 403


def test_pages_count_as_connections(settings: Settings) -> None:
    """One beyond the limit gets 429."""
    few = dataclasses.replace(settings, max_connections=1)
    with serving(few) as served, conversation(served.url):
        assert ask(served).status == 429


# --- clients that do not behave -------------------------------------------------------------------


def test_a_request_in_single_bytes_gets_its_page(served: Served) -> None:
    """However it is cut."""
    with raw_socket(served.port) as raw:
        for byte in request():
            raw.send(bytes([byte]))
        assert raw.read_response().status == 200


@pytest.mark.parametrize("rest", [b"GET /metrics HTTP/1.1\r\n\r\n", b"\0" * 70_000])
def test_what_follows_a_request_is_not_looked_at(
    served: Served, gate: list[Callable[[Answer], None]], rest: bytes
) -> None:
    """Neither with it nor while its page is made: there is one answer, and then the end."""
    with raw_socket(served.port) as raw:
        raw.send(request("/slow") + rest)
        wait_until(lambda: gate, "the request")
        raw.send(rest)
        served.in_loop(lambda: gate[0](Answer(b"here")))
        assert raw.read_response().body == b"here"
        assert raw.read_to_end() == b""
    assert len(gate) == 1


def test_who_has_ended_may_still_read(served: Served, gate: list[Callable[[Answer], None]]) -> None:
    """A client that sends no more, as `nc -N` does, gets its answer, and the connection ends."""
    with raw_socket(served.port) as raw:
        raw.send(request("/slow"))
        raw.socket.shutdown(socket.SHUT_WR)
        wait_until(lambda: gate, "the request")
        served.in_loop(lambda: gate[0](Answer(b"here")))
        assert raw.read_response().body == b"here"
        assert raw.read_to_end() == b""
    wait_until(lambda: not served.server.connections, "the end")


def test_who_has_left_gets_nothing(served: Served, gate: list[Callable[[Answer], None]]) -> None:
    """A page that comes too late goes nowhere, and nothing is logged about it."""
    with raw_socket(served.port) as raw:
        raw.send(request("/slow"))
        wait_until(lambda: gate, "the request")
        raw.reset()
    wait_until(lambda: not served.server.connections, "the end")
    served.in_loop(lambda: gate[0](Answer(b"here")))


def test_who_does_not_read_is_cut(served: Served) -> None:
    """A page that nobody takes does not stay in memory for long."""

    def prepare() -> None:
        served.server.close_timeout_s = 0.1
        served.server.pages["/big"] = lambda give: give(Answer(b"x" * 20_000_000))

    served.in_loop(prepare)
    with raw_socket(served.port, receive_buffer=4096) as raw:
        raw.send(request("/big"))
        wait_until(lambda: served.server.counts.accepted == 1, "the request")
        wait_until(lambda: not served.server.connections, "the cut")


def test_a_stop_does_not_wait_for_pages(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that never comes is given up."""
    monkeypatch.setattr("plexus_registry.server.connection.STOPPING_HANDSHAKE_TIMEOUT_S", 0.05)
    asked = threading.Event()
    with serving(settings) as served, raw_socket(served.port) as raw:
        served.in_loop(lambda: served.server.pages.update({"/never": lambda give: asked.set()}))
        raw.send(request("/never"))
        assert asked.wait(10)
