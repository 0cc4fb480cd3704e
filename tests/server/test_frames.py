# SPDX-License-Identifier: AGPL-3.0-only
"""Frames: what RFC 6455 asks of a server, seen on the wire."""

from __future__ import annotations

import dataclasses
import logging
import socket
import struct
from typing import Any

import msgspec
import pytest
from websockets.frames import Opcode

from plexus_registry.config.settings import Settings
from plexus_registry.protocol.call import Call
from support.conversation import conversation
from support.loglines import first_lines
from support.rawsocket import (
    RawSocket,
    Received,
    close_frame,
    frame,
    raw_websocket,
    text_frame,
)
from support.serving import Served, serving
from support.timing import wait_until

INFO = b'{"jsonrpc":"2.0","id":1,"method":"_info"}'
REGISTER = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "registry.register",
    "params": {"name": "dev", "host": "h", "port": 1},
}


def read_answer(raw: RawSocket) -> list[Any]:
    """Read a response and the stream of two items that follows it."""
    return [raw.read_frame().json for _ in range(3)]


def close_code_after(served: Served, data: bytes) -> int:
    """Send what is not allowed; return the code of the close frame, after which comes the end."""
    with raw_websocket(served.port) as raw:
        raw.send(data)
        code = raw.read_frame().close_code
        assert raw.read_to_end() == b""
    with conversation(served.url) as client:
        client.expect_silence()
    return code


def has_entry(served: Served) -> bool:
    """Tell whether `REGISTER` was carried out."""
    return served.in_loop(lambda: served.service.registry.catalog.get("dev")) is not None


# --- messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_fragments_are_put_together(served: Served, opcode: Opcode, size: int) -> None:
    """A message in pieces is one message; pings in between are answered at once."""
    with raw_websocket(served.port) as raw:
        pieces = [INFO[start : start + size] for start in range(0, len(INFO), size)]
        for number, piece in enumerate(pieces):
            is_last = number == len(pieces) - 1
            raw.send(frame(opcode if number == 0 else Opcode.CONT, piece, fin=is_last))
            if not is_last:
                raw.send(frame(Opcode.PING, b"%d" % number))
                assert raw.read_frame() == Received(Opcode.PONG, b"%d" % number)
        assert read_answer(raw)[0]["id"] == 1


def test_empty_fragments(served: Served) -> None:
    """Pieces may be empty; a message of nothing but empty ones is an empty message."""
    with raw_websocket(served.port) as raw:
        raw.send(frame(Opcode.TEXT, b"", fin=False))
        raw.send(frame(Opcode.CONT, INFO, fin=False))
        raw.send(frame(Opcode.CONT, b""))
        assert read_answer(raw)[0]["id"] == 1
        raw.send(frame(Opcode.TEXT, b"", fin=False) + frame(Opcode.CONT, b""))
        assert raw.read_frame().json["error"]["code"] == -32700


def test_fragment_ends_inside_a_character(served: Served) -> None:
    """Text is judged as a whole: a piece may end in the middle of a character."""
    message = '{"jsonrpc":"2.0","id":"ä€😀","method":"_info"}'.encode()
    with raw_websocket(served.port) as raw:
        for index in range(len(message)):
            raw.send(
                frame(
                    Opcode.CONT if index else Opcode.TEXT,
                    message[index : index + 1],
                    fin=index == len(message) - 1,
                )
            )
        assert read_answer(raw)[0]["id"] == "ä€😀"


def test_many_messages_in_one_packet(served: Served) -> None:
    """All messages of one packet are answered, in the order of their reads."""
    with raw_websocket(served.port) as raw:
        requests = [{"jsonrpc": "2.0", "id": id, "method": "_info"} for id in range(200)]
        raw.send(b"".join(map(text_frame, requests)))
        assert [read_answer(raw)[0]["id"] for _ in requests] == list(range(200))


def test_lengths_at_the_borders_of_the_encoding(served: Served) -> None:
    """Messages of 125, 126, 65535 and 65536 bytes are read, whose lengths are told differently."""
    with raw_websocket(served.port) as raw:
        for size in (125, 126, 127, 65535, 65536, 65537):
            raw.send(text_frame(INFO + b" " * (size - len(INFO))))
            assert read_answer(raw)[0]["id"] == 1


def test_internal_error_leaves_the_connection_open(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """A method that raises is answered with an internal error, and the next one as usual."""

    def fail(params: msgspec.Raw) -> Call:
        raise RecursionError("too deep")

    served.server.hub._direct["faulty"] = fail
    with raw_websocket(served.port) as raw:
        raw.send(text_frame({"jsonrpc": "2.0", "id": 7, "method": "faulty"}) + text_frame(INFO))
        answer = raw.read_frame().json
        assert (answer["id"], answer["error"]["code"]) == (7, -32603)
        assert read_answer(raw)[0]["id"] == 1
    [record] = [it for it in caplog.records if it.levelno >= logging.ERROR]
    assert f"reference={answer['error']['data']} peer=127.0.0.1:" in record.message
    caplog.clear()  # it was asked for


# --- text and binary ------------------------------------------------------------------------------


BROKEN_TEXT = [b"\xff", b'{"a":"\xc3"}', b'"\xed\xa0\x80"', b"\xf4\x90\x80\x80", b"\xc0\xaf"]


@pytest.mark.parametrize("message", BROKEN_TEXT)
def test_text_that_is_no_utf8_ends_the_connection(served: Served, message: bytes) -> None:
    """Invalid UTF-8 in a text message closes with 1007, whole or in pieces."""
    assert close_code_after(served, frame(Opcode.TEXT, message)) == 1007
    pieces = frame(Opcode.TEXT, message[:1], fin=False) + frame(Opcode.CONT, message[1:])
    assert close_code_after(served, pieces) == 1007


@pytest.mark.parametrize("message", BROKEN_TEXT)
def test_binary_that_is_no_utf8_is_a_parse_error(served: Served, message: bytes) -> None:
    """The same bytes in a binary message are no JSON, and the connection stays open."""
    with raw_websocket(served.port) as raw:
        raw.send(frame(Opcode.BINARY, message) + frame(Opcode.BINARY, INFO))
        assert raw.read_frame().json["error"] == {"code": -32700, "message": "Parse error"}
        assert read_answer(raw)[0]["id"] == 1


def test_nothing_counts_after_a_violation(served: Served) -> None:
    """A request behind the frame that ended the connection is not carried out."""
    assert close_code_after(served, frame(Opcode.TEXT, b"\xff") + text_frame(REGISTER)) == 1007
    assert close_code_after(served, frame(Opcode.CONT, b"x") + text_frame(REGISTER)) == 1002
    assert not has_entry(served)


# --- violations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        frame(Opcode.TEXT, INFO, mask=False),
        frame(3),
        frame(Opcode.TEXT, INFO, reserved=4),
        frame(11),
        frame(Opcode.CONT, INFO),
        frame(Opcode.TEXT, b"{", fin=False) + frame(Opcode.TEXT, b"}"),
        frame(Opcode.PING, b"x" * 126),
        frame(Opcode.PING, fin=False),
        frame(Opcode.CLOSE, b"\x03"),
        frame(Opcode.CLOSE, struct.pack("!H", 1005)),
        frame(Opcode.CLOSE, struct.pack("!H", 999)),
    ],
    ids=[
        "unmasked",
        "reserved-opcode",
        "reserved-bit",
        "reserved-control",
        "continuation-of-nothing",
        "message-inside-a-message",
        "long-ping",
        "ping-in-pieces",
        "close-of-one-byte",
        "close-with-1005",
        "close-with-999",
    ],
)
def test_violation_ends_the_connection(served: Served, data: bytes) -> None:
    """What the protocol forbids closes with 1002."""
    assert close_code_after(served, data) == 1002


def test_close_reason_is_utf8(served: Served) -> None:
    """A close frame whose reason is no UTF-8 is a violation too."""
    broken = frame(Opcode.CLOSE, struct.pack("!H", 1000) + b"\xff")
    assert close_code_after(served, broken) in (1002, 1007)


@pytest.mark.parametrize(
    "data",
    [
        text_frame(b"x" * 1025),
        frame(Opcode.TEXT, b"x" * 1000, fin=False) + frame(Opcode.CONT, b"x" * 25),
        b"\x81\xff" + struct.pack("!Q", 2**62) + b"\0" * 4,
    ],
    ids=["whole", "pieces", "announced"],
)
def test_message_that_is_too_large(settings: Settings, data: bytes) -> None:
    """A message above the limit closes with 1009, in pieces or merely announced as well."""
    with serving(dataclasses.replace(settings, max_message_size=1024)) as served:
        assert close_code_after(served, data) == 1009
        with raw_websocket(served.port) as raw:
            raw.send(text_frame(INFO + b" " * (1024 - len(INFO))))
            assert read_answer(raw)[0]["id"] == 1


def test_messages_that_are_too_large_are_logged_once(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator learns that a limit was met and which; clients cannot fill the log with it."""
    with serving(dataclasses.replace(settings, max_message_size=1024)) as served:
        for _ in range(5):
            assert close_code_after(served, text_frame(b"x" * 1025)) == 1009
    [record] = [it for it in first_lines(caplog) if "too large" in it.message]
    assert "max_message_size=1024 peer=127.0.0.1:" in record.message


# --- closing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
def test_close_is_echoed(served: Served, code: int) -> None:
    """A close frame is answered with the same code, and then the connection ends."""
    assert close_code_after(served, close_frame(code)) == code


def test_empty_close_is_echoed(served: Served) -> None:
    """A close frame without a code is answered with one without a code."""
    with raw_websocket(served.port) as raw:
        raw.send(frame(Opcode.CLOSE))
        assert raw.read_frame() == Received(Opcode.CLOSE, b"")
        assert raw.read_to_end() == b""


def test_request_and_close_in_one_packet(served: Served) -> None:
    """A request right before a close frame is carried out and answered first."""
    with raw_websocket(served.port) as raw:
        raw.send(text_frame(REGISTER) + close_frame())
        response, data, done = read_answer(raw)
        assert response["id"] == 1
        assert data["params"]["result"]["content"]["type"] == "backend_registered"
        assert done["params"]["result"]["type"] == "done"
        assert raw.read_frame().close_code == 1000
        assert raw.read_to_end() == b""
    assert has_entry(served)


@pytest.mark.parametrize("ending", ["fin", "half", "reset"])
def test_request_before_the_end_is_carried_out(served: Served, ending: str) -> None:
    """A request that was received is carried out even if its client is gone at once."""
    with raw_websocket(served.port) as raw:
        raw.send(text_frame(REGISTER))
        if ending == "half":
            raw.socket.shutdown(socket.SHUT_WR)
            raw.read_to_end()
        elif ending == "reset":
            # A reset overtakes what was sent, so wait until the request was taken.
            wait_until(lambda: has_entry(served), "the entry")
            raw.reset()
    wait_until(lambda: has_entry(served), "the entry")
    wait_until(lambda: not served.in_loop(lambda: served.server.connections), "no connection")


def test_half_closed_client_reads_its_answers(served: Served) -> None:
    """A client that ends its side still gets what was ready for it."""
    with raw_websocket(served.port) as raw:
        raw.send(text_frame(INFO))
        raw.socket.shutdown(socket.SHUT_WR)
        assert read_answer(raw)[0]["id"] == 1
        raw.read_to_end()


def test_client_that_does_not_end_is_cut_off_in_the_end(served: Served) -> None:
    """After the close frames a client has some seconds to end its side, and not for ever."""
    served.in_loop(lambda: setattr(served.server, "close_timeout_s", 0.1))
    with raw_websocket(served.port) as raw:
        raw.send(close_frame())
        assert raw.read_frame().close_code == 1000
        wait_until(lambda: not served.in_loop(lambda: served.server.connections), "no connection")
