# SPDX-License-Identifier: AGPL-3.0-only
"""A client's conversation: answers, refusals in the registry's words, and nobody there."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.frames import Opcode
from websockets.sync.server import ServerConnection, serve
from websockets.utils import accept_key

from plexus_registry.client.connection import Connection
from plexus_registry.config.settings import Settings
from plexus_registry.errors import InvalidValue, Refused, Unreachable
from support.certificates import Authority
from support.clocks import Clock
from support.serving import Served, serving
from support.timing import TIMEOUT_S

SHORT_S = 0.2
"""What is waited for in vain."""


def talk(
    url: str,
    *calls: tuple[str, object],
    timeout_s: float = TIMEOUT_S,
    clock: Clock | None = None,
) -> list[Any]:
    """Connect, call methods through the hub, and return their events; *clock* is the loop's."""

    async def run() -> list[Any]:
        if clock is not None:
            clock.adopt()
        async with Connection(url, timeout_s=timeout_s) as registry:
            return [await registry.call(method, params) for method, params in calls]

    return asyncio.run(run())


def unreachable(url: str, timeout_s: float = TIMEOUT_S, clock: Clock | None = None) -> str:
    """Connect and call in vain; return the reason."""
    with pytest.raises(Unreachable) as failed:
        talk(url, ("registry.list", None), timeout_s=timeout_s, clock=clock)
    prefix = f"no registry answers at {url}: "
    message = str(failed.value)
    assert message.startswith(prefix)
    return message.removeprefix(prefix)


@pytest.fixture
def unix_url(served: Served) -> Iterator[str]:
    """The running registry on a Unix socket."""
    with (
        tempfile.TemporaryDirectory(prefix="plexus-") as folder,
        socket.socket(socket.AF_UNIX) as sock,
    ):
        sock.bind(f"{folder}/s")
        sock.listen()
        served.run(served.server.listen_on(sock.dup()))
        yield f"unix:{folder}/s"


@pytest.fixture(params=["tcp", "unix"])
def url(request: pytest.FixtureRequest, served: Served, unix_url: str) -> str:
    """The running registry, on each kind of socket."""
    return served.url if request.param == "tcp" else unix_url


# --- answers --------------------------------------------------------------------------------------


def test_calls_are_answered_with_their_events(url: str) -> None:
    """One after another on one connection."""
    registered, listed, got = talk(
        url,
        ("registry.register", {"name": "a", "host": "h", "port": 1}),
        ("registry.list", None),
        ("registry.get", {"name": "nobody"}),
    )

    assert registered["type"] == "backend_registered"
    assert [backend["name"] for backend in listed["backends"]] == ["a"]
    assert got == {"type": "backend", "backend": None}


def test_request_goes_past_the_hub(url: str) -> None:
    """A method of the connection itself, or a direct one."""

    async def run() -> list[Any]:
        async with Connection(url) as registry:
            assert registry.hub == "registry-hub"
            return [
                await registry.request("_info", None),
                await registry.request("registry.list", {"active_only": False}),
            ]

    info, listed = asyncio.run(run())
    assert info["backend"] == "registry-hub"
    assert listed["backends"] == []


def test_hub_is_asked_for_its_name(settings: Settings) -> None:
    """Another namespace needs no option."""
    with serving(dataclasses.replace(settings, hub_namespace="other")) as served:
        (listed,) = talk(served.url, ("registry.list", None))
    assert listed["type"] == "backends"


def test_proxies_of_the_environment_are_left_alone(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry is on this machine or in its network."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "socks_proxy", "ws_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert talk(url, ("registry.list", None))


def test_long_answer_arrives_whole(url: str) -> None:
    """A client has no limit of its own on what a registry says."""
    fields = {"host": "h", "port": 1, "metadata": "x" * 16_000}
    *_, listed = talk(
        url,
        *(("registry.register", {"name": f"n{number}", **fields}) for number in range(70)),
        ("registry.list", None),
    )
    assert len(listed["backends"]) == 70


# --- refusals -------------------------------------------------------------------------------------


def test_failed_operation_is_refused_in_the_registrys_words(url: str) -> None:
    """An event of type error."""
    with pytest.raises(Refused) as refused:
        talk(url, ("registry.update", {"name": "nobody", "port": 1}))
    assert "nobody" in str(refused.value)


def test_call_that_cannot_be_routed_is_refused(url: str) -> None:
    """A stream item of type error."""
    with pytest.raises(Refused, match="nope"):
        talk(url, ("registry.nope", None))


def test_call_that_has_no_json_is_not_sent_and_the_connection_goes_on(url: str) -> None:
    """Others may have calls in it."""

    async def run() -> Any:
        async with Connection(url) as registry:
            for name in ("\ud800", object()):
                with pytest.raises(InvalidValue, match=r"^name: "):
                    await registry.call("registry.get", {"name": name})
            return await registry.call("registry.list")

    assert asyncio.run(run())["backends"] == []


def test_unknown_method_is_refused_and_the_connection_goes_on(url: str) -> None:
    """An error object of JSON-RPC, with its data where it has some."""

    async def run() -> Any:
        async with Connection(url) as registry:
            with pytest.raises(Refused, match="Method not found"):
                await registry.request("nope", None)
            with pytest.raises(Refused, match=r"Invalid params: .*expected u16"):
                await registry.request("registry.register", {"name": "a", "host": "h", "port": "x"})
            return await registry.call("registry.list")

    assert asyncio.run(run())["backends"] == []


# --- nobody there ---------------------------------------------------------------------------------


def test_nobody_listens(tmp_path: Path) -> None:
    """The reason is the system's, without numbers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert unreachable(f"ws://127.0.0.1:{port}") == "Connection refused"
    assert unreachable(f"unix:{tmp_path}/nobody") == "No such file or directory"
    assert unreachable(f"unix:/{'x' * 200}") == "AF_UNIX path too long"


def test_host_that_has_no_address() -> None:
    """The resolver's words, not its number."""
    reason = unreachable("ws://no-such-host.invalid:1")
    assert "rror -" not in reason
    assert "name" in reason.lower()


@contextlib.contextmanager
def tcp_server(behave: Callable[[socket.socket], object]) -> Iterator[int]:
    """Do something with each connection, and close it; give the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listening.accept()[0] as sock:
                        sock.settimeout(TIMEOUT_S)
                        behave(sock)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(TIMEOUT_S)


def test_server_of_something_else() -> None:
    """No HTTP, other HTTP, TLS where none is, or an end without a word."""

    def greet(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(b"220 mail ready\r\n\r\n")

    def refuse(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with tcp_server(greet) as port:
        assert "HTTP" in unreachable(f"ws://127.0.0.1:{port}")
        reason = unreachable(f"wss://127.0.0.1:{port}")
        assert "SSL" in reason
        assert "not permitted" not in reason
    with tcp_server(refuse) as port:
        assert "403" in unreachable(f"ws://127.0.0.1:{port}")
    with tcp_server(lambda sock: sock.recv(4096)) as port:
        assert unreachable(f"ws://127.0.0.1:{port}")


def test_server_that_sends_one_elsewhere_is_not_followed() -> None:
    """Whom to talk to, and to give a token to, is not for it to say; where it points is told."""

    def redirect(sock: socket.socket) -> None:
        sock.recv(4096)
        head = b"HTTP/1.1 301 Moved\r\nLocation: wss://elsewhere.example/\r\n"
        sock.sendall(head + b"Content-Length: 0\r\nConnection: close\r\n\r\n")

    with tcp_server(redirect) as port:
        reason = unreachable(f"ws://127.0.0.1:{port}")
    assert reason == 'it is not there, but at "wss://elsewhere.example/"'


def test_server_that_does_not_accept() -> None:
    """The time is the caller's, also for the handshake."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert unreachable(f"ws://127.0.0.1:{port}", SHORT_S) == "no answer within 0.2 s"


@contextlib.contextmanager
def websocket_server(behave: Callable[[ServerConnection], None]) -> Iterator[str]:
    """Serve WebSockets that are no registry."""
    before = set(threading.enumerate())
    with serve(behave, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            for one in set(threading.enumerate()) - before:  # each connection has some
                one.join(TIMEOUT_S)


def respond_info(websocket: ServerConnection) -> None:
    """Answer the first request as a hub does."""
    id = json.loads(websocket.recv())["id"]
    for frame in (
        {"id": id, "result": 7},
        {"method": "s", "params": {"subscription": 7, "result": data({"backend": "hub"})}},
        {"method": "s", "params": {"subscription": 7, "result": {"type": "done"}}},
    ):
        websocket.send(json.dumps({"jsonrpc": "2.0", **frame}))


def data(content: object) -> dict[str, object]:
    """Return a data item."""
    return {"type": "data", "content": content}


def test_connection_that_ends_in_the_middle() -> None:
    """Before the hub has told its name, or before the answer to a call."""

    def leave(websocket: ServerConnection) -> None:
        websocket.recv()
        websocket.close(1001, "going away")

    def leave_later(websocket: ServerConnection) -> None:
        respond_info(websocket)
        leave(websocket)

    for behave in (leave, leave_later):
        with websocket_server(behave) as url:
            assert "1001" in unreachable(url)


def test_registry_that_does_not_answer() -> None:
    """Neither the first question, nor a call; and the end does not wait for it either."""
    time_s = 3600.0
    clock = Clock()

    def stay_silent(websocket: ServerConnection) -> None:
        websocket.recv()
        clock.put_forward(time_s)
        for _ in websocket:
            pass

    def stay_silent_later(websocket: ServerConnection) -> None:
        respond_info(websocket)
        stay_silent(websocket)

    for behave, method in ((stay_silent, "_info"), (stay_silent_later, "hub.call")):
        with websocket_server(behave) as url:
            reason = unreachable(url, time_s, clock)
            assert reason == f"no answer to {method} within 3600 s"


def upgrade(sock: socket.socket, before: Callable[[], None] = lambda: None) -> None:
    """Make a WebSocket of a connection, and no more; *before* is called once it is asked for."""
    head = sock.recv(4096).decode()
    before()
    lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    sock.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept_key(lines["Sec-WebSocket-Key"]).encode()
    )


def test_time_is_for_opening_and_the_first_answer_together() -> None:
    """Who opens at the last moment has no more time to say who he is."""
    time_s = 50.0
    clock = Clock()

    def open_late(sock: socket.socket) -> None:
        upgrade(sock, lambda: clock.put_forward(0.6 * time_s))
        sock.recv(4096)
        clock.put_forward(0.4 * time_s)
        sock.recv(4096)  # until the other side is gone

    with tcp_server(open_late) as port:
        began = time.monotonic()
        reason = unreachable(f"ws://127.0.0.1:{port}", time_s, clock)
        assert reason == "no answer to _info within 50 s"
        assert time.monotonic() - began < 0.5 * time_s, "it had as much once more"


def test_answer_that_is_too_large_is_not_read() -> None:
    """Before it is known who is there a few KiB are enough; whoever is there fills no memory."""

    def tell_much(websocket: ServerConnection) -> None:
        websocket.recv()
        websocket.send(json.dumps({"id": 1, "result": "x" * 20_000}))

    def answer_much(websocket: ServerConnection) -> None:
        respond_info(websocket)
        websocket.recv()
        websocket.send(json.dumps({"id": 2, "result": "x" * 70_000}))

    async def ask(url: str) -> None:
        async with Connection(url, answer_max_bytes=65_536) as registry:
            await registry.call("registry.list")

    with websocket_server(tell_much) as url:
        assert unreachable(url) == "it answers with more than 16384 bytes at once"
    with websocket_server(answer_much) as url, pytest.raises(Unreachable) as told:
        asyncio.run(ask(url))
    assert told.value.reason == "it answers with more than 65536 bytes at once"


def test_end_does_not_wait_for_a_registry_that_hangs() -> None:
    """Who does not answer in time is told no good-bye, whose answer would be waited for."""
    time_s = 3600.0
    clock = Clock()
    heard = bytearray()

    def upgrade_and_hang(sock: socket.socket) -> None:
        upgrade(sock)
        heard.extend(sock.recv(4096))  # the question who is there
        clock.put_forward(time_s)
        with contextlib.suppress(ConnectionResetError):
            while data := sock.recv(4096):
                heard.extend(data)

    with tcp_server(upgrade_and_hang) as port:
        reason = unreachable(f"ws://127.0.0.1:{port}", time_s, clock)
    assert reason == "no answer to _info within 3600 s"
    opcodes = []
    while heard:  # frames of less than 126 bytes, with a mask of 4
        opcodes.append(heard[0] & 0x0F)
        del heard[: 6 + (heard[1] & 0x7F)]
    assert Opcode.TEXT in opcodes
    assert Opcode.CLOSE not in opcodes


@pytest.mark.parametrize(
    "answer",
    [
        "no JSON",
        "[]",
        "7",
        '{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"}}',
        '{"jsonrpc":"2.0","id":1,"error":7}',
        '{"jsonrpc":"2.0","id":1}',
        '{"jsonrpc":"2.0","id":1,"result":7}|{"method":"s"}',
        '{"jsonrpc":"2.0","id":1,"result":7}|{"params":{"subscription":7,"result":[]}}',
        '{"id":1,"result":7}|{"params":{"subscription":7,"result":{"type":"done"}}}',
        '{"id":1,"result":7}|{"params":{"subscription":7,"result":{"type":"data","content":7}}}'
        '|{"params":{"subscription":7,"result":{"type":"done"}}}',
    ],
)
def test_service_that_is_no_hub(answer: str) -> None:
    """Whatever it says, it is told as what it is not."""

    def behave(websocket: ServerConnection) -> None:
        websocket.recv()
        for frame in answer.split("|"):
            websocket.send(frame)
        for _ in websocket:
            pass

    with websocket_server(behave) as url:
        assert unreachable(url) == "what answers is no Plexus hub"


def test_close_can_be_repeated(served: Served) -> None:
    """Also after the connection is gone."""

    async def run() -> None:
        registry = Connection(served.url)
        await registry.close()
        async with registry:
            await registry.close()
        await registry.close()

    asyncio.run(run())


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The authority of a registry's certificate."""
    return Authority(tmp_path)


@pytest.fixture
def secure_url(settings: Settings, authority: Authority) -> Iterator[str]:
    """A running registry that speaks TLS."""
    with serving(authority.issue().secure(settings)) as served:
        yield served.url.replace("ws:", "wss:")


def test_registry_of_a_trusted_authority_answers(
    secure_url: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authority is named, or the environment names it for every program that asks OpenSSL."""

    async def run() -> Any:
        async with Connection(secure_url, ca_file=authority.file) as registry:
            return await registry.call("registry.list")

    assert asyncio.run(run())["backends"] == []
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    assert talk(secure_url, ("registry.list", None))[0]["backends"] == []


def test_registry_of_another_authority_is_not_talked_to(
    secure_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL's words; a file that holds no authorities is refused before anybody is asked."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    reason = unreachable(secure_url)
    assert reason == "its certificate is not accepted: unable to get local issuer certificate"
    (tmp_path / "none.pem").write_text("")
    for file in ("none.pem", "missing.pem"):
        with pytest.raises(InvalidValue, match=r"ca_file: .* expected a file of certificates"):
            asyncio.run(Connection(secure_url, ca_file=tmp_path / file).open())


def test_plain_client_of_a_registry_that_speaks_tls(secure_url: str) -> None:
    """It is refused and not left waiting, in the registry's words."""
    reason = unreachable(secure_url.replace("wss:", "ws:"))
    assert "400" in reason
    assert reason.endswith(": This port speaks TLS: connect with wss:// in place of ws://.")


def test_client_of_tls_of_a_registry_that_speaks_plainly(served: Served) -> None:
    """It is told at once and not after its time is over."""
    reason = unreachable(served.url.replace("ws:", "wss:"))
    assert reason.startswith("what answers speaks no TLS, use ws:// ([SSL")


def test_client_of_tls_of_a_server_that_waits_for_more() -> None:
    """As the Rust program does: the reason is only a guess then."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        reason = unreachable(f"wss://127.0.0.1:{port}", SHORT_S)
    assert reason == "no answer within 0.2 s; if it speaks no TLS, use ws://"
