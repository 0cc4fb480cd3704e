# SPDX-License-Identifier: AGPL-3.0-only
"""The mixed load: everything that clients and operators do to a registry, again and again.

Entries come and go and their number stays the same, so that what grows is a leak.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bench import wire
from bench.soak import strangers
from bench.soak.strangers import Unexpected, expect

STANDING: Final = 16
"""Connections that stay open for a while; each round replaces one."""
KEPT: Final = 100
"""Entries that clients have registered; each new one takes the place of the oldest."""
DECLARED_MAX: Final = 100
UNFINISHED_MAX: Final = 4
SLOW_MAX: Final = 4
SLOW_REQUESTS: Final = 300
BATCH: Final = 20
LONG_MESSAGE_BYTES: Final = 900_000
PAUSE_S: Final = 0.005
FAULTS_MAX: Final = 50

_LIFE: Final[tuple[tuple[bytes, str, dict[str, object]], ...]] = (
    (b'"backend_registered"', "register", {"host": "127.0.0.1", "port": 4444}),
    (b'"backend_updated"', "update", {"port": 4445, "description": "as of now"}),
    (b'"success":true', "ping", {}),
    (b'"backend_deregistered"', "deregister", {}),
    (b'"backend_deleted"', "delete", {}),
)
"""What happens to a name from its registration to its end, with the mark of each answer."""


class MixedLoad:
    """One client process's worth of everything.

    Args:
        port: Where the registry listens.
        config: Its declared backends, which the load rewrites.

    Attributes:
        answers: How many answers came, by kind of step.
        steps: How many steps were taken, by kind.
        faults: Answers that were not what was due.
    """

    def __init__(self, port: int, config: Path) -> None:
        self.answers: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.faults: list[str] = []
        self._port = port
        self._config = config
        self._names = (f"soak-{number:08d}" for number in itertools.count())
        self._kept: deque[str] = deque()
        self._standing: deque[socket.socket] = deque()
        self._unfinished: deque[socket.socket] = deque()
        self._slow: deque[socket.socket] = deque()
        self._patient = strangers.unfinished(port)
        self._declared = 0
        self._by_weight: list[tuple[int, Callable[[], int]]] = [
            (8, self.read),
            (8, self.live),
            (8, self.keep),
            (4, self.batch),
            (4, self.broken_json),
            (2, self.refused),
            (2, self.long_message),
            (1, self.save),
            (1, self.reload),
            (1, self.replace),
            (1, self.leave_unfinished),
            (1, self.wait_to_be_cut),
            (1, self.read_slowly),
            *(
                (2, self._stranger(client))
                for client in (
                    strangers.clean,
                    strangers.reset,
                    strangers.half_closed,
                    strangers.foreign_page,
                    strangers.no_request,
                    strangers.malformed_frame,
                    strangers.malformed_text,
                    strangers.oversized,
                )
            ),
        ]

    def run(self) -> Iterator[None]:
        """Take steps for ever, pausing in between; the caller takes a look after each."""
        self._fill()
        steps = [step for weight, step in self._by_weight for _ in range(weight)]
        while True:
            random.shuffle(steps)
            for step in steps:
                self._take(step)
                yield
                time.sleep(PAUSE_S)

    @property
    def kinds(self) -> set[str]:
        """The kinds of steps."""
        return {step.__name__ for _, step in self._by_weight}

    def finish(self) -> None:
        """Delete what is registered, close every connection, and see that nothing is left over."""
        with contextlib.closing(wire.connect(self._port)) as sock:
            for name in self._kept:
                expect(wire.ask(sock, wire.call("delete", name=name)), b'"backend_deleted"')
            self._kept.clear()
            self._write(is_sound=True)
            expect(wire.ask(sock, wire.call("reload")), b'"reloaded"')
            listed = wire.ask(sock, wire.call("list", active_only=False))
        for held in (*self._standing, *self._unfinished, *self._slow, self._patient):
            held.close()
        expect(listed, b'"registered_at"', self._declared)

    def _take(self, step: Callable[[], int]) -> None:
        kind = step.__name__
        self.steps[kind] += 1
        try:
            self.answers[kind] += step()
        except (Unexpected, OSError) as fault:
            self.faults.append(f"{kind}: {type(fault).__name__}: {fault}")
            if len(self.faults) >= FAULTS_MAX:
                raise
            # What is on its way there would be taken for the answer to something else.
            while self._standing:
                self._standing.popleft().close()
            self._fill()

    def _stranger(self, client: Callable[[int], int]) -> Callable[[], int]:
        def step() -> int:
            return client(self._port)

        step.__name__ = client.__name__
        return step

    def _fill(self) -> None:
        while len(self._standing) < STANDING:
            self._standing.append(wire.connect(self._port))

    def _any(self) -> socket.socket:
        return random.choice(self._standing)

    # --- what well-behaved clients do -------------------------------------------------------------

    def read(self) -> int:
        """Ask on all connections at once, several questions on each."""
        name = self._kept[0] if self._kept else "nobody"
        frames = [
            *(wire.call("get", name=one) for one in (name, name, "nobody")),
            *(wire.call("list", limit=10) for _ in range(2)),
            wire.call("list"),
        ]
        return self._on_all(frames)

    def live(self) -> int:
        """Have an entry on each connection go through all that can happen to one."""
        for sock in self._standing:
            name = next(self._names)
            calls = (wire.call(method, name=name, **params) for _, method, params in _LIFE)
            sock.sendall(b"".join(calls))
        for sock in self._standing:
            answer = wire.receive(sock, len(_LIFE))
            for mark, _, _ in _LIFE:
                expect(answer, mark)
        return len(self._standing) * len(_LIFE)

    def keep(self) -> int:
        """Register an entry that stays for a while, and delete the one that is there longest."""
        name, sock = next(self._names), self._any()
        register = wire.call("register", name=name, host="127.0.0.1", port=4444)
        expect(wire.ask(sock, register), b'"backend_registered"')
        self._kept.append(name)
        if len(self._kept) <= KEPT:
            return 1
        answer = wire.ask(sock, wire.call("delete", name=self._kept.popleft()))
        expect(answer, b'"backend_deleted"')
        return 2

    def batch(self) -> int:
        """Ask many things in one message."""
        entry = wire.request("get", name="nobody")
        frame = wire.masked_frame(b"[" + b",".join([entry] * BATCH) + b"]")
        sock = self._any()
        sock.sendall(frame)
        expect(wire.receive(sock, BATCH), b'"backend":null', BATCH)
        return BATCH

    def long_message(self) -> int:
        """Ask with a message just below the limit."""
        frame = wire.call("get", name="nobody", filling="x" * LONG_MESSAGE_BYTES)
        expect(wire.ask(self._any(), frame), b'"backend":null')
        return 1

    def replace(self) -> int:
        """Close a connection that has been there for long, and open another."""
        self._standing.popleft().close()
        self._fill()
        return 0

    def _on_all(self, frames: list[bytes]) -> int:
        for sock in self._standing:
            random.shuffle(frames)
            sock.sendall(b"".join(frames))
        for sock in self._standing:
            if wire.FAILED in (answer := wire.receive(sock, len(frames))):
                raise Unexpected(f"a read was refused: {answer[:300]!r}")
        return len(self._standing) * len(frames)

    # --- what others do ---------------------------------------------------------------------------

    def broken_json(self) -> int:
        """Send what is no JSON, on a connection that goes on."""
        sock = self._any()
        sock.sendall(wire.masked_frame(random.choice((b'{"jsonrpc":', b"", b"nothing", b"[1,"))))
        wire.receive(sock, 1, mark=b'"code":-32700')
        return 1

    def refused(self) -> int:
        """Ask for what is to be refused: a name that is not there, a port that is none."""
        sock = self._any()
        expect(wire.ask(sock, wire.call("update", name="nobody", port=1)), wire.FAILED)
        sock.sendall(wire.call("register", name="soak-port", host="127.0.0.1", port=70000))
        wire.receive(sock, 1, mark=b'"code":"-32602"')
        return 2

    def leave_unfinished(self) -> int:
        """Stop in the middle of a handshake, and stay."""
        self._unfinished.append(strangers.unfinished(self._port))
        if len(self._unfinished) > UNFINISHED_MAX:
            self._unfinished.popleft().close()
        return 0

    def wait_to_be_cut(self) -> int:
        """Stop in the middle of a handshake until the registry has had enough."""
        if not select.select([self._patient], [], [], 0)[0]:
            return 0
        with self._patient as sock:
            expect(sock.recv(1) or b"closed", b"closed")
        self._patient = strangers.unfinished(self._port)
        return 1

    def read_slowly(self) -> int:
        """Leave answers unread; read those that were left earlier, or leave for good."""
        self._slow.append(strangers.slow(self._port, SLOW_REQUESTS))
        if len(self._slow) <= SLOW_MAX:
            return 0
        sock = self._slow.popleft()
        if random.random() < 0.5:
            strangers.abandon(sock)
            return 0
        with contextlib.closing(sock):
            expect(wire.receive(sock, SLOW_REQUESTS), wire.DONE, SLOW_REQUESTS)
        return SLOW_REQUESTS

    # --- what operators do ------------------------------------------------------------------------

    def save(self) -> int:
        """Save declarations and leave it to the registry to notice."""
        self._write(is_sound=random.random() < 0.7)
        return 0

    def reload(self) -> int:
        """Save declarations and have them read."""
        is_sound = random.random() < 0.7
        self._write(is_sound=is_sound)
        answer = wire.ask(self._any(), wire.call("reload"))
        expect(answer, b'"reloaded"' if is_sound else wire.FAILED)
        return 1

    def _write(self, *, is_sound: bool) -> None:
        """Replace the file, with another number of entries and, at random, other ports."""
        self._declared = random.randint(DECLARED_MAX // 2, DECLARED_MAX)
        port = random.randint(1, 65535) if is_sound else 0
        tables = [
            f'[[backend]]\nname = "declared-{number:03d}"\nhost = "127.0.0.1"\nport = {port}\n'
            for number in range(self._declared)
        ]
        new = self._config.with_suffix(".new")
        new.write_text("\n".join(tables), "ascii")
        new.rename(self._config)
