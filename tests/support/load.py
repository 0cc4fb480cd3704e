# SPDX-License-Identifier: AGPL-3.0-only
"""Clients that change a registry all at once, and the account of what they were told.

Each writer owns names that nobody else touches and has one request under way, so it knows what
every name of it must hold: what was acknowledged last. A request without an acknowledgement may
have come to be or not, until a later one is acknowledged: what was refused before that is not
there. One more client declares versions of a file, of which one must be there, whole.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake

from support.conversation import Conversation, conversation
from support.timing import TIMEOUT_S, wait_until

Entry = dict[str, Any]
Entries = Mapping[str, Entry]
"""By name, the oldest insertion first."""

ENDED = (ConnectionClosed, InvalidHandshake, ConnectionError, EOFError)
"""What a client sees of a daemon that was killed."""

DECLARED_COUNT = 12


class Writer:
    """Asks for one change after another.

    Args:
        label: How its names begin.
        chance: What it decides by.
        most: How many entries it has at the most.
        metadata: Text that new entries carry.

    Attributes:
        known: What each name holds, by the last acknowledgement; None if it was deleted.
        unsure: Changes asked for since the last acknowledgement.
        acknowledged: How many acknowledgements came.
        refused: The messages of refusals.
        misread: Reads that differed from what was acknowledged.
        is_counting: Whether acknowledgements count.
    """

    def __init__(self, label: str, chance: random.Random, *, most: int, metadata: str) -> None:
        self.known: dict[str, Entry | None] = {}
        self.unsure: list[tuple[str, Entry]] = []
        self.acknowledged = 0
        self.refused: list[str] = []
        self.misread: list[str] = []
        self.is_counting = True
        self._label = label
        self._chance = chance
        self._most = most
        self._metadata = {"metadata": metadata} if metadata else {}

    def step(self, client: Conversation) -> None:
        """Ask for one change, and now and then for what a name holds."""
        method, params = self._choose()
        name = params["name"]
        self.unsure.append((method, params))
        event = client.call(f"registry.{method}", params).content
        if event["type"] == "error":
            self.refused.append(event["message"])
        elif not self.is_counting:
            return
        else:
            # Some answers do not tell the entry; a read may not be ahead of the disk either.
            is_untold = method in ("ping", "deregister")
            entry = self._read(client, name) if is_untold else event.get("backend")
            if entry != self.known.get(name):  # what changes nothing is not written
                self.unsure.clear()
            else:
                self.unsure.pop()
            self._take(name, entry)
            self.acknowledged += 1
        if self.is_counting and (event["type"] == "error" or self._chance.random() < 0.1):
            found = self._read(client, name)
            if found != self.known.get(name):
                self.misread.append(f"{name}: read {found}, expected {self.known.get(name)}")

    def settle(self, found: Entries) -> list[str]:
        """Compare with what is there, take that for what is known now; say what differs."""
        mine = {name: entry for name, entry in found.items() if name.startswith(self._label)}
        may_differ = {params["name"] for _, params in self.unsure}
        faults = []
        for name in sorted({*mine, *self.known}):
            if not self._may_hold(name, mine.get(name)):
                faults.append(f"{name}: found {mine.get(name)}, expected {self.known.get(name)}")
        kept = [name for name, entry in self.known.items() if entry and name not in may_differ]
        if not faults and [name for name in mine if name not in may_differ] != kept:
            faults.append(f"{self._label}: the order is {list(mine)}, expected {kept}")
        gone = {name: None for name in self.known if name not in mine}
        self.known = {**gone, **mine}
        self.unsure.clear()
        return faults

    def _choose(self) -> tuple[str, Entry]:
        present = [name for name, entry in self.known.items() if entry]
        gone = [name for name, entry in self.known.items() if not entry]
        port = self._chance.randint(1, 65535)
        description = "x" * self._chance.randint(1, 999)
        if not present or (len(present) < self._most and self._chance.random() < 0.4):
            name = f"{self._label}{len(self.known)}"
            if gone and self._chance.random() < 0.5:
                name = self._chance.choice(gone)
            more = {"host": "h", "port": port, "description": description, **self._metadata}
            return "register", {"name": name, **more}
        name = self._chance.choice(present)
        method = self._chance.choice(("register", "update", "ping", "deregister", "delete"))
        params: Entry = {"name": name}
        if method == "register":  # again, with the same address
            params |= {"host": "h", "port": (self.known[name] or {})["port"], "version": str(port)}
        elif method == "update":
            params |= {"port": port, "description": description}
        return method, params

    def _read(self, client: Conversation, name: str) -> Entry | None:
        entry: Entry | None = client.call("registry.get", {"name": name}).content["backend"]
        return entry

    def _take(self, name: str, entry: Entry | None) -> None:
        if not self.known.get(name):
            self.known.pop(name, None)  # a new entry comes at the end of the order
        self.known[name] = entry

    def _may_hold(self, name: str, found: Entry | None) -> bool:
        return found == self.known.get(name) or any(
            found is None
            if method == "delete"
            else found is not None and params.items() <= found.items()
            for method, params in self.unsure
            if params["name"] == name
        )


class Declarer:
    """Writes one version of the file after another and asks for a reload.

    Attributes:
        written: The version that was written last.
        acknowledged: The version that a reload was acknowledged for last.
        refused: The messages of refusals.
        is_counting: Whether acknowledgements count.
    """

    def __init__(self, path: Path, chance: random.Random) -> None:
        self.written = self.acknowledged = 0
        self.refused: list[str] = []
        self.is_counting = True
        self._path = path
        self._chance = chance

    def step(self, client: Conversation) -> None:
        """Declare the next version, and wait until the registry follows it."""
        version = self.written + 1
        text = "".join(
            f'[[backend]]\nname = "{name}"\nhost = "h"\nport = {version}\n'
            for name in _declared_names(version)
        )
        self.written = version
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(text)
        os.replace(fresh, self._path)
        event = client.call("registry.reload").content
        if event["type"] == "error":
            self.refused.append(event["message"])
        elif self.is_counting:
            self.acknowledged = version
        threading.Event().wait(self._chance.random() / 50)

    def settle(self, found: Entries, *, is_served: bool) -> list[str]:
        """Say what differs from one whole version that may be there.

        Args:
            found: All entries.
            is_served: A daemon has started since, so the version is the one written last.
        """
        declared = {name: one["port"] for name, one in found.items() if one["source"] == "file"}
        version = next(iter(declared.values()), 0)
        oldest = self.written if is_served else self.acknowledged
        if not oldest <= version <= self.written:
            return [f"version {version} is there, expected {oldest} to {self.written}"]
        expected = dict.fromkeys(_declared_names(version), version) if version else {}
        if declared != expected:
            return [f"half of version {version} is there: {declared}, expected {expected}"]
        return []


def _declared_names(version: int) -> list[str]:
    """Half of a version's entries change what an earlier one declared, half are new."""
    half = DECLARED_COUNT // 2
    return [f"declared-{number}" for number in range(half)] + [
        f"declared-{version}-{number}" for number in range(half)
    ]


class Load:
    """Writers and a declarer, to be let loose on one daemon after another.

    Args:
        config: The file that they declare in.
        chance: What they decide by.
        writers: How many.
        most: How many entries each of them has at the most.
        metadata: Text that new entries carry.

    Attributes:
        lost: How much was not as it had been acknowledged, each time that it was compared.
    """

    def __init__(
        self,
        config: Path,
        chance: random.Random,
        *,
        writers: int = 6,
        most: int = 30,
        metadata: str = "",
    ) -> None:
        def own() -> random.Random:
            return random.Random(chance.random())

        self.lost = 0
        self.declarer = Declarer(config, own())
        self.writers = [
            Writer(f"w{number}-", own(), most=most, metadata=metadata) for number in range(writers)
        ]
        self._clients: list[Writer | Declarer] = [self.declarer, *self.writers]

    @property
    def acknowledged(self) -> int:
        """How many changes were acknowledged so far."""
        return sum(writer.acknowledged for writer in self.writers) + self.declarer.acknowledged

    @property
    def refused(self) -> list[str]:
        """What was refused so far: the messages."""
        return [*self.declarer.refused, *(one for writer in self.writers for one in writer.refused)]

    def stop_counting(self) -> None:
        """Let no acknowledgement count that arrives from now on, until the next `on`.

        To be called before a power cut is played or a file system made to break down: a machine
        without power sends none, while here Linux may end a flush that is under way at that moment
        as if it had worked.
        """
        for worker in self._clients:
            worker.is_counting = False

    @contextlib.contextmanager
    def on(self, url: str) -> Iterator[None]:
        """Work while the block runs, or until the daemon ends; fail with the clients' faults."""
        for worker in self._clients:
            worker.is_counting = True
        stop = threading.Event()
        faults: list[BaseException] = []

        def work(worker: Writer | Declarer) -> None:
            try:
                with conversation(url) as client:
                    while not stop.is_set():
                        worker.step(client)
            except ENDED:
                return
            except BaseException as fault:
                faults.append(fault)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in self._clients]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(2 * TIMEOUT_S)
        for fault in faults:
            raise fault
        misread = [one for writer in self.writers for one in writer.misread]
        assert misread == []

    def wait_for_acknowledgements(self, count: int) -> None:
        """Wait until *count* more changes are acknowledged."""
        goal = self.acknowledged + count
        wait_until(lambda: self.acknowledged >= goal, f"{count} acknowledgements", 2 * TIMEOUT_S)

    def wait_for_outcomes(self, count: int) -> None:
        """Wait until *count* more changes are acknowledged or refused."""

        def counted() -> int:
            return self.acknowledged + len(self.refused)

        goal = counted() + count
        wait_until(lambda: counted() >= goal, f"{count} outcomes", 2 * TIMEOUT_S)

    def wait_for_refusals(self, text: str, count: int) -> None:
        """Wait until *count* more refusals say *text*."""

        def counted() -> int:
            return sum(text in message for message in self.refused)

        goal = counted() + count
        wait_until(lambda: counted() >= goal, f"{count} refusals: {text}", 2 * TIMEOUT_S)

    def settle(self, found: Entries, *, is_served: bool = False) -> list[str]:
        """Compare with what is there, take that for what is known now; say what differs.

        Args:
            found: All entries.
            is_served: A daemon has started since the load, and followed the file.
        """
        faults = self.declarer.settle(found, is_served=is_served)
        for writer in self.writers:
            faults += writer.settle(found)
        self.lost += len(faults)
        return faults


def listed(client: Conversation) -> dict[str, Entry]:
    """Return all entries that the registry lists."""
    found = client.call("registry.list", {"active_only": False}).content["backends"]
    return {entry["name"]: entry for entry in reversed(found)}


def stored(database: Path) -> dict[str, Entry]:
    """Return all entries of a database that nobody uses, from a copy, checked for integrity."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, database.name)
        for suffix in ("", "-wal"):
            beside = database.with_name(database.name + suffix)
            if beside.exists():
                shutil.copy(beside, copy.with_name(copy.name + suffix))
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            connection.row_factory = sqlite3.Row
            verdict = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            assert verdict == ["ok"], verdict
            if not connection.execute("PRAGMA table_info(backends)").fetchall():
                return {}
            rows = connection.execute("SELECT * FROM backends ORDER BY rowid").fetchall()
    return {row["name"]: _on_the_wire(row) for row in rows}


def _on_the_wire(row: sqlite3.Row) -> Entry:
    """Return an entry as answers show it: without what is absent."""
    entry = {column: row[column] for column in row.keys() if row[column] is not None}  # noqa: SIM118
    return entry | {"is_active": bool(row["is_active"])}
