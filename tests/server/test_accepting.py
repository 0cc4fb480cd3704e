# SPDX-License-Identifier: AGPL-3.0-only
"""Accepting: as many clients as there are descriptors for, and nothing lost when they run out."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import resource
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plexus_registry.config.settings import Settings
from plexus_registry.server.listener import OWN_FILES, REFUSALS_MIN
from plexus_registry.service.service import Service
from support.conversation import conversation
from support.daemon import PROGRAM, daemon
from support.loglines import first_lines
from support.rawsocket import RawSocket, head_of, raw_socket, raw_websocket, text_frame
from support.serving import Served, serving
from support.timing import TIMEOUT_S, wait_until

INFO = {"jsonrpc": "2.0", "id": 1, "method": "_info"}


def limited(open_files: int) -> tuple[str, ...]:
    """Return the program, allowed that many open files and no more."""
    return (
        sys.executable,
        "-c",
        "import os, resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({open_files}, {open_files}))\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n",
        *PROGRAM,
    )


def upgraded(raw: RawSocket) -> int:
    """Ask for a WebSocket and return the status; 0 if the connection was cut instead."""
    try:
        raw.send(head_of())
        return raw.read_response().status
    except (AssertionError, ConnectionResetError, BrokenPipeError):
        return 0


def test_clients_cannot_use_up_the_descriptors(tmp_path: Path) -> None:
    """Above what the limit of open files allows clients are refused, and nothing else suffers."""
    allowed = 16
    program = limited(allowed + OWN_FILES + REFUSALS_MIN)
    with daemon(tmp_path, program=program) as running, contextlib.ExitStack() as open_sockets:
        port = int(running.url.rpartition(":")[2])
        clients = [open_sockets.enter_context(raw_socket(port)) for _ in range(allowed)]
        assert [upgraded(raw) for raw in clients] == [101] * allowed
        refused = [open_sockets.enter_context(raw_socket(port)) for _ in range(200)]
        statuses = [upgraded(raw) for raw in refused]
        assert statuses[0] == 429
        assert set(statuses) <= {429, 0}
        clients[0].send(text_frame({"jsonrpc": "2.0", "id": 1, "method": "registry.reload"}))
        reloaded = [clients[0].read_frame().json for _ in range(3)][1]
        assert reloaded["params"]["result"]["content"]["type"] == "reloaded"
        for raw in (*refused, clients.pop()):
            raw.reset()
        wait_until(lambda: can_come(port), "a free place")
        open_sockets.close()
        assert running.stop() == 0
    asked = sum("max_connections lowered from 10000 to 16" in line for line in running.log)
    assert asked == 1
    warnings = [line for line in running.log if "WARNING" in line]
    sums = [line for line in warnings if "as before, and not logged each time" in line]
    assert len(warnings) - len(sums) <= 3, running.log
    assert len(sums) <= 2, running.log
    assert not [line for line in running.log if "ERROR" in line or "Traceback" in line]


def can_come(port: int) -> bool:
    """Tell whether a client is let in."""
    with raw_socket(port) as raw:
        return upgraded(raw) == 101


def test_few_descriptors_leave_room_for_one_client(tmp_path: Path) -> None:
    """However low the limit of open files, one client is served."""
    with daemon(tmp_path, program=limited(40)) as running:
        with conversation(running.url) as client:
            client.expect_silence()
        assert running.stop() == 0


def test_clients_far_above_the_limit_are_cut_off(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """There is room to tell some that there are too many; more are closed without a word."""
    with serving(dataclasses.replace(settings, max_connections=1)) as served:
        served.in_loop(lambda: setattr(served.server, "close_timeout_s", 3600.0))
        served.in_loop(lambda: setattr(served.server, "_accepted_max", 3))
        with raw_websocket(served.port) as first, contextlib.ExitStack() as open_sockets:
            told = [open_sockets.enter_context(raw_socket(served.port)) for _ in range(2)]
            assert [upgraded(raw) for raw in told] == [429, 429]
            for _ in range(5):
                with raw_socket(served.port) as raw:
                    assert raw.read_to_end() == b""
            assert served.in_loop(lambda: len(served.server.connections)) == 3
            first.send(text_frame(INFO))
            assert first.read_frame().json["id"] == 1
    [record] = [it for it in first_lines(caplog) if "far too many" in it.message]
    assert "max_connections=1 peer=127.0.0.1:" in record.message


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Let no file be opened in this process while the block runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_descriptors_that_others_use_up(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """A client that cannot be accepted is accepted later; one line tells of it."""
    with socket.socket() as sock, raw_websocket(served.port) as other:
        with no_descriptor_left():
            sock.settimeout(TIMEOUT_S)
            sock.connect(("127.0.0.1", served.port))
            wait_until(lambda: "cannot be accepted" in caplog.text, "the line")
            other.send(text_frame(INFO))
            assert next(other.read_frame().json for _ in range(3))["id"] == 1
        late = RawSocket(sock)
        late.upgrade()
        late.send(text_frame(INFO))
        assert late.read_frame().json["id"] == 1
    [record] = [it for it in first_lines(caplog) if "cannot be accepted" in it.message]
    assert "Too many open files" in record.message


def test_stop_while_accepting_pauses(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """A server whose descriptors ran out can be stopped."""
    with socket.socket() as sock, no_descriptor_left():
        sock.settimeout(TIMEOUT_S)
        sock.connect(("127.0.0.1", served.port))
        wait_until(lambda: "cannot be accepted" in caplog.text, "the line")
        served.run(served.server.stop())


@pytest.mark.parametrize("turns", range(8))
def test_stop_right_after_a_client_came(settings: Settings, turns: int) -> None:
    """Who was accepted in the turn of a stop is told of it; the others are not let in."""

    async def run(client: RawSocket) -> None:
        async with Service(settings) as service:
            server = service._server
            assert server is not None
            server.close_timeout_s = 0.1  # nobody answers its close frame
            client.socket.connect(("127.0.0.1", int(service.addresses[0].rpartition(":")[2])))
            client.send(head_of())
            for _ in range(turns):
                await asyncio.sleep(0)
            await server.stop(timeout_s=3600.0)
            assert not server.connections
            assert not server._arriving

    with socket.socket() as sock:
        sock.settimeout(TIMEOUT_S)
        client = RawSocket(sock)
        asyncio.run(run(client))
        received = client.read_to_end()
        client.unread += received
        if received:
            assert client.read_response().status == 101
            assert client.read_frame().close_code == 1001
