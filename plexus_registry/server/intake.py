# SPDX-License-Identifier: AGPL-3.0-only
"""What a client sends, frame by frame, up to whole messages, and the bounds on it.

A frame takes six bytes, so one read can hold thousands, and none of them has to end a message.
Frames are therefore taken a share at a time; those that carry nothing are limited; and a message
that has begun may neither stop coming nor wait in memory beside too many others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from plexus_registry.server.allowance import Allowance
from plexus_registry.server.backlog import Backlog

FRAMES_PER_TURN: Final = 128
PIECE_BYTES: Final = 8192
"""How much is parsed before frames are counted: the library takes apart all that it is given."""
DENSE_BYTES: Final = 32
DENSE_PIECE_BYTES: Final = FRAMES_PER_TURN * 6
"""The same for a client that has sent many frames smaller than `DENSE_BYTES` at once."""
DEFAULT_MAX_SMALL_FRAMES: Final = 1024
"""How many fragments a message may have, whatever is in them, and how many pings and pongs may come
in `CONTROLS_INTERVAL_S`."""
FRAGMENT_MIN_BYTES: Final = 64
"""How much there has to be for each fragment more."""
CONTROLS_INTERVAL_S: Final = 10.0
NOTED_BYTES: Final = 4096
"""How much of a message counts as waiting. Less is not worth the count."""
PROGRESS_BYTES: Final = 16384
"""How much more of a message there has to be each time that the clock is looked at."""
LIMIT_CODES: Final = (CloseCode.POLICY_VIOLATION, CloseCode.TRY_AGAIN_LATER)
"""With what a connection is closed that goes beyond a limit here, for the reason given."""


class Fault(Exception):
    """A client sends what RFC 6455 allows and a server need not bear, or no text as text."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Assembler:
    """Puts the fragments of messages together (RFC 6455, 5.4).

    The library has checked their order and size.

    Args:
        max_small: How many fragments a message may have, whatever is in them.

    Attributes:
        fragments: What has come of the message that is not whole yet.
    """

    def __init__(self, max_small: int) -> None:
        self.fragments = bytearray()
        self._max_small = max_small
        self._count = 0
        self._is_text = False

    def add(self, frame: Frame) -> bytes | None:
        """Take the next frame that carries data; return the message that it ends, if it ends one.

        Raises:
            Fault: If the message was sent as text and is no UTF-8, or has too many fragments.
        """
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        if not frame.fin:
            self.fragments += frame.data
            self._count += 1
            if self._count > self._max_small + len(self.fragments) // FRAGMENT_MIN_BYTES:
                raise Fault(CloseCode.POLICY_VIOLATION, "too many fragments for a message")
            return None
        message = bytes(frame.data)
        if self._count:
            message = bytes(self.fragments) + message
            self.fragments = bytearray()
            self._count = 0
        if self._is_text and not message.isascii():
            try:
                message.decode()
            except UnicodeDecodeError as error:
                reason = f"{error.reason} at position {error.start}"
                raise Fault(CloseCode.INVALID_DATA, reason) from None
        return message


class Intake:
    """Takes what one client sends a share at a time.

    Args:
        websocket: Takes frames apart.
        unfinished: Bounds messages that are not whole yet, over all connections.
        loop: Keeps the time.
        timeout_s: In what time there have to be `PROGRESS_BYTES` more of a message, or its end.
        max_small: How many small fragments, and how many control frames, may come.
        on_failed: Called when the connection was failed, but not by what `take` took.

    Attributes:
        rest: What came and waits for its turn.
    """

    def __init__(
        self,
        websocket: ServerProtocol,
        unfinished: Backlog,
        *,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
        max_small: int,
        on_failed: Callable[[], None],
    ) -> None:
        self._websocket = websocket
        self._unfinished = unfinished
        self._loop = loop
        self._timeout_s = timeout_s
        self._on_failed = on_failed
        self._max_small = max_small
        self._assembler = Assembler(max_small)
        self._controls = Allowance(max_small, CONTROLS_INTERVAL_S)
        self.rest = b""
        self._piece_bytes = PIECE_BYTES
        self._is_over = False
        self._is_noted = False
        self._timer: asyncio.TimerHandle | None = None
        # How much there was of the message at the last look at the clock; None excuses it.
        self._seen_bytes: int | None = None

    @property
    def buffered_bytes(self) -> int:
        """How much there is of a message that is not whole yet."""
        # A header of which no payload has come yet counts as nothing, and takes nothing.
        return len(self._assembler.fragments) + len(self._websocket.reader.buffer)

    def feed(self, data: bytes) -> None:
        """Accept what was received, to be taken."""
        self.rest = self.rest + data if self.rest else data

    def take(self) -> list[bytes]:
        """Take a share of what was received; return the messages that are whole with it.

        A violation fails the connection, and then nothing counts that came after it.
        """
        messages: list[bytes] = []
        try:
            self._take(messages)
        except Fault as fault:
            self._websocket.fail(fault.code, fault.reason)
        if self._websocket.eof_sent:  # by a close frame, too
            self._drop()
            return messages
        if messages:
            self._forget()
        size = self.buffered_bytes
        if size:
            self._watch(size)
        if self._is_over:
            self.end()
        return messages

    def excuse(self) -> None:
        """Take note that no more can come: it is we who do not read."""
        self._seen_bytes = None

    def cut_for_backlog(self) -> None:
        """Fail the connection: too much of messages waits, and this one is the worst."""
        self._fail(CloseCode.TRY_AGAIN_LATER, "unfinished messages exceed max_buffered_input")

    def end(self) -> None:
        """Take note that the client sends no more; what came is taken still."""
        self._is_over = True
        if not self.rest:
            if self._websocket.state is not State.CLOSED:
                self._websocket.receive_eof()
            self._drop()

    # --- frames -----------------------------------------------------------------------------------

    def _take(self, messages: list[bytes]) -> None:
        websocket, data, piece_bytes = self._websocket, self.rest, self._piece_bytes
        at = count = 0
        while at < len(data) and count < FRAMES_PER_TURN:
            websocket.receive_data(data[at : at + piece_bytes])
            at += piece_bytes
            events = websocket.events_received()
            count += len(events)
            for frame in events:
                assert isinstance(frame, Frame)
                opcode = frame.opcode
                if opcode is Opcode.TEXT or opcode is Opcode.BINARY or opcode is Opcode.CONT:
                    message = self._assembler.add(frame)
                    if message is not None:
                        messages.append(message)
                elif self._controls.is_exceeded_by(1):
                    raise Fault(CloseCode.POLICY_VIOLATION, "too many control frames")
        self.rest = data[at:]
        if count >= FRAMES_PER_TURN and count * DENSE_BYTES > at:
            self._piece_bytes = DENSE_PIECE_BYTES

    # --- messages that are not whole --------------------------------------------------------------

    def _watch(self, size: int) -> None:
        if self._timer is None:
            self._seen_bytes = size
            self._set_timer()
        if size > NOTED_BYTES:
            self._is_noted = True
            self._unfinished.note(self)

    def _forget(self) -> None:
        """Take note that a message is whole. The timer runs on, for the next one."""
        self._seen_bytes = None
        if self._is_noted:
            self._is_noted = False
            self._unfinished.forget(self)

    def _drop(self) -> None:
        """Forget what came and is not whole; no more comes, or it does not count."""
        self.rest = b""
        self._assembler = Assembler(self._max_small)
        self._websocket.reader.discard()
        self._forget()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        self._timer = self._loop.call_later(self._timeout_s, self._check_progress)

    def _check_progress(self) -> None:
        self._timer = None
        size, seen = self.buffered_bytes, self._seen_bytes
        if not size:
            return
        if seen is not None and size - seen < PROGRESS_BYTES:
            self._fail(CloseCode.POLICY_VIOLATION, "message does not come to its end")
        else:
            self._seen_bytes = size
            self._set_timer()

    def _fail(self, code: CloseCode, reason: str) -> None:
        self._websocket.fail(code, reason)
        self._drop()
        self._on_failed()
