# SPDX-License-Identifier: AGPL-3.0-only
"""One client of a real server on a real socket, in one thread, without waiting for time."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import random
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from websockets.frames import Opcode

from plexus_registry.protocol.hub import Hub
from plexus_registry.server.listener import Server
from plexus_registry.server.pages import Answer
from support.rawsocket import Received

MAX_MESSAGE_SIZE = 2048
PATIENCE_S = 20.0
"""How long a server may leave a client without answer and end; never waited for otherwise."""
SEED = 1
"""Makes the ids of subscriptions the same in each conversation."""


def converse(hub: Hub, pieces: Iterable[bytes]) -> bytes:
    """Send *pieces* one by one to a server of *hub*, end, and return all that came back.

    Raises:
        AssertionError: If the server does not end the connection in its turn, or if something in
            the event loop failed.
    """
    faults: list[dict[str, Any]] = []
    loop = _loop()
    loop.set_exception_handler(lambda loop, context: faults.append(context))
    answer = loop.run_until_complete(_converse(hub, pieces))
    assert not faults, faults
    return answer


async def _converse(hub: Hub, pieces: Iterable[bytes]) -> bytes:
    random.seed(SEED)
    loop = asyncio.get_running_loop()
    server = Server(hub, max_message_size=MAX_MESSAGE_SIZE, pages={"/page": _page})
    listener, path = _listener()
    await server.listen_on(listener.dup())
    answer = b""
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        await loop.sock_connect(client, str(path))
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for piece in pieces:
                    await loop.sock_sendall(client, piece)
                    for _ in range(3):  # turns in which the server accepts, begins and reads
                        await asyncio.sleep(0)
                client.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while received := await loop.sock_recv(client, 65536):
                    answer += received
    await server.stop()
    return answer


def _page(give: Callable[[Answer], None]) -> None:
    """Answer in a later turn, as a page does that is made elsewhere."""
    asyncio.get_running_loop().call_soon(give, Answer(b"a page"))


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


@cache
def _listener() -> tuple[socket.socket, Path]:
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "fuzz.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    atexit.register(folder.cleanup)
    atexit.register(listener.close)
    return listener, path


def frames_in(data: bytes) -> Iterator[Received]:
    """Take a server's bytes apart: whole frames, unmasked, without reserved bits, to the end.

    Raises:
        AssertionError: If they are anything else, or go on after a close frame.
    """
    at = 0
    is_closed = False
    while at < len(data):
        assert not is_closed, "more after the close frame"
        first, size = data[at : at + 2]
        at += 2
        assert first & 0xF0 == 0x80, "a fragment, or reserved bits"
        assert size < 128, "a masked frame"
        extended = {126: 2, 127: 8}.get(size, 0)
        if extended:
            size = int.from_bytes(data[at : at + extended], "big")
            at += extended
        assert at + size <= len(data), "a frame that is cut off"
        received = Received(Opcode(first & 0x0F), data[at : at + size])
        assert received.opcode in (Opcode.TEXT, Opcode.PONG, Opcode.CLOSE)
        assert received.opcode is Opcode.TEXT or size <= 125
        at += size
        is_closed = received.opcode is Opcode.CLOSE
        yield received
