# SPDX-License-Identifier: AGPL-3.0-only
"""Frames are taken a share at a time, and messages that have begun go on or end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from websockets.frames import CloseCode, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from plexus_registry.server.backlog import Backlog
from plexus_registry.server.connection import READ_BYTES
from plexus_registry.server.intake import (
    DEFAULT_MAX_SMALL_FRAMES,
    FRAMES_PER_TURN,
    PIECE_BYTES,
    PROGRESS_BYTES,
    Intake,
)
from support.rawsocket import RawSocket, close_frame, frame, raw_websocket, text_frame
from support.serving import Served
from support.timing import wait_until

INFO = b'{"jsonrpc":"2.0","id":1,"method":"_info"}'


class Desk:
    """An intake and the library's side of its connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, unfinished: Backlog) -> None:
        self.failures = 0
        self.websocket = ServerProtocol(state=OPEN, max_size=2**20)
        self.intake = Intake(
            self.websocket,
            unfinished,
            loop=loop,
            timeout_s=60,
            max_small=DEFAULT_MAX_SMALL_FRAMES,
            on_failed=self._take_note,
        )

    def _take_note(self) -> None:
        self.failures += 1

    def take(self, data: bytes) -> list[bytes]:
        """Take all of *data*."""
        self.intake.feed(data)
        return [message for messages in self.shares() for message in messages]

    def shares(self) -> Iterator[list[bytes]]:
        """Take all there is, share by share."""
        while self.intake.rest:
            yield self.intake.take()

    def close_code(self) -> int | None:
        """Return with what the connection was failed."""
        close = self.websocket.close_sent
        return None if close is None else close.code


@pytest.fixture
def make_desk() -> Iterator[Callable[[], Desk]]:
    """Make connections that have room for 64 KiB of unfinished messages together."""
    loop = asyncio.new_event_loop()
    unfinished = Backlog(65536)
    yield lambda: Desk(loop, unfinished)
    loop.close()


@pytest.fixture
def desk(make_desk: Callable[[], Desk]) -> Desk:
    """One connection."""
    return make_desk()


def test_small_frames_are_taken_in_shares(desk: Desk) -> None:
    """The first share may be larger; then none has many more frames than are meant."""
    count = 10 * READ_BYTES // 7
    desk.intake.feed(text_frame(b"1") * count)
    sizes = [len(messages) for messages in desk.shares()]
    assert sum(sizes) == count
    assert sizes[0] <= PIECE_BYTES / 7
    assert max(sizes[1:]) < 2 * FRAMES_PER_TURN


def test_ordinary_messages_are_taken_at_once(desk: Desk) -> None:
    """One read of requests is one share."""
    message = text_frame(INFO + b" " * 100)
    count = READ_BYTES // len(message)
    desk.intake.feed(message * count)
    assert len(desk.intake.take()) == count
    assert not desk.intake.rest


def test_what_came_before_a_violation_counts(desk: Desk) -> None:
    """And nothing that came after it, in whichever share."""
    good = text_frame(b"1")
    assert desk.take(good * 3 + frame(Opcode.TEXT, b"\xff") + good * 5000) == [b"1"] * 3
    assert desk.close_code() == CloseCode.INVALID_DATA


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG])
def test_control_frames_are_limited(desk: Desk, opcode: Opcode) -> None:
    """As many as are allowed do no harm; the next one ends the connection."""
    desk.take(frame(opcode) * DEFAULT_MAX_SMALL_FRAMES)
    assert desk.close_code() is None
    desk.take(frame(opcode))
    assert desk.close_code() == CloseCode.POLICY_VIOLATION


@pytest.mark.parametrize("data", [b"", b"x"])
def test_fragments_without_content_are_limited(desk: Desk, data: bytes) -> None:
    """Empty ones and those of a byte, once they are many."""
    desk.take(frame(Opcode.TEXT, data, fin=False))
    desk.take(frame(Opcode.CONT, data, fin=False) * (DEFAULT_MAX_SMALL_FRAMES - 1))
    assert desk.close_code() is None
    desk.take(frame(Opcode.CONT, data, fin=False) * 20)
    assert desk.close_code() == CloseCode.POLICY_VIOLATION
    assert desk.intake.buffered_bytes == 0


def test_message_of_many_small_fragments_is_taken(desk: Desk) -> None:
    """Thousands, if there is something in each; and then the next such message."""
    pieces = [bytes([65 + number % 26]) * 64 for number in range(900)]
    for _ in range(3):
        desk.take(frame(Opcode.TEXT, b"", fin=False))
        desk.take(b"".join(frame(Opcode.CONT, piece, fin=False) for piece in pieces))
        assert desk.take(frame(Opcode.CONT, b"")) == [b"".join(pieces)]
    assert desk.intake.buffered_bytes == 0


# --- messages that are not whole ------------------------------------------------------------------

BEGUN = frame(Opcode.TEXT, b"x" * 200_000)[:20_000]
BEGUN_IN_FRAGMENTS = frame(Opcode.TEXT, b"x" * 20_000, fin=False)


@pytest.mark.parametrize("begun", [BEGUN, BEGUN_IN_FRAGMENTS])
def test_message_that_stops_coming_ends_the_connection(desk: Desk, begun: bytes) -> None:
    """Also if a byte comes now and then; what was there is forgotten."""
    desk.take(begun)
    desk.take(frame(Opcode.CONT, b"x", fin=False) if begun is BEGUN_IN_FRAGMENTS else b"x")
    desk.intake._check_progress()
    assert (desk.close_code(), desk.failures) == (CloseCode.POLICY_VIOLATION, 1)
    assert desk.intake.buffered_bytes == 0


def test_message_that_goes_on_is_waited_for(desk: Desk) -> None:
    """However long it takes in all."""
    data = frame(Opcode.TEXT, b"x" * 60_000)
    sent = 1000
    desk.take(data[:sent])
    while sent + PROGRESS_BYTES < len(data):
        desk.take(data[sent : sent + PROGRESS_BYTES])
        sent += PROGRESS_BYTES
        desk.intake._check_progress()
    assert desk.take(data[sent:]) == [b"x" * 60_000]
    assert desk.close_code() is None


def test_each_message_has_its_own_time(desk: Desk) -> None:
    """Who is always in the middle of some message, and ends each, is not cut."""
    message = text_frame(b"x" * 1000)
    desk.take(message[:500])
    for _ in range(20):
        assert len(desk.take(message[500:] + message[:500])) == 1
        desk.intake._check_progress()
    assert desk.close_code() is None


def test_time_does_not_count_while_we_do_not_read(desk: Desk) -> None:
    """The client cannot go on then."""
    desk.take(BEGUN)
    for _ in range(5):
        desk.intake.excuse()
        desk.intake._check_progress()
    assert desk.close_code() is None


def test_unfinished_messages_are_bounded_together(make_desk: Callable[[], Desk]) -> None:
    """Past the limit one is refused, with a code that says to try again later."""
    desks = [make_desk() for _ in range(4)]
    for one in desks:
        one.take(BEGUN)
    codes = [one.close_code() for one in desks]
    assert sorted(map(str, codes)) == ["1013", "None", "None", "None"]
    assert sum(one.intake.buffered_bytes for one in desks) <= 65536


def test_finished_and_ended_messages_do_not_count(make_desk: Callable[[], Desk]) -> None:
    """Neither those that are whole, nor those whose client has gone."""
    message = text_frame(b"x" * 30_000)
    for number in range(10):
        one = make_desk()
        one.take(message[:-1])
        if number % 2:
            assert len(one.take(message[-1:])) == 1
        else:
            one.intake.end()
        assert one.close_code() != CloseCode.TRY_AGAIN_LATER


# --- on the wire ----------------------------------------------------------------------------------


def closed_with(raw: RawSocket) -> int:
    """Read up to the close frame and the end behind it, and return its code."""
    while (received := raw.read_frame()).opcode is not Opcode.CLOSE:
        assert received.opcode is Opcode.PONG
    assert raw.read_to_end() == b""
    return received.close_code


def test_flood_is_told_to_both_sides(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """With 1008 and a reason to the client, and one line in the log."""
    for _ in range(3):
        with raw_websocket(served.port) as raw:
            raw.send(frame(Opcode.PING) * 5000)
            assert closed_with(raw) == CloseCode.POLICY_VIOLATION
    [line] = [it.message for it in caplog.records if "too many control frames" in it.message]
    assert "peer=127.0.0.1:" in line


def test_message_that_stops_coming_is_told(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns why, and the connection is gone."""
    served.in_loop(lambda: setattr(served.server, "slow_sender_timeout_s", 0.1))
    with raw_websocket(served.port) as raw:
        raw.send(text_frame(INFO) + BEGUN)
        response, _, _ = (raw.read_frame().json for _ in range(3))
        assert response["id"] == 1
        assert closed_with(raw) == CloseCode.POLICY_VIOLATION
    assert "message does not come to its end, connection closed peer=" in caplog.text


def test_requests_behind_many_small_frames_are_answered_in_order(served: Served) -> None:
    """Shares change nothing but when."""
    with raw_websocket(served.port) as raw:
        asks = [{"jsonrpc": "2.0", "id": id, "method": "_info"} for id in range(50)]
        data = b"".join(frame(Opcode.PONG) * 20 + text_frame(ask) for ask in asks)
        raw.send(data + close_frame())
        answers = [raw.read_frame().json for _ in range(3 * len(asks))]
        assert [it["id"] for it in answers if "id" in it] == list(range(50))
        assert closed_with(raw) == CloseCode.NORMAL_CLOSURE


def test_what_came_is_carried_out_though_the_client_has_gone(served: Served) -> None:
    """Also if it was not yet taken when the end came."""
    request = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "registry.register",
        "params": {"name": "late", "host": "h", "port": 1},
    }
    with raw_websocket(served.port) as raw:
        raw.send(frame(Opcode.PONG) * 1000 + text_frame(request))
    catalog = served.service.registry.catalog
    wait_until(lambda: served.in_loop(lambda: catalog.get("late")), "the entry")
    wait_until(lambda: not served.in_loop(lambda: served.server.connections), "no connection")
