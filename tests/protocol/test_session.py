# SPDX-License-Identifier: AGPL-3.0-only
"""A session: order of answers, batches, waiting for the disk, what a client may not do."""

from __future__ import annotations

from typing import Any

import pytest

from plexus_registry.protocol.session import Session
from support.memory import HeldOffload, disk_full
from support.sessions import NOW, Desk, register, request


def list_names(id: object) -> dict[str, Any]:
    """Return a request that lists all entries."""
    return request(id, "registry.list", {"active_only": False})


def names_in(message: Any) -> list[str]:
    """Return the names in a listing's data item."""
    backends = message["params"]["result"]["content"]["backends"]
    return [backend["name"] for backend in backends]


def kinds(messages: list[Any]) -> list[str]:
    """Say what messages are: ``response``, ``batch``, or the type of an item or event."""
    return [_kind(message) for message in messages]


def _kind(message: Any) -> str:
    if isinstance(message, list):
        return "batch"
    if "id" in message:
        return "response"
    item = message["params"]["result"]
    return str(item["content"]["type"] if item["type"] == "data" else item["type"])


# --- single messages ------------------------------------------------------------------------------


def test_response_and_stream_leave_together() -> None:
    """A read is answered within its turn: response, data, done; nobody is woken for it."""
    desk = Desk()
    messages = desk.ask(list_names("a"))
    assert kinds(messages) == ["response", "backends", "done"]
    assert messages[0]["id"] == "a"
    assert {it["params"]["subscription"] for it in messages[1:]} == {messages[0]["result"]}
    assert messages[1]["params"]["result"]["metadata"]["timestamp"] == NOW
    assert desk.outputs == 0


def test_write_is_answered_after_its_commit() -> None:
    """Nothing of a write's answer, not even its response, is there before the disk has it."""
    disk = HeldOffload()
    desk = Desk(disk)
    assert desk.ask(register(1, "dev")) == []
    assert desk.session.pending == 1
    assert desk.store.groups == []
    disk.release()
    assert len(desk.store.groups) == 1
    assert desk.outputs == 1
    assert desk.session.pending == 0
    assert kinds(desk.sent()) == ["response", "backend_registered", "done"]


def test_reads_overtake_writes() -> None:
    """A message that reads need not wait for one that writes; ids tell whose answer it is."""
    disk = HeldOffload()
    desk = Desk(disk)
    desk.receive(register(1, "dev"))
    messages = desk.ask(list_names(2))
    assert messages[0]["id"] == 2
    assert names_in(messages[1]) == []
    disk.release()
    assert desk.sent()[0]["id"] == 1


def test_failed_commit_is_an_event() -> None:
    """If the disk is full, the answer says so; the session goes on."""
    desk = Desk()
    desk.store.fail_next(disk_full())
    messages = desk.ask(register(1, "dev"))
    assert kinds(messages) == ["response", "error", "done"]
    assert "the disk is full" in messages[1]["params"]["result"]["content"]["message"]
    assert kinds(desk.ask(register(2, "dev"))) == ["response", "backend_registered", "done"]


def test_notification_does_nothing() -> None:
    """Without an id nothing is carried out, whatever the method."""
    desk = Desk()
    notification = register(1, "dev")
    del notification["id"]
    assert desk.ask(notification) == []
    assert desk.ask([notification, notification]) == []
    assert desk.store.attempts == 0


def test_subscription_ids_differ_within_and_between_sessions() -> None:
    """Ids are not used twice in a session, and do not start at the same number in another."""
    desk = Desk()
    ids = [desk.ask(request(number, "_info"))[0]["result"] for number in range(100)]
    assert len(set(ids)) == 100
    starts = set()
    for _ in range(5):
        desk.session = desk.new_session()
        starts.add(desk.ask(request(1, "_info"))[0]["result"])
    assert len(starts) == 5


def test_unsent_bytes_follow_the_output() -> None:
    """The session tells about how much is to be sent, and forgets it once it is taken."""
    desk = Desk()
    description = "x" * 1000
    for number in range(10):
        desk.ask(register(number, f"b{number}", description=description))
    for number in range(5):
        desk.receive(list_names(number))
    assert desk.session.unsent_bytes > 5 * 10 * 1000
    assert len(desk.sent()) == 15
    assert desk.session.unsent_bytes == 0
    desk.receive([1] * 1000)
    desk.advance()
    assert desk.session.unsent_bytes > 1000 * 50


# --- batches --------------------------------------------------------------------------------------


def test_batch_array_comes_first() -> None:
    """The array of responses precedes all items of the batch, whose streams keep its order."""
    desk = Desk()
    messages = desk.ask([register(1, "a"), 5, request(2, "nope"), list_names(3), register(4, "b")])
    streams = ["backend_registered", "done", "backends", "done", "backend_registered", "done"]
    assert kinds(messages) == ["batch", *streams]
    array = messages[0]
    assert [response["id"] for response in array] == [1, None, 2, 3, 4]
    order = [array[0]["result"]] * 2 + [array[3]["result"]] * 2 + [array[4]["result"]] * 2
    assert [message["params"]["subscription"] for message in messages[1:]] == order


def test_batch_read_sees_the_writes_before_it() -> None:
    """A call of a batch that reads waits for those before it that write, and no longer."""
    disk = HeldOffload()
    desk = Desk(disk)
    messages = desk.ask([register(1, "a"), list_names(2), register(3, "b"), list_names(4)])
    assert kinds(messages) == ["batch"]
    assert desk.session.is_busy
    assert not desk.session.advance()
    disk.release()
    desk.advance()
    messages = desk.sent()
    assert kinds(messages) == ["backend_registered", "done", "backends", "done"]
    assert names_in(messages[2]) == ["a"]
    disk.release()
    desk.advance()
    messages = desk.sent()
    assert kinds(messages) == ["backend_registered", "done", "backends", "done"]
    assert names_in(messages[2]) == ["b", "a"]
    assert not desk.session.is_busy


def test_batch_writes_share_a_commit() -> None:
    """Writes that follow one another in a batch do not wait for each other."""
    disk = HeldOffload()
    desk = Desk(disk)
    desk.receive([register(number, f"b{number}") for number in range(50)])
    desk.advance()
    assert desk.session.pending == 50
    disk.release()  # the first began alone, the others gathered meanwhile
    disk.release()
    assert len(disk) == 0
    assert [len(group) for group in desk.store.groups] == [1, 49]
    assert kinds(desk.sent()) == ["batch"] + ["backend_registered", "done"] * 50


def test_batch_waits_for_a_read_that_is_under_way() -> None:
    """A write behind a call that reads and is not done yet waits for it too."""
    reads = HeldOffload()
    desk = Desk()
    desk.registry._offload_read = reads
    desk.receive([request(1, "registry.reload"), register(2, "a")])
    desk.advance()
    assert desk.store.attempts == 0
    reads.release()
    desk.advance()
    assert kinds(desk.sent()) == ["batch", "reloaded", "done", "backend_registered", "done"]


def test_batch_is_taken_in_steps() -> None:
    """Each step reads one entry or starts one call, so that nobody else waits for a long batch."""
    desk = Desk()
    desk.receive([request(number, "_info") for number in range(100)])
    steps = 0
    while desk.session.is_busy:
        assert desk.session.advance()
        steps += 1
        if steps < 100:
            assert desk.sent() == []
    assert steps == 200
    assert not desk.session.advance()


def test_batch_of_nothing_but_notifications_is_silent() -> None:
    """Entries without ids leave no trace, and the session is ready for more."""
    desk = Desk()
    assert desk.ask([{"jsonrpc": "2.0", "method": "_info"}] * 3) == []
    assert not desk.session.is_busy
    assert len(desk.ask(request(1, "_info"))) == 3


def test_batch_inside_a_batch_is_no_request() -> None:
    """An array as an entry is an invalid request."""
    [[answer]] = Desk().ask([[request(1, "_info")]])
    assert answer["error"]["code"] == -32600


# --- unsubscribing --------------------------------------------------------------------------------


def test_unsubscribing_a_finished_stream_gives_false() -> None:
    """A stream that was answered is over, so there is nothing to end."""
    desk = Desk()
    id = desk.ask(request(1, "_info"))[0]["result"]
    assert desk.ask(request(2, "_info_unsub", [id])) == [
        {"jsonrpc": "2.0", "id": 2, "result": False}
    ]


@pytest.mark.parametrize(
    "form", [lambda id: [id], lambda id: [str(id)], lambda id: {"subscription": id}]
)
def test_unsubscribing_an_active_stream_ends_it(form: Any) -> None:
    """A batch tells ids before the disk is done: such a stream can be ended, and stays silent."""
    disk = HeldOffload()
    desk = Desk(disk)
    [[first, second]] = desk.ask([register(1, "a"), register(2, "b")])
    end = request(3, "registry.unsubscribe_register", form(first["result"]))
    assert desk.ask(end) == [{"jsonrpc": "2.0", "id": 3, "result": True}]
    assert desk.ask(end) == [{"jsonrpc": "2.0", "id": 3, "result": False}]
    disk.release_all()
    messages = desk.sent()
    assert {it["params"]["subscription"] for it in messages} == {second["result"]}
    assert kinds(messages) == ["backend_registered", "done"]
    assert [backend.name for backend in desk.registry.catalog] == ["a", "b"]
    assert desk.session.pending == 0


# --- clients that are gone ------------------------------------------------------------------------


def test_request_of_a_client_that_is_gone_is_carried_out() -> None:
    """Nobody has to take the answers for what was received to be done."""
    disk = HeldOffload()
    desk = Desk(disk)
    desk.receive([register(1, "a"), list_names(2), register(3, "b")])
    while desk.session.is_busy:
        if not desk.session.advance():
            disk.release()
    disk.release_all()
    assert [backend.name for backend in desk.registry.catalog] == ["a", "b"]


def test_nothing_is_read_for_a_client_that_is_gone() -> None:
    """Of what is left of its requests only those that change something are carried out."""
    disk = HeldOffload()
    desk = Desk(disk)
    reads = [list_names(2), request(3, "registry.get", {"name": "a"})]
    reload = request(4, "registry-hub.call", {"method": "registry.reload"})
    nested = request(5, "registry-hub.call", {"method": "registry-hub.call", "params": {}})
    nested["params"]["params"] = {
        "method": "registry.register",
        "params": {"name": "b", "host": "h", "port": 1},
    }
    desk.receive([register(1, "a"), *reads, reload, nested])
    assert desk.session.advance()
    desk.session.abandon()
    desk.receive(list_names(6))
    while desk.session.is_busy:
        if not desk.session.advance():
            disk.release()
    disk.release_all()
    assert [backend.name for backend in desk.registry.catalog] == ["a", "b"]
    counts = {name: count.answers for name, count in desk.hub.counts.methods.items()}
    assert (counts["register"], counts["reload"]) == (2, 1)
    assert (counts["list"], counts["get"]) == (0, 0)
    assert desk.session.pending == 0


def test_sessions_are_told_of_their_own_answers_only() -> None:
    """Two sessions share a commit and each is told once that its answer is there."""
    disk = HeldOffload()
    desk = Desk(disk)
    told: list[str] = []
    sessions: list[Session] = [
        desk.new_session(lambda: told.append("first")),
        desk.new_session(lambda: told.append("second")),
    ]
    desk.receive(register(0, "already-in-the-commit"))
    for session, name in zip(sessions, ("a", "b"), strict=True):
        desk.session = session
        desk.receive(register(1, name))
    disk.release()
    assert told == []
    disk.release()
    assert told == ["first", "second"]
    for session in sessions:
        desk.session = session
        assert kinds(desk.sent()) == ["response", "backend_registered", "done"]


# --- odd input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "id",
    [
        "18446744073709551615",
        "-1",
        "-9223372036854775808",
        '"\\ud83d\\ude00"',
        '"%b"',
        "null",
        '"' + "x" * 2**20 + '"',
    ],
    ids=lambda id: id[:24],
)
def test_ids_come_back_letter_by_letter(id: str) -> None:
    """An id of a usable type stands in the answer as it stood in the request."""
    desk = Desk()
    for method in ("_info", "nope", "registry.get"):
        desk.receive(f'{{"jsonrpc":"2.0","id":{id},"method":"{method}"}}')
        first, *_ = desk.session.messages_to_send()
        assert first.startswith(b'{"jsonrpc":"2.0","id":%b,' % id.encode())
        desk.receive(f'[{{"jsonrpc":"2.0","id":{id},"method":"{method}"}}]')
        desk.advance()
        first, *_ = desk.session.messages_to_send()
        assert first.startswith(b'[{"jsonrpc":"2.0","id":%b,' % id.encode())


@pytest.mark.parametrize("id", ["18446744073709551616", "1.5", "1e3", "true", "[]", "{}"])
def test_unusable_ids_are_answered_with_null(id: str) -> None:
    """A request whose id cannot be echoed is refused and not carried out."""
    desk = Desk()
    params = '{"name":"a","host":"h","port":1}'
    message = f'{{"jsonrpc":"2.0","id":{id},"method":"registry.register","params":{params}}}'
    refusal = {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": -32600, "message": "Invalid request"},
    }
    assert desk.ask(message) == [refusal]
    assert desk.ask(f"[{message}]") == [[refusal]]
    assert desk.store.attempts == 0


def test_duplicate_key_keeps_a_write_from_happening() -> None:
    """A request that says one thing twice is not carried out."""
    desk = Desk()
    message = (
        '{"jsonrpc":"2.0","id":1,"method":"registry.list","m\\u0065thod":"registry.delete",'
        '"params":{"name":"a"}}'
    )
    [answer] = desk.ask(message)
    assert answer["error"]["code"] == -32600
    assert answer["id"] == 1


@pytest.mark.parametrize(
    "message",
    [b"", b"\0", b"\xff\xfe{\0}\0", b"{\0}", b'{"a":"\0"}', b"\0" * 100_000, b"[" * 100_000],
    ids=lambda message: repr(message[:10]),
)
def test_bytes_that_are_no_json(message: bytes) -> None:
    """NUL bytes, UTF-16 and brackets without end get a parse error."""
    [answer] = Desk().ask(message)
    assert answer["error"]["code"] == -32700


def test_nul_in_names_is_a_character() -> None:
    """A NUL that is escaped is a character like others: unknown, or not accepted."""
    desk = Desk()
    assert desk.ask(request(1, "_info\0"))[0]["error"]["code"] == -32601
    messages = desk.ask(register(2, "a\0b"))
    assert kinds(messages) == ["response", "error", "done"]
    assert '"a\\u0000b"' in messages[1]["params"]["result"]["content"]["message"]
    assert kinds(desk.ask(request(3, "registry.get", ["a\0b"]))) == ["response", "backend", "done"]


def test_lone_surrogates_are_refused() -> None:
    """Half a character cannot be stored or answered in UTF-8: a parse error."""
    [answer] = Desk().ask('{"jsonrpc":"2.0","id":1,"method":"registry.get","params":["\\ud800"]}')
    assert answer["error"]["code"] == -32700


def test_megabytes_of_text_are_answered_with_little() -> None:
    """What a message repeats of a request is bounded (a ping tells its name back, as specified)."""
    desk = Desk()
    long = "x" * 2**20
    for message in (
        request(1, long),
        request(1, "registry-hub.call", {"method": long}),
        request(1, "registry-hub.call", {"method": f"{long}.y"}),
        request(1, "registry-hub.schema", {"method": long}),
        request(1, "registry-hub.respond", {"request_id": long, "response_data": None}),
        request(1, "registry.get", {"name": long}),
        request(1, "registry.list", {"after": long}),
        register(1, long),
        register(1, "a", host=long),
        register(1, "a", description=long),
        register(1, "a", port=long),
    ):
        desk.receive(message)
        assert sum(map(len, desk.session.messages_to_send())) < 2000
