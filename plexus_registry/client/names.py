# SPDX-License-Identifier: AGPL-3.0-only
"""The addresses behind a host's name, and a socket that is connected to one of them.

An event loop would look names up in its pool of threads, which is joined when the loop ends: where
no DNS server answers, a program could neither give up nor be interrupted, and names that nobody
answers for would keep the threads from all others. Here each look-up has a thread that nobody
waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from concurrent.futures import Future
from typing import Any, Final, NamedTuple

SHARED_S: Final = 5.0
"""How long a look-up that is on its way is joined by others for the same host: one that is older
may be asking a server that is gone by now."""
RUNNING_MAX: Final = 256
"""How many look-ups `room` lets run; each is a thread."""
THREAD_NAME: Final = "plexus-registry-name"
_ROOM_POLL_S: Final = 0.05


class Place(NamedTuple):
    """Where to connect to: what `socket.socket` and its `connect` take."""

    family: int
    kind: int
    protocol: int
    address: tuple[Any, ...]


class NotConnected(Exception):
    """No place accepts a connection.

    Attributes:
        faults: What is wrong with each, in their order.
    """

    def __init__(self, faults: list[OSError]) -> None:
        super().__init__(*faults)
        self.faults = faults


class _LookUp:
    """What a thread finds out about one host, for all that ask meanwhile."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.began = time.monotonic()
        self.found: Future[list[Place]] = Future()

    def run(self) -> None:
        try:
            places = _look_up(self.host)
        except BaseException as error:  # whatever it is, who waits is told
            _running.discard(self)
            self.found.set_exception(error)
        else:
            _running.discard(self)
            self.found.set_result(places)


_running: set[_LookUp] = set()


async def room() -> None:
    """Wait until there is room for another look-up.

    For those that ask about many hosts: one who has given up waiting leaves a thread behind, for
    as long as the system takes to give up.
    """
    while len(_running) >= RUNNING_MAX:
        await asyncio.sleep(_ROOM_POLL_S)


async def resolve(host: str, port: int) -> list[Place]:
    """Return where *host* is, at least one place, in the order in which to try.

    Raises:
        OSError: If it has no address, or no thread could be started.
        UnicodeError: If it is no name that DNS could know.
    """
    try:
        places = _look_up(host, socket.AI_NUMERICHOST)  # which asks nobody
    except socket.gaierror:
        places = await _wait_for(_begun(host).found)
    return [
        place._replace(address=(place.address[0], port, *place.address[2:])) for place in places
    ]


def _look_up(host: str, flags: int = 0) -> list[Place]:
    answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=flags)
    return [Place(family, kind, number, address) for family, kind, number, _, address in answers]


def _begun(host: str) -> _LookUp:
    """Return a look-up of *host* that is on its way."""
    now = time.monotonic()
    for one in list(_running):
        if one.host == host and now - one.began < SHARED_S:
            return one
    look_up = _LookUp(host)
    _running.add(look_up)
    try:
        threading.Thread(target=look_up.run, name=THREAD_NAME, daemon=True).start()
    except RuntimeError as error:  # of a process that may have no more of them
        _running.discard(look_up)
        raise OSError(f"its name could not be looked up: {error}") from error
    return look_up


async def _wait_for(found: Future[list[Place]]) -> list[Place]:
    """Wait as long as the caller likes; that it leaves off is no matter to others that wait."""
    loop = asyncio.get_running_loop()
    told = loop.create_future()

    def tell() -> None:
        if not told.done():
            told.set_result(None)

    def pass_on(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it who waited
            loop.call_soon_threadsafe(tell)

    found.add_done_callback(pass_on)
    await told
    return found.result()


async def connected(places: list[Place]) -> socket.socket:
    """Connect to the first place that accepts.

    Raises:
        NotConnected: If none does.
    """
    faults: list[OSError] = []
    for place in places:
        try:
            return await _connected(place)
        except OSError as error:
            faults.append(error)
    raise NotConnected(faults)


async def _connected(place: Place) -> socket.socket:
    sock = socket.socket(place.family, place.kind, place.protocol)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, place.address)
    except BaseException:
        sock.close()
        raise
    return sock
