# SPDX-License-Identifier: AGPL-3.0-only
"""What `registry.status` answers, with a registry in memory."""

from __future__ import annotations

from typing import Any

import pytest

from plexus_registry.access import Access, Client, Policy, Trust
from plexus_registry.errors import ConfigError, Fault, StoreRejected
from plexus_registry.protocol.methods import REGISTRY_STATUS
from plexus_registry.protocol.session import Session
from plexus_registry.protocol.status import MESSAGE_MAX_CHARACTERS, SEE_LOG
from support.memory import disk_full, entry
from support.sessions import NOW, Desk, register, request


def status(desk: Desk) -> dict[str, Any]:
    """Ask for the status and return the event."""
    _, data, _ = desk.ask(request(1, "registry.status"))
    content: dict[str, Any] = data["params"]["result"]["content"]
    return content


def as_reader(desk: Desk) -> dict[str, Any]:
    """Ask for the status as a client that may not write, and return the event."""
    desk.session = Session(desk.hub, client=Client("far", Trust.REMOTE), on_output=lambda: None)
    return status(desk)


def test_status_of_a_new_registry() -> None:
    """Everything is there from the start, with nothing in it."""
    found = status(Desk())
    assert 0 <= found.pop("uptime_s") < 60
    assert found == {
        "type": "status",
        "version": "1.2.3",
        "started_at": NOW,
        "revision": found["revision"],
        "entries": {
            "total": 0,
            "active": 0,
            "inactive": 0,
            "by_source": {"auto": 0, "file": 0, "env": 0, "manual": 0},
        },
        "reload": None,
        "store": {"ok": True, "bytes": 0, "last_failure": None, "last_failure_at": None},
        "connections": {"open": 0, "max": 0},
    }


def test_status_counts_entries() -> None:
    """In all, by activity and by source, after whatever became of them."""
    desk = Desk()
    desk.ask(register(1, "a"))
    desk.ask(register(2, "b"))
    desk.ask(register(3, "hub", source="auto"))
    desk.ask(request(4, "registry.deregister", {"name": "b"}))
    found = status(desk)["entries"]
    assert found["by_source"] == {"auto": 1, "file": 0, "env": 0, "manual": 2}
    assert (found["total"], found["active"], found["inactive"]) == (3, 2, 1)
    desk.ask(request(5, "registry.delete", {"name": "b"}))
    desk.ask(register(6, "hub"))
    found = status(desk)["entries"]
    assert found["by_source"] == {"auto": 0, "file": 0, "env": 0, "manual": 2}
    assert (found["total"], found["active"], found["inactive"]) == (2, 2, 0)


@pytest.mark.parametrize(
    ("asked", "changes"),
    [
        (register(1, "new"), True),
        (register(1, "dev"), True),
        (request(1, "registry.ping", {"name": "dev"}), True),
        (request(1, "registry.update", {"name": "dev", "port": 2}), True),
        (request(1, "registry.deregister", {"name": "dev"}), True),
        (request(1, "registry.delete", {"name": "dev"}), True),
        (request(1, "registry.ping", {"name": "nobody"}), False),
        (request(1, "registry.get", {"name": "dev"}), False),
        (request(1, "registry.list"), False),
        (request(1, "registry.status"), False),
    ],
)
def test_revision_changes_with_the_entries(asked: dict[str, Any], changes: bool) -> None:
    """Who has listed the entries knows by it whether to list them again."""
    desk = Desk()
    desk.ask(register(0, "dev"))
    before = status(desk)["revision"]
    desk.ask(asked)
    assert (status(desk)["revision"] != before) is changes


def test_status_tells_of_the_last_reload() -> None:
    """When it was, and what it did."""
    desk = Desk()
    desk.ask(request(1, "registry.reload"))
    assert status(desk)["reload"] == {
        "at": NOW,
        "ok": True,
        "message": None,
        "added": 0,
        "updated": 0,
        "removed": 0,
        "unchanged": 0,
    }


def test_why_a_reload_failed_is_for_those_who_may_write() -> None:
    """The reason names files; others are told that the log has it."""
    desk = Desk()

    def read(explicit: bool) -> None:
        raise ConfigError([Fault("/etc/plexus/backends.toml", 3, "x" * 10_000)])

    desk.registry._declarations = read
    desk.ask(request(1, "registry.reload"))
    message = status(desk)["reload"]["message"]
    assert message.startswith("Failed to parse TOML config: /etc/plexus/backends.toml:3: xxx")
    assert len(message) == MESSAGE_MAX_CHARACTERS
    assert as_reader(desk)["reload"] == {"at": NOW, "ok": False, "message": SEE_LOG}


def test_policy_on_writing_decides_who_reads_reasons() -> None:
    """As it is for methods that write: where everybody may, everybody reads them."""
    desk = Desk()
    desk.store.fail_next(disk_full())
    desk.ask(register(1, "dev"))
    desk.hub.status._access = Access(Policy.OPEN)
    assert as_reader(desk)["store"]["last_failure"].endswith("the disk is full")


def test_status_tells_of_a_store_that_cannot_write_until_it_can() -> None:
    """The reason stays to be read, with its time."""
    desk = Desk()
    desk.store.fail_next(disk_full())
    desk.ask(register(1, "dev"))
    reason = "database registry.db cannot be used: the disk is full"
    failed = {"bytes": 0, "last_failure": reason, "last_failure_at": NOW}
    assert status(desk)["store"] == {"ok": False, **failed}
    desk.ask(register(2, "dev"))
    assert status(desk)["store"] == {"ok": True, **failed}
    assert as_reader(desk)["store"]["last_failure"] == SEE_LOG


def test_a_value_that_cannot_be_written_is_not_the_stores_fault() -> None:
    """It is told, and the store is as well as before."""
    desk = Desk()
    desk.store.fail_next(StoreRejected("backend dev cannot be written, nothing was"))
    desk.ask(register(1, "dev"))
    store = status(desk)["store"]
    assert (store["ok"], store["last_failure_at"]) == (True, NOW)


def test_every_answer_is_as_the_schema_says() -> None:
    """Each object has the properties of its schema: all that are required, and no other."""
    desk = Desk()
    answers = [status(desk)]
    desk.ask(request(1, "registry.reload"))
    answers.append(status(desk))
    for answer in answers:
        check_object(answer, REGISTRY_STATUS["oneOf"][0])


def check_object(given: dict[str, Any], schema: dict[str, Any]) -> None:
    """Hold an object, and those in it, against a schema of `REGISTRY_STATUS`."""
    assert {*schema["required"]} <= {*given} <= {*schema["properties"]}
    for name, value in given.items():
        found = schema["properties"][name]
        if value is not None:
            found = found.get("anyOf", [found])[0]
        if isinstance(value, dict):
            check_object(value, REGISTRY_STATUS["$defs"][found["$ref"].rpartition("/")[2]])
        elif value is None:
            assert "null" in found.get("type", ()) or {"type": "null"} in found["anyOf"]
        else:
            types = {bool: "boolean", int: "integer", float: "number", str: "string"}
            assert types[type(value)] in found["type"]


def test_many_entries_take_no_more_time() -> None:
    """Nothing goes over the entries to count them."""
    desk = Desk()
    catalog = desk.registry.catalog

    class Uncountable(dict[str, Any]):
        def values(self) -> Any:
            raise AssertionError("all entries were looked at")

        __iter__ = items = values

    catalog._entries = Uncountable({"dev": entry("dev")})
    assert status(desk)["entries"]["total"] == 1
