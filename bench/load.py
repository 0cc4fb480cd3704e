# SPDX-License-Identifier: AGPL-3.0-only
"""The generator: raw sockets and epoll, prebuilt frames out, ends of answers counted.

Closed loop: so many requests in flight on each connection, for the highest throughput. Open loop:
requests leave by the clock, whether or not earlier ones are answered, and each latency counts from
when its request was due, so that a server that stalls cannot hide it by being asked less. Neither
sleeps: waking up would be part of what is measured.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from bench import wire
from bench.wire import DONE, FAILED, Requests

RECEIVE_BYTES = 262144
_TAIL = len(DONE) - 1


class Client:
    """One connection of the generator.

    Args:
        port: Of the server.
        is_checked: Look for refusals too.

    Attributes:
        in_flight: How many requests wait for the end of their answer.
        failed: How many answers said that the request was refused.
        due: When each of the requests in flight was due, in the open loop.
    """

    def __init__(self, port: int, *, is_checked: bool = False) -> None:
        self.socket = wire.connect(port)
        # With a timeout, Python would poll before every call. The epoll knows when to receive.
        self.socket.settimeout(None)
        self.in_flight = 0
        self.failed = 0
        self.due: deque[float] = deque()
        self._is_checked = is_checked
        self._tail = b""

    def send(self, frames: bytes, count: int) -> None:
        """Send *count* requests."""
        self.in_flight += count
        self.socket.sendall(frames)

    def receive(self) -> int:
        """Receive once and return how many answers ended."""
        received = self.socket.recv(RECEIVE_BYTES)
        if not received:
            raise ConnectionError("the server closed a connection")
        data = self._tail + received
        self._tail = data[-_TAIL:]
        ended = data.count(DONE)
        self.in_flight -= ended
        if self._is_checked:
            self.failed += data.count(FAILED)
        return ended


@dataclass
class Tally:
    """What a closed loop counted.

    Attributes:
        answers: All that came, those before and after the measured time included.
        failed: Those of them that said that the request was refused.
        per_s: Answers a second in the measured time.
        generator_share: Which part of that time the generator was busy.
    """

    answers: int
    failed: int
    per_s: float
    generator_share: float


@dataclass
class Latencies:
    """What an open loop counted, in seconds."""

    sorted_s: list[float] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        """Return the latency that *share* of the requests did not exceed."""
        return self.sorted_s[min(int(share * len(self.sorted_s)), len(self.sorted_s) - 1)]


@contextlib.contextmanager
def clients(port: int, count: int, *, is_checked: bool = False) -> Iterator[list[Client]]:
    """Have *count* connections while the block runs."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            one = Client(port, is_checked=is_checked)
            stack.callback(one.socket.close)
            opened.append(one)
        yield opened


def closed_loop(
    connections: Sequence[Client],
    requests: Requests,
    *,
    depth: int,
    seconds: float,
    warm_up_s: float = 0.1,
) -> Tally:
    """Keep *depth* requests in flight on every connection.

    Args:
        connections: Idle ones.
        requests: What to ask; the measurement ends early if there are no more.
        depth: How many are in flight on each.
        seconds: How long answers are counted, after the warm-up.
        warm_up_s: How long they are not counted before.
    """
    total = counted = 0
    failed_before = sum(one.failed for one in connections)
    with contextlib.closing(select.epoll()) as epoll:
        by_number = {one.socket.fileno(): one for one in connections}
        for number in by_number:
            epoll.register(number, select.EPOLLIN)
        take, poll = requests.take, epoll.poll
        answered = time.perf_counter()
        for one in connections:
            frames = take(depth)
            one.send(frames, depth if frames else 0)
        now = time.perf_counter()
        start, end = now + warm_up_s, float("inf")
        started, busy, is_over = 0.0, 0.0, False
        if not warm_up_s:
            started, end = now, now + seconds
        # However slow the server is, something is counted.
        while not is_over and (now < end or total == counted):
            before = now
            events = poll(0)
            for number, _ in events:
                one = by_number[number]
                ended = one.receive()
                if ended:
                    total += ended
                    frames = take(ended)
                    if frames:
                        one.send(frames, ended)
                    else:
                        is_over = True
            now = time.perf_counter()
            if events:
                busy += now - before
                answered = now
                if not started and now >= start:
                    started, end, counted, busy = now, now + seconds, total, 0.0
            elif now > answered + wire.TIMEOUT_S:
                raise TimeoutError("the server does not answer")
        if total == counted:
            raise ValueError("there are too few requests to measure anything")
        elapsed, measured = now - started, total - counted
        while any(one.in_flight for one in connections):
            events = poll(wire.TIMEOUT_S)
            if not events:
                raise TimeoutError("the server does not answer")
            for number, _ in events:
                total += by_number[number].receive()
    failed = sum(one.failed for one in connections) - failed_before
    return Tally(total, failed, measured / elapsed, busy / elapsed)


def open_loop(
    connections: Sequence[Client],
    requests: Requests,
    *,
    per_s: float,
    seconds: float,
    beside: Callable[[float], None] = lambda elapsed_s: None,
) -> Latencies:
    """Send requests by the clock, over the connections in turn.

    Args:
        connections: Idle ones.
        requests: What to ask.
        per_s: How many requests are due each second.
        seconds: For how long.
        beside: Called again and again with the time since the start; must be quick.
    """
    latencies: list[float] = []
    with contextlib.closing(select.epoll()) as epoll:
        by_number = {one.socket.fileno(): one for one in connections}
        for number in by_number:
            epoll.register(number, select.EPOLLIN)
        interval, planned = 1 / per_s, int(per_s * seconds)
        turn, sent, start = 0, 0, time.perf_counter()
        while len(latencies) < planned:
            now = time.perf_counter()
            late = min(int((now - start) / interval) + 1, planned) - sent
            while late > 0:
                # One that is behind its clock makes up for it with larger writes.
                count = -(-late // len(connections))
                one = connections[turn % len(connections)]
                one.due.extend(start + (sent + each) * interval for each in range(count))
                one.send(requests.take(count), count)
                turn, sent, late = turn + 1, sent + count, late - count
            for number, _ in epoll.poll(0):
                one = by_number[number]
                ended = one.receive()
                now = time.perf_counter()
                for _ in range(ended):
                    latencies.append(now - one.due.popleft())
            if now > start + seconds + wire.TIMEOUT_S:
                raise TimeoutError("the server does not answer")
            beside(now - start)
    return Latencies(sorted(latencies))
