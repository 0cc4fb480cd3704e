# SPDX-License-Identifier: AGPL-3.0-only
"""Attackers that send what never becomes a message: tiny frames, halves, new keys for TLS."""

from __future__ import annotations

import contextlib
import select
import time

import pytest
from websockets.frames import CloseCode, Opcode

from support.attacks import ATTACKER, MAX_MESSAGE, MAX_PER_ADDRESS, Arena
from support.keyupdates import updating_client
from support.rawsocket import RawSocket, frame, raw_websocket, text_frame
from support.timing import TIMEOUT_S

ANSWERS_MIN = 10
"""What the other client gets at least in `ATTACK_S`, in which it asks more than a hundred times."""

FLOODS = {
    "empty pings": frame(Opcode.PING),
    "empty pongs": frame(Opcode.PONG),
    "empty fragments": frame(Opcode.CONT, fin=False),
}


def close_code_of(raw: RawSocket) -> int:
    """Read up to the close frame and return its code."""
    while (received := raw.read_frame()).opcode is not Opcode.CLOSE:
        assert received.opcode is Opcode.PONG
    return received.close_code


@pytest.mark.parametrize("what", FLOODS)
def test_frames_without_content(arena: Arena, what: str) -> None:
    """They are taken a share at a time, and end their connection once they are too many."""
    setting = "frames in a turn, and without content"
    with arena.attack(what, setting, answers_min=ANSWERS_MIN) as got:
        for _ in got.rounds():
            with raw_websocket(arena.port, source=ATTACKER) as raw:
                raw.send(frame(Opcode.TEXT, fin=False) + FLOODS[what] * 5000)
                assert close_code_of(raw) == CloseCode.POLICY_VIOLATION
        got.append(f"{got.count} of {got.count} connections closed with 1008")


def test_messages_that_lack_their_end(arena: Arena) -> None:
    """Together they have as much memory as is allowed; the others are refused at once."""
    most = text_frame(b" " * MAX_MESSAGE)[:-1]
    with arena.attack("unfinished messages", "max_buffered_input") as got:
        with contextlib.ExitStack() as stack:
            sockets = [
                stack.enter_context(raw_websocket(arena.port, source=ATTACKER))
                for _ in range(MAX_PER_ADDRESS - 1)
            ]
            for raw in sockets:
                raw.send(most)
            codes = [close_code_of(raw) for raw in sockets]
            # Those for which there is room have their time; on a slow machine others have, too.
            refused = codes.count(CloseCode.TRY_AGAIN_LATER)
            late = codes.count(CloseCode.POLICY_VIOLATION)
            assert refused > 0
            assert refused + late == len(sockets)
        with raw_websocket(arena.port, source=ATTACKER) as raw:
            raw.send(most + b" ")
            assert raw.read_frame().json["error"]["code"] == -32700
        got.append(f"of {len(codes)}: {refused} closed with 1013 at once, {late} with 1008 later")


def test_message_that_never_ends(arena: Arena) -> None:
    """A byte now and then does not hold a message open."""
    with (
        arena.attack("messages without end", "message time", answers_min=ANSWERS_MIN) as got,
        contextlib.ExitStack() as stack,
    ):
        sockets = [
            stack.enter_context(raw_websocket(arena.port, source=ATTACKER))
            for _ in range(MAX_PER_ADDRESS - 1)
        ]
        for raw in sockets:
            raw.send(text_frame(b" " * 10_000)[:20])
        waiting = set(sockets)
        began = time.monotonic()
        while waiting and time.monotonic() - began < TIMEOUT_S:
            for raw in list(waiting):
                raw.send(b" ")
                if select.select([raw.socket], [], [], 0)[0]:
                    assert close_code_of(raw) == CloseCode.POLICY_VIOLATION
                    waiting.remove(raw)
            time.sleep(0.02)
        assert not waiting
        got.append(f"{len(sockets)} of {len(sockets)} connections closed with 1008")


def test_updates_of_keys(secure_arena: Arena) -> None:
    """Whoever makes TLS answer without end is cut off, and does not fill the memory."""
    setting = "records without content"
    with secure_arena.attack("TLS key updates", setting, answers_min=ANSWERS_MIN) as got:
        for _ in got.rounds():
            with updating_client(secure_arena.port, source=ATTACKER) as client:
                client.send_until_cut(lambda: client.updates(500))
        got.append(f"{got.count} of {got.count} connections cut off")
