# SPDX-License-Identifier: AGPL-3.0-only
"""A simple model of the registry, and what a test may ask of both."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from plexus_registry.backend import Declaration, Source
from plexus_registry.rules import Declare, Register, Update

Entry = dict[str, Any]
TEXT_KEYS = ("description", "namespace", "version", "metadata")
KEYS = ("host", "port", "protocol", *TEXT_KEYS)


def ids() -> Callable[[], str]:
    """Return what makes ids, the same ones each time."""
    numbers = itertools.count(1)
    return lambda: f"id-{next(numbers)}"


class Model:
    """The table of the design, said again with dicts and without regard for speed.

    Every method changes `entries` and returns the content of the event, without messages.
    """

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self._new_id = ids()

    def new(self, name: str, source: str, now: int, fields: Entry) -> Entry:
        """Enter a name that is free."""
        birth = dict.fromkeys(("registered_at", "created_at", "updated_at"), now)
        self.entries[name] = {
            "id": self._new_id(),
            "name": name,
            "source": source,
            "is_active": True,
        }
        self.entries[name] |= birth | fields
        return self.entries[name]

    def register(self, request: Register, now: int) -> Entry:
        """Rows one to five."""
        address = {"host": request.host, "port": request.port, "protocol": request.protocol or "ws"}
        texts = {key: getattr(request, key) for key in TEXT_KEYS}
        given = address | {key: text for key, text in texts.items() if text}
        held = self.entries.get(request.name)
        if held is None:
            held = self.new(request.name, request.source, now, given)
        elif request.source == "auto" and held["source"] != "auto":
            held |= {"is_active": True, "last_seen": now}
        elif held["source"] == "manual" and any(held[key] != address[key] for key in address):
            return {"type": "error"}
        else:
            held |= given | {"is_active": True, "last_seen": now, "updated_at": now}
            held["source"] = request.source
        return {"type": "backend_registered", "backend": dict(held)}

    def update(self, request: Update, now: int) -> Entry:
        """What is given changes, the empty text clears, the source becomes manual."""
        held = self.entries.get(request.name)
        if held is None:
            return {"type": "error"}
        held |= {"source": "manual", "updated_at": now}
        for key in KEYS:
            value = getattr(request, key)
            if value == "":
                held.pop(key, None)
            elif value is not None:
                held[key] = value
        return {"type": "backend_updated", "backend": dict(held)}

    def delete(self, name: str) -> Entry:
        """The entry goes."""
        if self.entries.pop(name, None) is None:
            return {"type": "error"}
        return {"type": "backend_deleted", "name": name}

    def ping(self, name: str, now: int) -> Entry:
        """A sign of life, if there is somebody."""
        if name in self.entries:
            self.entries[name] |= {"is_active": True, "last_seen": now}
        return {"type": "ping", "name": name, "success": name in self.entries}

    def deregister(self, name: str, now: int) -> Entry:
        """A good-bye, which is said once."""
        held = self.entries.get(name)
        if held is None:
            return {"type": "error"}
        if held["is_active"]:
            held |= {"is_active": False, "updated_at": now}
        return {"type": "backend_deregistered", "name": name}

    def declare(self, request: Declare, now: int) -> Entry:
        """Name by name: who declares it, who holds it, and which of them stands higher."""
        counts: Entry = {"type": "reloaded", "count": 0, "updated": 0, "removed": 0, "unchanged": 0}
        file = request.file or {}
        for name in [*file, *(name for name in request.env if name not in file)]:
            source = "env" if name in request.env else "file"
            declared = request.env[name] if source == "env" else file[name]
            fields = {key: getattr(declared, key) for key in KEYS}
            given = {key: value for key, value in fields.items() if value is not None}
            held = self.entries.get(name)
            if held is None:
                self.new(name, source, now, given)
                counts["count"] += 1
            elif held["source"] == "manual" or (
                held["source"] == source and {key: held.get(key) for key in KEYS} == fields
            ):
                counts["unchanged"] += 1
            else:
                for key in KEYS:
                    held.pop(key, None)
                held |= given | {"source": source, "is_active": True, "updated_at": now}
                counts["updated"] += 1
        followed = ["env"] if request.file is None else ["env", "file"]
        for name, held in list(self.entries.items()):
            if held["source"] not in followed or name in {*file, *request.env}:
                continue
            if held["source"] == "env" or request.removable is None or name in request.removable:
                del self.entries[name]
                counts["removed"] += 1
            else:
                counts["unchanged"] += 1
        return counts

    def auto_register(self, declared: Declaration, now: int) -> Entry:
        """Only if the name is free."""
        held = self.entries.get(declared.name)
        if held is None:
            fields = {key: getattr(declared, key) for key in ("host", "port", "protocol")}
            held = self.new(declared.name, "auto", now, fields)
        return {"type": "backend_registered", "backend": dict(held)}


ALL_NAMES = ("a", "b", "c")
NAMES = st.sampled_from(ALL_NAMES)
HOSTS = st.sampled_from(["127.0.0.1", "::1"])
PORTS = st.sampled_from([1, 2])
PROTOCOLS = st.sampled_from(["ws", "wss"])
TEXTS = st.sampled_from([None, "", "one", "two"])


def declarations(texts: st.SearchStrategy[str | None]) -> st.SearchStrategy[dict[str, Declaration]]:
    """Return what a source may declare."""
    one = st.builds(
        Declaration,
        name=NAMES,
        host=HOSTS,
        port=PORTS,
        protocol=PROTOCOLS,
        description=texts,
        namespace=texts,
        version=texts,
        metadata=texts,
    )
    return st.lists(one, max_size=3).map(lambda several: {each.name: each for each in several})


REGISTERS = st.builds(
    Register,
    name=NAMES,
    host=HOSTS,
    port=PORTS,
    protocol=st.none() | PROTOCOLS,
    description=TEXTS,
    namespace=TEXTS,
    version=TEXTS,
    metadata=TEXTS,
    source=st.sampled_from([Source.AUTO, Source.MANUAL]),
)
UPDATES = st.builds(
    Update,
    name=NAMES,
    host=st.none() | HOSTS,
    port=st.none() | PORTS,
    protocol=st.none() | PROTOCOLS,
    description=TEXTS,
    namespace=TEXTS,
    version=TEXTS,
    metadata=TEXTS,
)
DECLARES = st.builds(
    Declare,
    env=declarations(st.none()),
    file=st.none() | declarations(st.sampled_from([None, "one", "two"])),
    removable=st.none() | st.frozensets(NAMES),
)
