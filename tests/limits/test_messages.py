# SPDX-License-Identifier: AGPL-3.0-only
"""Attackers that are connected: what they send, leave unread, enter, and bring into the log."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import threading
import time
from typing import Any

import pytest
from websockets.frames import CloseCode, Opcode

from support.attacks import ATTACKER, MAX_ENTRIES, MAX_MESSAGE, Arena
from support.conversation import HUB, TERMINAL, Conversation, conversation
from support.rawsocket import RawSocket, frame, head_of, raw_socket, raw_websocket, text_frame
from support.timing import TIMEOUT_S, wait_until

METADATA = "x" * 16_000
BATCH = 500


@contextlib.contextmanager
def attacker(arena: Arena) -> Any:
    """Connect as the attacker, to talk in good order."""
    with conversation(f"ws://127.0.0.1:{arena.port}", source_address=(ATTACKER, 0)) as client:
        yield client


def request(method: str, params: object = None, id: object = 1) -> dict[str, Any]:
    """Return a request."""
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def register(client: Conversation, name: str, **fields: Any) -> dict[str, Any]:
    """Register a backend and return the event."""
    event: dict[str, Any] = client.call(
        "registry.register", {"name": name, "host": "h", "port": 1, **fields}
    ).content
    return event


def listings(arena: Arena) -> int:
    """Return how many listings the registry has read so far, whoever got them."""
    connection = http.client.HTTPConnection("127.0.0.1", arena.port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    series = r'^plexus_registry_requests_total{method="list",outcome="ok"} (.*)$'
    (count,) = re.findall(series, text, re.MULTILINE)
    return int(float(count))


def clear(client: Conversation) -> None:
    """Delete all that was entered."""
    for entry in client.call("registry.list", {"active_only": False}).content["backends"]:
        if entry["name"] != "bystander":
            client.call("registry.delete", {"name": entry["name"]})


def test_large_messages(arena: Arena) -> None:
    """One byte too many ends the connection, in one frame or in fragments."""
    large = b"x" * (MAX_MESSAGE + 1)
    fragments = frame(Opcode.TEXT, large[:-1], fin=False) + frame(Opcode.CONT, b"x")
    with arena.attack("large messages", "max_message_size") as got:
        for number in got.rounds():
            data = fragments if number % 2 else text_frame(large)
            with raw_websocket(arena.port, source=ATTACKER) as raw:
                raw.send(data)
                assert raw.read_frame().close_code == CloseCode.MESSAGE_TOO_BIG
        got.append(f"{got.count} of {got.count} connections closed with 1009")


def nested(depth: int) -> list[str]:
    """Return messages that are nested so deep, in each place where nesting can be."""
    lists, objects = "[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth
    metadata = '{"name":"n","host":"h","port":1,"metadata":%s}'
    routed = '{"method":"registry.register","params":%s}'
    start = '{"jsonrpc":"2.0","id":1,"method":"%s","params":%s}'
    return [
        lists,
        objects,
        "[" * depth,
        '{"a":' * depth,
        "[]" * depth + '"' * depth,
        f"[{objects}]",
        start % ("registry.get", lists),
        start % ("registry.get", objects),
        start % ("registry.register", metadata % lists),
        start % (f"{HUB}.call", routed % (metadata % objects)),
    ]


@pytest.mark.parametrize("depth", [1000, 20_000])
def test_nesting(arena: Arena, depth: int) -> None:
    """However deep, the answer is an error like any other, and the connection goes on."""
    with arena.attack(f"nesting {depth} deep", "max_nesting") as got:
        with attacker(arena) as client:
            for _ in got.rounds():
                for message in nested(depth):
                    client.send(message)
                    if message.startswith("["):  # a batch, of no requests
                        response = client.receive()
                        assert "error" in (response[0] if isinstance(response, list) else response)
                        continue
                    answer = client.answer()
                    assert "error" in answer.response or answer.items[-1]["type"] in TERMINAL
                client.expect_silence()
            clear(client)
        got.append(f"{got.count * len(nested(depth))} answers, connection kept")


def test_requests_whose_answers_nobody_reads(arena: Arena) -> None:
    """The attacker is not read from any more when its answers pile up."""
    ask = text_frame(request("registry.list"))
    flood = ask * (32 * 1024 * 1024 // len(ask))
    with (
        arena.attack("requests without reading", "back-pressure") as got,
        raw_websocket(arena.port, source=ATTACKER, receive_buffer=4096) as raw,
    ):
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        raw.socket.settimeout(0.2)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < len(flood):
                sent += raw.socket.send(flood[sent : sent + 65536])
        assert sent < len(flood) / 2
        got.append(f"{sent >> 10} KiB of {len(flood) >> 20} MiB taken, then nothing")
        raw.reset()


def test_requests_without_pause(arena: Arena) -> None:
    """Reads, writes and batches, pipelined: all are answered, and nobody waits for that."""
    count = 1500
    one = [
        request("registry.get", {"name": "bystander"}),
        request("registry.register", {"name": "busy", "host": "h", "port": 1}),
    ]
    batch = [request("_info", id=number) for number in range(500)]
    data = b"".join(map(text_frame, one * count)) + text_frame(batch) * 4
    with (
        arena.attack("pipelined requests", "a share of each turn") as got,
        raw_websocket(arena.port, source=ATTACKER) as raw,
    ):
        sending = threading.Thread(target=raw.send, args=(data,))
        sending.start()
        done = 0
        while done < 2 * count + 4 * len(batch):
            done += b'"type":"done"' in raw.read_frame().data
        sending.join()
        got.append(f"{done} of {done} answers")
    with attacker(arena) as client:
        clear(client)


def test_readers_that_do_not_read(arena: Arena) -> None:
    """When too much waits for all of them, the worst are cut, and who reads is served."""
    with attacker(arena) as client:
        for number in range(60):
            assert register(client, f"n{number}", metadata=METADATA)["type"] != "error"
    ask = text_frame([request("registry.list", id=number) for number in range(20)])
    with arena.attack("unread answers", "max_buffered_output") as got:
        with contextlib.ExitStack() as stack:
            idle = [
                stack.enter_context(raw_websocket(arena.port, source=ATTACKER, receive_buffer=4096))
                for _ in range(18)
            ]
            for raw in idle:
                raw.send(ask)
            wait_until(lambda: any("too much output" in it for it in arena.daemon.log), "a cut")
            with conversation(f"ws://127.0.0.1:{arena.port}") as reader:
                for _ in range(3):
                    assert len(reader.call("registry.list").content["backends"]) == 61
            cut = count_cut(idle)
            assert 0 < cut <= len(idle)
            got.append(f"{cut} of {len(idle)} connections cut off")
        with attacker(arena) as client:
            clear(client)


def test_large_listings(arena: Arena) -> None:
    """What is too much for one answer is an event that says how to ask for less, time and again."""
    names = [f"n{number}" for number in range(70)]
    error_size = 0
    with attacker(arena) as client:
        for name in names:
            assert register(client, name, metadata=METADATA)["type"] != "error"
        with arena.attack("large listings", "max_answer_size") as got:
            for _ in got.rounds():
                event = client.call("registry.list").content
                assert event["type"] == "error"
                assert "(max_answer_size), ask for fewer at a time" in event["message"]
                error_size = len(json.dumps(event))
            page = client.call("registry.list", {"limit": 9}).content["backends"]
            assert len(page) == 9
            got.append(f"{got.count} times an error of {error_size} bytes")
        for name in names:
            client.call("registry.delete", {"name": name})


def count_cut(sockets: list[RawSocket]) -> int:
    """Count connections that the server has reset, without reading from them."""
    cut = 0
    for is_first in (True, False):
        for raw in sockets:
            try:
                raw.socket.send(frame(Opcode.PING))
            except OSError:
                cut += 1
        if is_first:
            cut = 0
            time.sleep(0.1)  # a reset that this brings is there in no time
    return cut


def test_listings_for_clients_that_leave(arena: Arena) -> None:
    """Nothing is read for whoever is gone: hundreds of listings cost others no more than a few."""
    names = [f"n{number}" for number in range(60)]
    batch = [request("registry.list", {}, id) for id in range(BATCH)]
    with attacker(arena) as client:
        for name in names:
            assert register(client, name, metadata=METADATA)["type"] != "error"
        with arena.attack("listings for clients that leave", "none") as got:
            before = listings(arena)
            for _ in got.rounds():
                with raw_websocket(arena.port, source=ATTACKER) as raw:
                    raw.send(text_frame(json.dumps(batch).encode()))
                    raw.reset()
            read = listings(arena) - before
            assert read < 15 * got.count  # three times that, if only the limit on output ended it
            got.append(f"{read} listings of 1 MB, of {got.count} times {BATCH} that were asked for")
        for name in names:
            client.call("registry.delete", {"name": name})


def test_entries_without_end(arena: Arena) -> None:
    """At the limit an event names it; what is there can still be changed."""
    with arena.attack("entries", "max_entries") as got, attacker(arena) as client:
        events = [register(client, f"e{number}") for number in range(2 * MAX_ENTRIES)]
        refused = [event["message"] for event in events if event["type"] == "error"]
        assert len(events) - len(refused) == MAX_ENTRIES - 1
        assert set(refused) == {
            f"Failed to register backend: that makes {MAX_ENTRIES + 1} entries, and max_entries"
            f" allows {MAX_ENTRIES}; delete some or raise it"
        }
        assert register(client, "e0")["type"] == "backend_registered"
        client.call("registry.delete", {"name": "e0"})
        assert register(client, "instead")["type"] == "backend_registered"
        got.append(f"{len(events) - len(refused)} entries, {len(refused)} refusals")
        clear(client)


def test_declared_entries_beyond_the_limit(arena: Arena) -> None:
    """A reload that would go beyond it fails whole, with the limit in its fault."""
    config = arena.home / "backends.toml"
    table = "[[backend]]\nname = 'd{0}'\nhost = 'h'\nport = 1\n"
    with arena.attack("declared entries", "max_entries") as got, attacker(arena) as client:
        config.write_text("".join(map(table.format, range(MAX_ENTRIES))))
        event = client.call("registry.reload").content
        assert event["type"] == "error"
        assert f"that makes {MAX_ENTRIES + 1} entries, and max_entries allows" in event["message"]
        assert len(client.call("registry.list").content["backends"]) == 1
        config.write_text("".join(map(table.format, range(MAX_ENTRIES - 1))))
        wait_until(
            lambda: len(client.call("registry.list").content["backends"]) == MAX_ENTRIES, "them"
        )
        config.write_text("")
        wait_until(lambda: len(client.call("registry.list").content["backends"]) == 1, "the end")
        got.append("0 of 80 entries, the reload failed")


def test_large_texts(arena: Arena) -> None:
    """Each field has its bound; the answer is short, whatever was sent."""
    text = "\x1b\u202e\0" + "x" * 60_000
    fields = ("name", "host", "protocol", "description", "namespace", "version", "metadata")
    with arena.attack("large and hostile texts", "size of fields") as got:
        with attacker(arena) as client:
            for field in fields:
                params = {"name": "t", "host": "h", "port": 1, field: text}
                event = client.call("registry.register", params).content
                assert len(json.dumps(event)) < 1500
                assert (event["type"] == "error") == (field not in ("version", "metadata"))
                for method in ("get", "delete", "ping", "update", "deregister"):
                    answer = client.call(f"registry.{method}", {"name": text})
                    # A ping of an unknown name repeats it, as the wire protocol has it.
                    allowed = 3000 + (len(text) if method == "ping" else 0)
                    assert len(json.dumps(answer.items)) < allowed
            client.request(text)
            clear(client)
        got.append(f"{len(fields)} fields refused or left out")


def test_lines_in_the_log(arena: Arena) -> None:
    """Whatever is tried hundreds of times, the log tells it a few times, in lines of its own."""
    forged = 'http://x" peer=nobody ' + "y" * 3000
    with arena.attack("log flooding", "each kind of line once a minute") as got:
        for number in got.rounds():
            source = f"127.0.4.{number % 250}"
            with raw_socket(arena.port, source=source) as raw:
                raw.send(head_of(headers={"Origin": forged}))
                assert raw.read_response().status == 403
            with raw_websocket(arena.port, source=source) as raw:
                raw.send(b"\x81\xff" + b"\x7f" + b"\xff" * 7 + b"\0" * 4)
                raw.read_frame()
        lines = len(got.new_warnings())
        assert lines <= 2
        got.append(f"{lines} lines for {2 * got.count} attempts")


def test_lines_of_reloads_in_the_log(arena: Arena) -> None:
    """A reload that fails is told each time, but not more than ten times a minute."""
    config = arena.home / "backends.toml"
    with arena.attack("log flooding by reloads", "each failure ten times a minute") as got:
        with attacker(arena) as client:
            config.write_text("[[backend]]\nname = 'a/b'\n")
            for _ in got.rounds():
                assert client.call("registry.reload").content["type"] == "error"
            config.write_text("")
            assert client.call("registry.reload").content["type"] == "reloaded"
        lines = len(got.new_warnings())
        got.append(f"{lines} lines for {got.count} reloads")
