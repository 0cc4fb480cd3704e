# SPDX-License-Identifier: AGPL-3.0-only
"""TLS on TCP sockets: what holds for plain connections holds for these, limits included."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import select
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.frames import CloseCode, Opcode

from plexus_registry.config.settings import Settings
from plexus_registry.server.connection import READ_BYTES, UNSENT_MAX_BYTES, Connection
from plexus_registry.server.outflow import OVERHEAD
from support.certificates import Authority
from support.conversation import conversation
from support.keyupdates import (
    SSL_KEY_UPDATE_NOT_REQUESTED,
    SSL_KEY_UPDATE_REQUESTED,
    updating_client,
)
from support.rawsocket import (
    RawSocket,
    close_frame,
    frame,
    head_of,
    raw_socket,
    raw_websocket,
    text_frame,
)
from support.serving import Served, serving
from support.timing import TIMEOUT_S, wait_until

INFO = {"jsonrpc": "2.0", "id": 1, "method": "_info"}
HIGH_WATER = 64 * 1024


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that the certificates are from."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> ssl.SSLContext:
    """What clients speak."""
    return authority.client()


@pytest.fixture
def secure(settings: Settings, authority: Authority) -> Iterator[Served]:
    """A running registry that speaks TLS."""
    with serving(authority.issue().secure(settings)) as served:
        yield served


def url_of(served: Served) -> str:
    """Return its URL with the scheme of TLS."""
    return served.url.replace("ws://", "wss://")


def read_json(raw: RawSocket, count: int) -> list[Any]:
    """Read *count* text frames."""
    return [raw.read_frame().json for _ in range(count)]


def only_connection(served: Served) -> Connection:
    """Return the server's side of the only connection."""
    wait_until(lambda: len(served.server.connections) == 1, "one connection")
    (connection,) = served.server.connections
    return connection


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_is_served_over_tls(
    secure: Served, authority: Authority, version: ssl.TLSVersion
) -> None:
    """Calls, long answers and the good-bye, in each version that is allowed."""
    context = authority.client()
    context.minimum_version = context.maximum_version = version
    with conversation(url_of(secure), ssl=context) as client:
        for number in range(40):
            params = {"name": f"n{number}", "host": "h", "port": 1, "metadata": "x" * 16_000}
            client.send(
                {"jsonrpc": "2.0", "id": 1, "method": "registry.register", "params": params}
            )
        assert all(client.answer().content["type"] == "backend_registered" for _ in range(40))
        assert len(client.call("registry.list").content["backends"]) == 40
        client.websocket.close()
        assert client.websocket.close_code == CloseCode.NORMAL_CLOSURE


def test_older_versions_are_refused(secure: Served, caplog: pytest.LogCaptureFixture) -> None:
    """TLS 1.1 gets the alert that says so, and one line in the log."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        pytest.raises(ssl.SSLError) as refused,
        raw_socket(secure.port, tls=context),
    ):
        pass
    assert refused.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"
    (line,) = [it.message for it in caplog.records if "TLS handshake failed" in it.message]
    assert "reason=unsupported protocol peer=127.0.0.1:" in line


def test_plain_client_is_told_to_speak_tls(secure: Served) -> None:
    """An HTTP request gets an HTTP response, and then the end."""
    with raw_socket(secure.port) as raw:
        raw.send(head_of())
        response = raw.read_response()
        assert response.status == 400
        assert b"connect with wss://" in response.body
        assert raw.read_to_end() == b""


@pytest.mark.parametrize(
    "noise", [b"\0" * 300, b"\x16\x03\x01\xff\xff" + b"\x01" * 400, b"\x80" * 9]
)
def test_noise_is_no_handshake(secure: Served, tls: ssl.SSLContext, noise: bytes) -> None:
    """Whatever it is, it ends that connection and no other."""
    with conversation(url_of(secure), ssl=tls) as other:
        secure.in_loop(lambda: setattr(secure.server, "handshake_timeout_s", 0.2))
        with raw_socket(secure.port) as raw:
            raw.send(noise)
            raw.read_to_end()
        other.expect_silence()


def test_failed_handshakes_are_counted_as_refused(
    secure: Served, tls: ssl.SSLContext, tmp_path: Path
) -> None:
    """Requests without TLS, noise, and clients that do not trust the certificate."""

    def refused() -> dict[str, int]:
        counts = secure.in_loop(lambda: dict(secure.server.counts.refused))
        return {reason: count for reason, count in counts.items() if count}

    with conversation(url_of(secure), ssl=tls) as client:
        client.expect_silence()
    assert refused() == {}
    for count, data in enumerate((head_of(), b"\0" * 300), start=1):
        with raw_socket(secure.port) as raw:
            raw.send(data)
            raw.read_to_end()
        assert refused() == {"tls": count}
    stranger = Authority(tmp_path).client()
    with pytest.raises(ssl.SSLCertVerificationError), raw_socket(secure.port, tls=stranger):
        pass
    wait_until(lambda: refused() == {"tls": 3}, "the alert")
    with raw_socket(secure.port) as raw, conversation(url_of(secure), ssl=tls) as client:
        raw.send(b"\x16\x03")
        client.call("registry.list")
    wait_until(lambda: not secure.in_loop(lambda: secure.server.connections), "the end")
    assert refused() == {"tls": 3}, "who leaves in the middle was not refused"


def test_unix_sockets_stay_plain(secure: Served, tmp_path: Path) -> None:
    """Nobody else reads what passes through them."""
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as sock:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        secure.run(secure.server.listen_on(listening.dup()))
        sock.settimeout(TIMEOUT_S)
        sock.connect(str(tmp_path / "s"))
        raw = RawSocket(sock)
        raw.upgrade()
        raw.send(text_frame(INFO))
        assert read_json(raw, 3)[0]["id"] == 1


@pytest.mark.parametrize("stage", ["nothing", "a part of a handshake", "TLS and no request"])
def test_time_limit_is_one_for_both_handshakes(
    secure: Served, tls: ssl.SSLContext, stage: str
) -> None:
    """Who does not get to the end of the HTTP request is cut off, however far it got."""
    context = tls if stage == "TLS and no request" else None
    with raw_socket(secure.port, tls=context) as raw:
        if stage == "a part of a handshake":
            raw.send(b"\x16\x03\x01\x02\x00\x01")
        wait_until(lambda: secure.in_loop(lambda: secure.server.connections), "the connection")
        secure.let_pass(secure.server.handshake_timeout_s)
        assert raw.read_to_end() == b""
    wait_until(lambda: not secure.in_loop(lambda: secure.server.connections), "no connection")


class Exchange:
    """Sends and receives on one TLS socket in one thread, for OpenSSL's objects are for one.

    Args:
        raw: The connection.
        pieces: What to send.
    """

    def __init__(self, raw: RawSocket, pieces: list[bytes]) -> None:
        self._raw = raw
        self._pieces = pieces
        self._number = 0
        raw.socket.setblocking(False)

    @property
    def is_all_sent(self) -> bool:
        """Whether the server has taken everything."""
        return self._number == len(self._pieces)

    def send(self) -> None:
        """Send as much as the server takes now."""
        with contextlib.suppress(ssl.SSLWantWriteError):
            while not self.is_all_sent:
                piece = self._pieces[self._number]
                assert self._raw.socket.send(piece) == len(piece)
                self._number += 1

    def receive(self, text: bytes, count: int) -> bytes:
        """Go on until *text* has come *count* times, and return all that came."""
        received = bytearray(self._raw.unread)
        found, seen = 0, 0
        while found < count:
            self.send()
            try:
                data = self._raw.socket.recv(65536)
                assert data, "the server closed"
                received += data
            except ssl.SSLWantReadError:
                writing = [] if self.is_all_sent else [self._raw.socket]
                select.select([self._raw.socket], writing, [], TIMEOUT_S)
            found += received.count(text, seen)
            seen = max(seen, received.rfind(text) + len(text), len(received) - len(text) + 1)
        return bytes(received)


def test_client_that_does_not_read_is_not_read_from(secure: Served, tls: ssl.SSLContext) -> None:
    """What waits is bounded and seen, as it is without TLS; read in the end, all is there."""
    count = 20_000
    with (
        raw_websocket(secure.port, tls=tls, receive_buffer=4096) as raw,
        conversation(url_of(secure), ssl=tls) as other,
    ):
        name = "{}:{}".format(*raw.socket.getsockname())
        connection = next(it for it in secure.server.connections if it.peer == name)
        exchange = Exchange(raw, [text_frame(INFO) * 20] * (count // 20))

        def is_paused() -> bool:
            exchange.send()
            return connection._is_write_paused

        wait_until(is_paused, "the server to stop reading")
        for _ in range(20):
            other.expect_silence()
            assert connection.buffered_bytes <= HIGH_WATER + UNSENT_MAX_BYTES + 2 * READ_BYTES
            assert sum(map(len, connection._inbox)) <= READ_BYTES
        exchange.receive(b'"type":"done"', count)


def test_client_that_reads_nothing_is_cut_off(
    secure: Served, tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if all that it asked for is one long answer."""
    secure.in_loop(lambda: setattr(secure.server, "slow_reader_timeout_s", 0.2))
    with conversation(url_of(secure), ssl=tls) as other:
        for number in range(100):
            params = {"name": f"n{number}", "host": "h", "port": 1, "metadata": "x" * 16_000}
            other.call("registry.register", params)
        with raw_websocket(secure.port, tls=tls, receive_buffer=4096) as raw:
            ask = {"jsonrpc": "2.0", "id": 1, "method": "registry.list"}
            raw.send(text_frame([ask] * 20))
            wait_until(
                lambda: len(secure.in_loop(lambda: list(secure.server.connections))) == 1, "the cut"
            )
        other.expect_silence()
    assert "client does not read, connection cut" in caplog.text


def test_refused_message_is_told_though_more_of_it_comes(
    settings: Settings, authority: Authority, tls: ssl.SSLContext
) -> None:
    """The close frame reaches a client that is still sending."""
    limited = dataclasses.replace(settings, max_message_size=1024)
    with (
        serving(authority.issue().secure(limited)) as served,
        raw_websocket(served.port, tls=tls) as raw,
    ):
        raw.send(frame(Opcode.TEXT, b"x" * 500_000))
        raw.send(frame(Opcode.TEXT, b"x" * 500_000))
        assert raw.read_frame().close_code == CloseCode.MESSAGE_TOO_BIG
        raw.send(close_frame())
        assert raw.read_to_end() == b""


def test_end_of_the_clients_direction_ends_the_connection(
    secure: Served, tls: ssl.SSLContext
) -> None:
    """With the alert of TLS or without it; what was asked before is carried out."""
    for is_polite in (True, False):
        with raw_websocket(secure.port, tls=tls) as raw:
            raw.send(text_frame(INFO))
            read_json(raw, 3)
            if is_polite:
                with contextlib.suppress(ssl.SSLError, OSError):
                    raw.socket.unwrap()  # type: ignore[attr-defined]
            else:
                raw.socket.shutdown(socket.SHUT_WR)
            wait_until(lambda: not secure.in_loop(lambda: secure.server.connections), "the end")


def test_stop_says_good_bye_over_tls(
    settings: Settings, authority: Authority, tls: ssl.SSLContext
) -> None:
    """Who is connected gets 1001; who is in the middle of a handshake does not hold the stop up."""
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(serving(authority.issue().secure(settings)))
        raw = stack.enter_context(raw_websocket(served.port, tls=tls))
        half = stack.enter_context(raw_socket(served.port))
        half.send(b"\x16\x03\x01")
        wait_until(lambda: len(served.server.connections) == 2, "both")
        stopping = threading.Thread(target=lambda: served.run(served.server.stop()))
        stopping.start()
        assert raw.read_frame().close_code == CloseCode.GOING_AWAY
        raw.send(close_frame())
        assert raw.read_to_end() == b""
        raw.socket.close()
        assert half.read_to_end() == b""
        stopping.join(TIMEOUT_S)
        assert not stopping.is_alive()


def test_answers_to_many_small_frames_come_in_order(secure: Served, tls: ssl.SSLContext) -> None:
    """However the records are cut, and however often reading pauses meanwhile."""
    count = 3000
    with raw_websocket(secure.port, tls=tls) as raw:
        requests = b"".join(text_frame({**INFO, "id": number}) for number in range(count))
        exchange = Exchange(raw, [requests[at : at + 777] for at in range(0, len(requests), 777)])
        received = exchange.receive(b'"type":"done"', count)
    ids = [int(id) for id in re.findall(rb'"id":(\d+),"result"', received)]
    assert ids == list(range(count))


# --- what TLS does by itself ----------------------------------------------------------------------


def test_client_may_change_its_keys(secure: Served) -> None:
    """Now and then, whether it asks the server to do the same or not."""
    with updating_client(secure.port) as client:
        for number in range(20):
            client.socket.sendall(client.updates(1, kind=number % 2))
            client.ping(b"%d" % number)


@pytest.mark.parametrize("kind", [SSL_KEY_UPDATE_REQUESTED, SSL_KEY_UPDATE_NOT_REQUESTED])
def test_updates_of_keys_without_end_are_cut(
    secure: Served, tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture, kind: int
) -> None:
    """Whether they want an answer or not; what waits does not grow, and others are served."""
    with conversation(url_of(secure), ssl=tls) as other, updating_client(secure.port) as client:
        client.send_until_cut(lambda: client.updates(500, kind))
        other.expect_silence()
        wait_until(lambda: len(secure.server.connections) == 1, "the cut")
    [line] = [it.message for it in caplog.records if "records without content" in it.message]
    assert "peer=127.0.0.1:" in line


def test_updates_of_keys_between_frames_are_cut(secure: Served) -> None:
    """A little content among them buys nothing."""

    with updating_client(secure.port) as client:

        def some() -> bytes:
            client.send(frame(Opcode.PONG))
            return client.updates(10)

        client.send_until_cut(some)


def test_bytes_of_tls_count_as_sent(secure: Served) -> None:
    """So a client that reads is seen to read, whatever share of it is TLS."""
    with updating_client(secure.port) as client:
        connection = only_connection(secure)
        client.socket.sendall(client.updates(10))
        client.ping(b"x")
        outflow = connection._outflow
        overhead = secure.in_loop(lambda: connection.transport.get_extra_info(OVERHEAD))
        wait_until(lambda: secure.in_loop(lambda: outflow.unread_bytes) == 0, "the kernel to tell")
        assert outflow._written + overhead == client.received_bytes
        assert secure.in_loop(outflow.has_moved)
        assert not secure.in_loop(outflow.has_moved)


def test_small_records_take_turns(secure: Served, tls: ssl.SSLContext) -> None:
    """Many records that come together are all answered, in order."""
    count = 500
    with raw_websocket(secure.port, tls=tls) as raw:
        pieces = [text_frame({**INFO, "id": number}) for number in range(count)]
        received = Exchange(raw, pieces).receive(b'"type":"done"', count)
    ids = [int(id) for id in re.findall(rb'"id":(\d+),"result"', received)]
    assert ids == list(range(count))
