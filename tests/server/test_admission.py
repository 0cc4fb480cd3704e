# SPDX-License-Identifier: AGPL-3.0-only
"""Who is let in: names of this host against DNS rebinding, tokens, who the kernel says it is."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.datastructures import Headers

from plexus_registry.access import Client, Policy, Trust, digest_of
from plexus_registry.config.settings import Settings
from plexus_registry.server.addresses import client_of, is_loopback, own_names
from plexus_registry.server.handshake import bearer_token, cookie_token, is_host_allowed
from support.rawsocket import Response, head_of, raw_socket, text_frame
from support.serving import Served, serving

INFO = {"jsonrpc": "2.0", "id": 1, "method": "_info"}


def response_to(served: Served, **headers: str) -> Response:
    """Shake hands with these headers and return the answer."""
    with raw_socket(served.port) as raw:
        raw.send(head_of(headers={name.replace("_", "-"): it for name, it in headers.items()}))
        return raw.read_response()


# --- the name of the host -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:4445", True),
        ("app.localhost:80", True),
        ("127.0.0.1:4445", True),
        ("127.0.0.1", True),
        ("192.0.2.7:4445", True),
        ("[::1]:4445", True),
        ("[2001:db8::1]", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("listed.example", True),
        ("Listed.Example:8443", True),
        ("host", True),
        ("evil.example", False),
        ("evil.example:4445", False),
        ("sub.listed.example", False),
        ("listed.example.evil.example", False),
        ("localhost.evil.example", False),
        ("notlocalhost", False),
        ("127.0.0.1.evil.example", False),
        ("localhost@evil.example", False),
        ("localhost:80@evil.example", False),
        ("localhost/evil.example", False),
        ("evil.example#localhost", False),
        ("localhost, evil.example", False),
        ("localhost:80:80", False),
        ("localhost:x", False),
        ("[localhost]", False),
        ("[::1", False),
        ("::1", False),
        ("2130706433", False),
        ("", False),
        (" ", False),
        ("*", False),
        ("lİsted.example", False),
    ],
)
def test_host_policy(host: str, is_allowed: bool) -> None:
    """Addresses and our own names, on any port; no other name, however it looks."""
    assert is_host_allowed(host, {"listed.example", "host"}) is is_allowed


def test_page_that_has_its_name_lead_here_is_refused(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """It gets 403 and the name of the setting; the log tells the name, bounded."""
    for _ in range(3):
        response = response_to(served, Host="evil.example:4445", Origin="http://localhost")
        assert response.status == 403
        assert b"allowed_hosts" in response.body
    assert response_to(served, Host="localhost\r\nHost: evil.example").status in (400, 403)
    [record] = [it for it in caplog.records if "handshake refused" in it.message]
    assert 'handshake refused host="evil.example:4445" peer=127.0.0.1:' in record.message


def test_names_of_this_machine_and_listed_ones_are_accepted(settings: Settings) -> None:
    """Also the one that it is to listen on, even if systemd passes sockets instead."""
    listing = dataclasses.replace(settings, host="Own.example", allowed_hosts=("reg.example",))
    with (
        socket.create_server(("127.0.0.1", 0)) as passed,
        serving(listing, sockets=[passed]) as served,
    ):
        for host in ("reg.example", "own.example:1", socket.gethostname().upper(), "127.0.0.1"):
            assert response_to(served, Host=host).status == 101
        assert response_to(served, Host="other.example").status == 403


def test_unix_socket_has_no_name_to_be_checked(settings: Settings) -> None:
    """No web page can connect to it: any Host will do."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/s")
        listening.listen()
        with serving(settings, sockets=[listening]), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"{folder}/s")
            sock.sendall(head_of(headers={"Host": "any.example"}))
            assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")


def test_own_names_come_from_the_kernel_and_the_hosts_file(tmp_path: Path) -> None:
    """The lines that name this machine, and no others; a file that is missing is no fault."""
    name = socket.gethostname().lower()
    short = name.partition(".")[0]
    hosts = tmp_path / "hosts"
    hosts.write_text(
        f"127.0.0.1 localhost\n127.0.1.1\t{short}.Example.org {name} alias # not.this\n"
        f"# 10.0.0.1 {name} commented\n10.0.0.2 other.example\n::1 {short}-not\n"
    )
    few = own_names(tmp_path / "none")
    assert few == {name, short, f"{short}.local"}
    assert own_names(hosts) == few | {f"{short}.example.org", "alias"}


# --- tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("authorization", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  a.b~c+/= ", "a.b~c+/="),
        ("Bearer", ""),
        ("Bearer a b", ""),
        ("Bearer é", ""),
        ("Basic abc", ""),
        ("xBearer abc", ""),
        ("", ""),
    ],
)
def test_bearer_token(authorization: str, token: str) -> None:
    """RFC 6750, 2.1; the scheme in any case."""
    assert bearer_token(Headers(Authorization=authorization)) == token


@pytest.mark.parametrize(
    ("cookie", "token"),
    [
        ("access_token=abc", "abc"),
        ("a=b; access_token=abc; c=d", "abc"),
        ("a=b;access_token=abc", "abc"),
        ('access_token="abc"', "abc"),
        ("access_token=a=b", "a=b"),
        ("access_token", ""),
        ("access_token=", ""),
        ("xaccess_token=abc", ""),
        ("Access_Token=abc", ""),
        (";;=;", ""),
    ],
)
def test_cookie_token(cookie: str, token: str) -> None:
    """The one cookie among those of others."""
    assert cookie_token(Headers(Cookie=cookie)) == token


@pytest.fixture
def strict(settings: Settings) -> Iterator[Served]:
    """A registry whose TCP clients need a token to write."""
    with serving(dataclasses.replace(settings, write_access=Policy.TOKEN)) as served:
        access = served.server.hub.access
        served.in_loop(lambda: setattr(access, "tokens", {"ci": digest_of("right")}))
        yield served


def test_wrong_token_is_told_at_the_handshake(
    strict: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """With 401 (RFC 6750, 3) and what to do; the log names the peer and not the token."""
    for _ in range(3):
        response = response_to(strict, Authorization="Bearer wrong-one")
        assert response.status == 401
        assert response.headers["www-authenticate"].startswith('Bearer realm="plexus-registry"')
        assert b"plexus-registryctl token new" in response.body
    [record] = [it for it in caplog.records if "handshake refused" in it.message]
    assert record.message.startswith("handshake refused, unknown token peer=127.0.0.1:")
    assert "wrong-one" not in caplog.text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer right"},
        {"Authorization": "Basic d3Jvbmc="},
        {"Cookie": "access_token=right"},
        {"Cookie": "access_token=of-a-hub"},
        {"Authorization": "Bearer wrong", "Cookie": "access_token=right"},
    ],
)
def test_others_are_let_in_to_read(strict: Served, headers: dict[str, str]) -> None:
    """Without a token, with a right one, and with a cookie that may be somebody else's."""
    with raw_socket(strict.port) as raw:
        raw.send(head_of(headers=headers) + text_frame(INFO))
        assert raw.read_response().status == 101
        assert raw.read_frame().json["id"] == 1


def test_origin_counts_before_a_token(strict: Served) -> None:
    """A hostile page learns nothing about tokens."""
    for token in ("right", "wrong"):
        headers = {"Authorization": f"Bearer {token}", "Origin": "https://evil.example"}
        assert response_to(strict, **headers).status == 403


# --- who the kernel says it is --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:192.0.2.7", False),
        ("192.0.2.7", False),
        ("0.0.0.0", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("10.0.0.1", False),
        ("nonsense", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    """All of 127.0.0.0/8 and ::1, also where IPv4 is mapped into IPv6."""
    assert is_loopback(host) is expected


@contextlib.contextmanager
def accepted(family: socket.AddressFamily, address: object) -> Iterator[Client]:
    """Connect over an address, and tell who the accepting side takes the other for."""
    with socket.socket(family) as listening, socket.socket(family) as connecting:
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(address)  # type: ignore[arg-type]
        listening.listen()
        connecting.connect(listening.getsockname())
        sock, peer = listening.accept()
        with sock:
            yield client_of(sock, peer)


def test_client_is_told_by_its_address_or_its_user() -> None:
    """TCP clients by where they come from, Unix clients by who they are."""
    with accepted(socket.AF_INET, ("127.0.0.1", 0)) as client:
        assert client.trust is Trust.LOCAL
        assert client.label.startswith("127.0.0.1:")
    with accepted(socket.AF_INET6, ("::1", 0)) as client:
        assert client.trust is Trust.LOCAL
    with (
        tempfile.TemporaryDirectory() as folder,
        accepted(socket.AF_UNIX, f"{folder}/s") as client,
    ):
        assert client == Client(
            f"unix:pid={os.getpid()},uid={os.geteuid()}", Trust.OWNER, place=f"uid={os.geteuid()}"
        )
