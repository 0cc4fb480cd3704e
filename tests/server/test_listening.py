# SPDX-License-Identifier: AGPL-3.0-only
"""Listening and stopping: addresses, errors that say what to do, an end that loses nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
from typing import Any

import pytest

from plexus_registry.config.settings import Settings
from plexus_registry.errors import ListenError
from plexus_registry.server.addresses import label_of
from support.conversation import conversation
from support.rawsocket import RawSocket, close_frame, head_of, raw_socket, raw_websocket, text_frame
from support.serving import Served, serving
from support.timing import TIMEOUT_S, wait_until


def register(id: int, name: str) -> dict[str, Any]:
    """Return a request that has to wait for the disk."""
    params = {"name": name, "host": "h", "port": 1}
    return {"jsonrpc": "2.0", "id": id, "method": "registry.register", "params": params}


def connections(served: Served) -> int:
    """Count the open connections."""
    return served.in_loop(lambda: len(served.server.connections))


# --- addresses ------------------------------------------------------------------------------------


def test_ipv6(settings: Settings) -> None:
    """The registry can listen on IPv6; its address is shown with brackets."""
    with serving(dataclasses.replace(settings, host="::1")) as served:
        assert served.url.startswith("ws://[::1]:")
        with conversation(served.url) as client:
            client.expect_silence()
        with raw_websocket(served.port, host="::1") as raw:
            assert connections(served) >= 1
            raw.send(text_frame({"jsonrpc": "2.0", "id": 1, "method": "nope"}))
            assert raw.read_frame().json["id"] == 1


def test_host_name(settings: Settings) -> None:
    """A host can be given by name."""
    with serving(dataclasses.replace(settings, host="localhost")) as served:
        assert served.in_loop(lambda: served.server.addresses)
        with conversation(served.url) as client:
            client.expect_silence()


@pytest.mark.parametrize(
    ("host", "hint"),
    [
        ("192.0.2.1", "no address of this machine"),
        ("no-such-host.invalid", "the name has no address"),
        ("2001:db8::1", "no address of this machine"),
    ],
)
def test_address_that_is_not_ours(settings: Settings, host: str, hint: str) -> None:
    """An address of another machine cannot be listened on; the message says so."""
    with pytest.raises(ListenError, match=hint), serving(dataclasses.replace(settings, host=host)):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_taken_port(settings: Settings, host: str) -> None:
    """A port that is taken cannot be listened on; the message names it and what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as taken:
        port = taken.getsockname()[1]
        wanted = dataclasses.replace(settings, host=host, port=port)
        with pytest.raises(ListenError) as refused, serving(wanted):
            pass
    assert label_of((host, port)) in str(refused.value)
    assert "--port" in str(refused.value)


def test_port_is_free_again_after_a_stop(settings: Settings) -> None:
    """The registry can be started again on its port at once, with clients just gone."""
    with serving(settings) as served:
        port = served.port
        with conversation(served.url) as client:
            client.expect_silence()
    with serving(dataclasses.replace(settings, port=port)) as served:
        assert served.port == port


@pytest.mark.parametrize(
    ("address", "label"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        (("localhost", 80), "localhost:80"),
        ("/run/plexus/registry.sock", "unix:/run/plexus/registry.sock"),
    ],
)
def test_labels_of_addresses(address: object, label: str) -> None:
    """An address is shown with its port, with brackets around IPv6, or as a path."""
    assert label_of(address) == label


# --- stopping -------------------------------------------------------------------------------------


def begin_stop(served: Served) -> Any:
    """Ask the service to stop; return the future of its end."""
    return asyncio.run_coroutine_threadsafe(served.service.stop(), served.loop)


def read_close(raw: RawSocket) -> int:
    """Read the close frame, answer it, check that the server ends its side, and end ours."""
    code = raw.read_frame().close_code
    raw.send(close_frame(code))
    assert raw.read_to_end() == b""
    raw.socket.close()
    return code


def test_stop_closes_with_1001(settings: Settings) -> None:
    """Idle clients are told that the registry goes away, and so are those half way in."""
    with (
        serving(settings) as served,
        raw_websocket(served.port) as idle,
        raw_socket(served.port) as half_way,
    ):
        head = head_of()
        half_way.send(head[:40])
        wait_until(lambda: connections(served) == 2, "both connections")
        stopping = begin_stop(served)
        assert read_close(idle) == 1001
        half_way.send(head[40:])
        assert half_way.read_response().status == 101
        assert read_close(half_way) == 1001
        stopping.result(TIMEOUT_S)


def test_stop_does_not_wait_for_a_silent_handshake(settings: Settings) -> None:
    """A client that does not come to the end of its handshake is dropped soon."""
    with serving(settings) as served, raw_socket(served.port) as raw:
        raw.send(b"GET / HTTP/1.1\r\n")
        wait_until(lambda: connections(served) == 1, "the connection")
        begin_stop(served).result(TIMEOUT_S)
        assert raw.read_to_end() == b""


def test_stop_answers_what_waits_for_the_disk(settings: Settings) -> None:
    """Writes and batches that were received are committed and answered before the 1001."""
    release = threading.Event()
    with serving(settings) as served, raw_websocket(served.port) as raw:
        registry = served.service.registry
        served.in_loop(lambda: registry._offload_commit(release.wait, lambda outcome: None))
        batch = [register(2, "b"), {"jsonrpc": "2.0", "id": 3, "method": "registry.list"}]
        raw.send(text_frame(register(1, "a")) + text_frame(batch))
        [connection] = served.in_loop(lambda: list(served.server.connections))
        session = connection._session
        assert session is not None
        wait_until(lambda: session.pending == 2, "the writes")
        stopping = begin_stop(served)
        try:
            wait_until(lambda: connection._is_stopping, "the stop")
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", served.port), TIMEOUT_S)
        finally:
            release.set()
        messages = [raw.read_frame().json for _ in range(8)]
        assert [it["id"] for it in messages[0]] == [2, 3]
        kinds = [
            message["params"]["result"].get("content", {}).get("type", "done")
            for message in messages[1:]
            if "params" in message
        ]
        assert sorted(kinds) == sorted(["backend_registered", "done"] * 2 + ["backends", "done"])
        assert read_close(raw) == 1001
        stopping.result(TIMEOUT_S)
    with serving(settings) as served, conversation(served.url) as client:
        listed = client.call("registry.list").content["backends"]
        assert [backend["name"] for backend in listed] == ["b", "a"]


def test_stop_does_not_wait_for_ever(settings: Settings) -> None:
    """A client that neither reads nor closes is cut off when the time is over."""
    with serving(settings) as served, raw_websocket(served.port, receive_buffer=4096) as raw:
        [connection] = served.in_loop(lambda: list(served.server.connections))
        raw.socket.setblocking(False)
        requests = text_frame({"jsonrpc": "2.0", "id": 1, "method": "_info"}) * 1000

        def is_stuck() -> bool:
            try:
                raw.socket.send(requests)
            except BlockingIOError:
                return connection._is_write_paused
            return False

        wait_until(is_stuck, "a full buffer")
        served.run(served.server.stop(timeout_s=0.2))
        assert connections(served) == 0


def test_stop_of_a_client_that_is_closing(settings: Settings) -> None:
    """A client that has just said good-bye does not hold up the end."""
    with serving(settings) as served, raw_websocket(served.port) as raw:
        raw.send(close_frame())
        assert raw.read_frame().close_code == 1000
        raw.socket.close()
        begin_stop(served).result(TIMEOUT_S)


def test_client_that_is_closing_when_the_stop_begins_ends_the_connection(
    settings: Settings,
) -> None:
    """The end of its half is noticed during a stop too: nobody waits until it is cut off."""
    with serving(settings) as served, raw_websocket(served.port) as raw:
        served.in_loop(lambda: setattr(served.server, "close_timeout_s", 3600.0))
        raw.send(close_frame())
        assert raw.read_frame().close_code == 1000
        [connection] = served.in_loop(lambda: list(served.server.connections))
        stopping = asyncio.run_coroutine_threadsafe(
            served.server.stop(timeout_s=3600.0), served.loop
        )
        wait_until(lambda: connection._is_stopping, "the stop")
        raw.socket.close()
        stopping.result(TIMEOUT_S)
