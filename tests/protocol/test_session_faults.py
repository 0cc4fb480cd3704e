# SPDX-License-Identifier: AGPL-3.0-only
"""Faults of our own: whatever a method raises, its caller is answered and the talk goes on."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from plexus_registry.access import Client
from plexus_registry.protocol.call import Call, Reply, constant
from plexus_registry.protocol.hub import Hub
from plexus_registry.protocol.session import TRACEBACKS_MAX
from plexus_registry.protocol.streams import Stream
from support.sessions import Desk, register, request


class FaultyHub(Hub):
    """A hub with methods that raise.

    Attributes:
        late: The reply of the last ``faulty.late``, to be called after its handler has raised.
    """

    late: Reply

    def prepare(self, method: str, params: msgspec.Raw) -> Call:
        """Prepare ``faulty.…``, or any other method as usual."""
        if method == "faulty.prepare":
            raise RecursionError("too deep")
        handlers = {
            "faulty.run": self._run,
            "faulty.late": self._run_late,
            "faulty.twice": self._run_twice,
        }
        if method not in handlers:
            return super().prepare(method, params)
        stream = Stream(notification="result", provenance=[], content_type="faulty", plexus_hash="")
        return Call(stream, handlers[method], (b"1",))

    def _run(self, values: Sequence[Any], client: Client, reply: Reply) -> None:
        raise KeyError("no such thing")

    def _run_late(self, values: Sequence[Any], client: Client, reply: Reply) -> None:
        self.late = reply
        raise KeyError("and a reply later")

    def _run_twice(self, values: Sequence[Any], client: Client, reply: Reply) -> None:
        constant(values, client, reply)
        raise KeyError("after the reply")


class FaultyDesk(Desk):
    """A desk whose hub has methods that raise."""

    def __init__(self) -> None:
        super().__init__()
        self.faulty = FaultyHub(self.registry)
        self.hub = self.faulty
        self.session = self.new_session()


def references_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the references of the internal errors in the log, each with its traceback."""
    records = [it for it in caplog.records if "internal error" in it.message]
    assert all(it.levelno == logging.ERROR and it.exc_info for it in records)
    return [re.findall("reference=([0-9a-f]{8}) ", it.message)[0] for it in records]


def expect_service(desk: Desk) -> None:
    """Check that the session works as at first."""
    assert desk.session.pending == 0
    assert not desk.session.is_busy
    assert [it.get("id") for it in desk.ask(request("next", "_info"))] == ["next", None, None]


@pytest.mark.parametrize("method", ["faulty.prepare", "faulty.run", "faulty.late"])
def test_method_that_raises(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its caller gets an internal error with the reference under which the log has the rest."""
    desk = FaultyDesk()
    answers = desk.ask(request("a", method))
    [reference] = references_in(caplog)
    error = {"code": -32603, "message": "Internal error", "data": reference}
    assert answers == [{"jsonrpc": "2.0", "id": "a", "error": error}]
    expect_service(desk)


def test_method_that_raises_in_a_batch(caplog: pytest.LogCaptureFixture) -> None:
    """The array is complete, and so is the stream of each call that it accepted."""
    desk = FaultyDesk()
    methods = ("faulty.prepare", "faulty.run", "_info")
    array, *items = desk.ask(
        [register(9, "dev"), *(request(id, method) for id, method in enumerate(methods))]
    )
    first, second = references_in(caplog)
    assert [it["id"] for it in array] == [9, 0, 1, 2]
    assert array[1]["error"] == {"code": -32603, "message": "Internal error", "data": first}
    ends = {
        it["params"]["subscription"]: it["params"]["result"]
        for it in items
        if it["params"]["result"]["type"] != "data"
    }
    assert [ends[array[index]["result"]]["type"] for index in (0, 2, 3)] == [
        "done",
        "error",
        "done",
    ]
    fault = ends[array[2]["result"]]
    assert (fault["message"], fault["code"]) == (f"Internal error: {second}", "-32603")
    expect_service(desk)


def test_notification_of_a_method_that_raises() -> None:
    """Nobody asked for an answer, and nothing was carried out."""
    desk = FaultyDesk()
    assert desk.ask({"jsonrpc": "2.0", "method": "faulty.run"}) == []
    assert desk.ask([{"jsonrpc": "2.0", "method": "faulty.prepare"}]) == []
    expect_service(desk)


@pytest.mark.parametrize("is_batch", [False, True])
def test_method_that_raises_and_replies_later(is_batch: bool) -> None:
    """An answer was given already, so the reply is dropped."""
    desk = FaultyDesk()
    asked = request(1, "faulty.late")
    desk.ask([asked] if is_batch else asked)
    desk.faulty.late([b"1"])
    assert desk.sent() == []
    expect_service(desk)


@pytest.mark.parametrize("is_batch", [False, True])
def test_method_that_replies_and_raises(is_batch: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The reply counts; the log has the fault."""
    desk = FaultyDesk()
    asked = request(1, "faulty.twice")
    answers = desk.ask([asked] if is_batch else asked)
    assert [it["params"]["result"]["type"] for it in answers[1:]] == ["data", "done"]
    assert len(references_in(caplog)) == 1
    expect_service(desk)


def test_tracebacks_of_one_client_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever finds a method that raises cannot fill the log with tracebacks."""
    desk = FaultyDesk()
    for number in range(3 * TRACEBACKS_MAX):
        desk.ask(request(number, "faulty.run"))
    records = [it for it in caplog.records if "internal error" in it.message]
    assert len(records) == 3 * TRACEBACKS_MAX
    assert len([it for it in records if it.exc_info]) == TRACEBACKS_MAX
