# SPDX-License-Identifier: AGPL-3.0-only
"""C1 to C20: the WebSocket, what travels in it as JSON-RPC, and HTTP on the same port."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import logging
import select
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.frames import Opcode

from plexus_registry.config.settings import Settings
from support.conversation import Conversation, conversation
from support.rawsocket import Received, frame, raw_websocket, text_frame
from support.serving import Served, serving
from support.timing import wait_until

LIMIT = 10 * 1024 * 1024
PARSE_ERROR = {
    "jsonrpc": "2.0",
    "id": None,
    "error": {"code": -32700, "message": "Parse error"},
}
INVALID_REQUEST = {"code": -32600, "message": "Invalid request"}
METHOD_NOT_FOUND = {"code": -32601, "message": "Method not found"}


@pytest.fixture
def large(settings: Settings) -> Iterator[Served]:
    """A registry that takes messages as large as the specification says."""
    with serving(dataclasses.replace(settings, max_message_size=LIMIT)) as served:
        yield served


def padded(size: int) -> str:
    """Return a request that takes *size* bytes."""
    request = '{"jsonrpc":"2.0","id":1,"method":"_info","padding":"%s"}'
    return request % ("x" * (size - len(request) + 2))


def close_code_after(client: Conversation, message: str) -> int:
    """Send what the server must not take, and return the code with which it closes."""
    with contextlib.suppress(ConnectionClosed):
        client.send(message)
    with pytest.raises(ConnectionClosedError) as closed:
        client.receive()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def http_request(served: Served, method: str, path: str = "/", **options: Any) -> tuple[int, Any]:
    """Send a plain HTTP request and return status and headers of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    try:
        connection.request(method, path, **options)
        response = connection.getresponse()
        response.read()
        return response.status, response.headers
    finally:
        connection.close()


# --- C1, C2: the upgrade --------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/", "/any/path?x=1"])
def test_c01_upgrade_succeeds_on_any_path(served: Served, path: str) -> None:
    """A WebSocket can be opened on any path, without an Origin."""
    with conversation(served.url + path) as client:
        assert client.request("_info").content["backend"] == "registry-hub"


@pytest.mark.parametrize(
    "origin", ["http://localhost:5173", "http://127.0.0.1", "https://[::1]:8443"]
)
def test_c01_upgrade_succeeds_with_a_loopback_origin(served: Served, origin: str) -> None:
    """A web page of this host can open a WebSocket."""
    with conversation(served.url, origin=origin) as client:
        assert client.request("_info").content["backend"] == "registry-hub"


@pytest.mark.parametrize("origin", ["https://example.com", "http://localhost.example.com", "null"])
def test_c01_other_origins_are_refused(served: Served, origin: str) -> None:
    """A web page of another host gets 403 instead of a WebSocket."""
    with pytest.raises(InvalidStatus) as refused, conversation(served.url, origin=origin):
        pass
    assert refused.value.response.status_code == 403


def test_c01_a_listed_origin_is_accepted(settings: Settings) -> None:
    """An origin that the operator lists can open a WebSocket, others of its host cannot."""
    listing = dataclasses.replace(settings, allowed_origins=("https://plexus.example.com",))
    with serving(listing) as served:
        with conversation(served.url, origin="https://plexus.example.com") as client:
            assert client.request("_info").content["backend"] == "registry-hub"
        other = "https://plexus.example.com:8443"
        with pytest.raises(InvalidStatus), conversation(served.url, origin=other):
            pass


def test_c02_subprotocols_and_compression_are_not_accepted(served: Served) -> None:
    """What a client offers is left out of the answer, and the connection works without it."""
    options: dict[str, Any] = {"subprotocols": ["plexus", "jsonrpc"], "compression": "deflate"}
    with conversation(served.url, **options) as client:
        assert client.websocket.subprotocol is None
        response = client.websocket.response
        assert response is not None
        assert "Sec-WebSocket-Extensions" not in response.headers
        assert "Sec-WebSocket-Protocol" not in response.headers
        assert client.request("_info").content["backend"] == "registry-hub"


# --- C3 to C15: JSON-RPC --------------------------------------------------------------------------


def test_c03_binary_request_is_answered_in_text(client: Conversation) -> None:
    """A request in a binary frame is handled as in a text frame; the answer is text."""
    client.send(b'{"jsonrpc":"2.0","id":"b","method":"_info"}')
    answer = client.answer()  # accepts text frames only
    assert answer.response["id"] == "b"
    assert answer.content["backend"] == "registry-hub"


@pytest.mark.parametrize("message", ["dsdfs fsdsfds", "{ ", "{}", "[", "", '"x"', "[1,", "\0"])
def test_c04_what_is_no_request_is_a_parse_error(client: Conversation, message: str) -> None:
    """A message that is no JSON object or batch gets -32700 with id null, and talk goes on."""
    client.send(message)
    assert client.receive() == PARSE_ERROR
    client.expect_silence()


@pytest.mark.parametrize("blank", [" ", "\n", "\t", "\r"])
def test_c05_128_leading_blanks_are_too_many(client: Conversation, blank: str) -> None:
    """The object must begin within the first 128 bytes; blanks behind it do not count."""
    request = '{"jsonrpc":"2.0","id":5,"method":"nope"}'
    client.send(blank * 128 + request)
    assert client.receive() == PARSE_ERROR
    client.send(blank * 127 + request + blank * 500)
    assert client.receive() == {"jsonrpc": "2.0", "id": 5, "error": METHOD_NOT_FOUND}


@pytest.mark.parametrize(
    "request_",
    [
        {"method": "bar", "id": 1},
        {"jsonrpc": "1.0", "method": "bar", "id": 1},
        {"jsonrpc": 2.0, "method": "bar", "id": 1},
        {"jsonrpc": "2.0", "id": 1},
        {"jsonrpc": "2.0", "method": 5, "id": 1},
        {"jsonrpc": "2.0", "method": None, "id": 1},
    ],
)
def test_c06_invalid_request_keeps_its_id(
    client: Conversation, request_: dict[str, object]
) -> None:
    """An object with a usable id that is no valid request gets -32600 with that id."""
    client.send(request_)
    assert client.receive() == {"jsonrpc": "2.0", "id": 1, "error": INVALID_REQUEST}


def test_c06_duplicate_key_is_an_invalid_request(client: Conversation) -> None:
    """A key that stands twice makes the request invalid, also in other letters."""
    client.send('{"jsonrpc":"2.0","method":"bar","method":"_info","id":1}')
    assert client.receive() == {"jsonrpc": "2.0", "id": 1, "error": INVALID_REQUEST}
    client.send('{"jsonrpc":"2.0","method":"_info","m\\u0065thod":"bar","id":1}')
    assert client.receive() == {"jsonrpc": "2.0", "id": 1, "error": INVALID_REQUEST}


@pytest.mark.parametrize("method", ["bar", "registry_nope", "registry-hub.registry", "", "_info "])
def test_c07_unknown_method(client: Conversation, method: str) -> None:
    """A method that does not exist gets -32601 with the request's id, without data."""
    client.send({"jsonrpc": "2.0", "id": "foo", "method": method})
    assert client.receive() == {"jsonrpc": "2.0", "id": "foo", "error": METHOD_NOT_FOUND}


def test_c08_request_without_id_is_not_executed(client: Conversation) -> None:
    """A notification is neither answered nor carried out."""
    register = {
        "method": "registry.register",
        "params": {"name": "silent", "host": "h", "port": 1},
    }
    client.send({"jsonrpc": "2.0", "method": "registry-hub.call", "params": register})
    client.send({"jsonrpc": "2.0", **register})
    client.send({"jsonrpc": "2.0", "method": "nope"})
    client.expect_silence()
    assert client.call("registry.list", {}).content["backends"] == []


@pytest.mark.parametrize(
    "id",
    ["0", "9007199254740992", "18446744073709551615", '"1"', '""', "null", "-1", '"\\u00e9\\n\\""'],
)
def test_c09_id_is_echoed_unchanged(client: Conversation, id: str) -> None:
    """The id comes back with its value and type: letter by letter as it was sent."""
    client.websocket.send(f'{{"jsonrpc":"2.0","id":{id},"method":"nope"}}')
    assert client.websocket.recv() == (
        f'{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"Method not found"}}}}'
    )
    client.websocket.send(f'{{"jsonrpc":"2.0","id":{id},"method":"_info"}}')
    response = client.websocket.recv()
    assert isinstance(response, str)
    assert response.startswith(f'{{"jsonrpc":"2.0","id":{id},"result":')


@pytest.mark.parametrize("id", ["1.5", "1e3", "true", "[]", "[1]", "{}", "18446744073709551616"])
def test_c09_unusable_id_is_an_invalid_request(client: Conversation, id: str) -> None:
    """An id that is no integer, string or null gets -32600 with id null, not silence."""
    client.send(f'{{"jsonrpc":"2.0","id":{id},"method":"_info"}}')
    assert client.receive() == {"jsonrpc": "2.0", "id": None, "error": INVALID_REQUEST}


def test_c10_unknown_keys_are_ignored(client: Conversation) -> None:
    """Keys that JSON-RPC does not know change nothing."""
    client.send({"foo": {"id": 7}, "jsonrpc": "2.0", "id": 1, "method": "_info", "extra": [1]})
    answer = client.answer()
    assert answer.response["id"] == 1
    assert answer.content["backend"] == "registry-hub"


@pytest.mark.parametrize("params", [(), (None,), ([],), ({},)])
def test_c11_info_takes_any_form_of_no_params(
    client: Conversation, params: tuple[object, ...]
) -> None:
    """``_info`` works with params absent, null, an empty array and an empty object."""
    assert client.request("_info", *params).content["backend"] == "registry-hub"


def test_c12_message_above_the_limit_closes_with_1009(large: Served) -> None:
    """Above 10485760 bytes the connection is closed with 1009; the server goes on."""
    with conversation(large.url) as client:
        client.send(padded(LIMIT))
        assert client.answer().content["backend"] == "registry-hub"
        assert close_code_after(client, padded(LIMIT + 1)) == 1009
    with conversation(large.url) as client:
        client.expect_silence()


def test_c12_limit_is_one_mebibyte_unless_raised(served: Served) -> None:
    """Without the setting a message may take 1 MiB, and one byte more closes with 1009."""
    with conversation(served.url) as client:
        client.send(padded(2**20))
        assert client.answer().content["backend"] == "registry-hub"
        assert close_code_after(client, padded(2**20 + 1)) == 1009


def test_c13_message_of_9_mebibytes_is_handled(large: Served) -> None:
    """A large message is carried out: unknown parameters of 9 MiB do not matter."""
    with conversation(large.url) as client:
        params = {"name": "large", "host": "h", "port": 1, "foo": "x" * (9 * 1024 * 1024)}
        assert client.call("registry.register", params).content["type"] == "backend_registered"


DEEP = 100_000


@pytest.mark.parametrize(
    "message",
    [
        "[" * DEEP + "]" * DEEP,
        "[" * DEEP,
        '{"a":' * DEEP + "1" + "}" * DEEP,
        '{"jsonrpc":"2.0","id":1,"method":"_info","params":' + "[" * DEEP + "]" * DEEP + "}",
        '{"jsonrpc":"2.0","id":1,"method":"registry-hub.call","params":{"method":"registry.get",'
        '"params":' + "[" * DEEP + "]" * DEEP + "}}",
        '{"jsonrpc":"2.0","id":' + "[" * DEEP + "]" * DEEP + ',"method":"_info"}',
    ],
    ids=["arrays", "open-arrays", "objects", "params", "inner-params", "id"],
)
def test_c14_deep_nesting_gets_an_error(client: Conversation, message: str) -> None:
    """JSON nested 100,000 deep gets an error answer, and the server lives."""
    client.send(message)
    response = client.receive()
    [response] = response if isinstance(response, list) else [response]
    assert response["error"]["code"] in (-32700, -32600)
    client.expect_silence()


def test_c15_batch_keeps_its_order(client: Conversation) -> None:
    """The answers of a batch come in one array, in the order of the requests."""
    client.send(
        [
            1,
            {"jsonrpc": "2.0", "id": 1, "method": "nope"},
            {"jsonrpc": "2.0", "method": "x"},
            {"jsonrpc": "2.0", "id": 2, "method": "_info_unsub", "params": [1]},
            {"jsonrpc": "1.0", "id": 3, "method": "_info"},
        ]
    )
    assert client.receive() == [
        {"jsonrpc": "2.0", "id": None, "error": INVALID_REQUEST},
        {"jsonrpc": "2.0", "id": 1, "error": METHOD_NOT_FOUND},
        {"jsonrpc": "2.0", "id": 2, "result": False},
        {"jsonrpc": "2.0", "id": 3, "error": INVALID_REQUEST},
    ]


def test_c15_empty_batch_is_one_invalid_request(client: Conversation) -> None:
    """An empty batch gets a single -32600, not an array."""
    client.send("[]")
    assert client.receive() == {"jsonrpc": "2.0", "id": None, "error": INVALID_REQUEST}


def test_c15_batch_of_scalars(client: Conversation) -> None:
    """Each entry of a batch that is no object gets a -32600 of its own."""
    client.send("[1,2]")
    assert client.receive() == [{"jsonrpc": "2.0", "id": None, "error": INVALID_REQUEST}] * 2


def test_c15_batch_of_notifications_gets_no_answer(client: Conversation) -> None:
    """A batch in which nothing has an id gets no answer at all."""
    client.send([{"jsonrpc": "2.0", "method": "_info"}] * 2)
    client.expect_silence()


def test_c15_subscriptions_of_a_batch_follow_its_array(client: Conversation) -> None:
    """A batch's subscriptions are answered in the array once; their items come after it."""
    register = {"name": "b", "host": "h", "port": 1}
    client.send(
        [
            {"jsonrpc": "2.0", "id": 1, "method": "registry.register", "params": register},
            {"jsonrpc": "2.0", "id": 2, "method": "registry.get", "params": {"name": "b"}},
            {"jsonrpc": "2.0", "id": 3, "method": "_info"},
        ]
    )
    responses = client.receive()
    assert [response["id"] for response in responses] == [1, 2, 3]
    items = [client.receive()["params"] for _ in range(6)]
    expected = [response["result"] for response in responses for _ in range(2)]
    assert [item["subscription"] for item in items] == expected
    assert [item["result"]["type"] for item in items] == ["data", "done"] * 3
    assert items[0]["result"]["content"]["type"] == "backend_registered"
    assert items[2]["result"]["content"]["backend"]["name"] == "b"
    client.expect_silence()


# --- C16 to C20: connections ----------------------------------------------------------------------


def test_c16_requests_need_not_wait_for_answers(client: Conversation) -> None:
    """A hundred requests sent at once are all answered, each stream in its order."""
    for number in range(100):
        if number % 2:
            params = {"name": f"b{number}", "host": "h", "port": number}
            client.send(
                {"jsonrpc": "2.0", "id": number, "method": "registry.register", "params": params}
            )
        else:
            client.send({"jsonrpc": "2.0", "id": number, "method": "_info"})
    streams: dict[int, list[str]] = {}
    answered = set()
    for _ in range(300):
        message = client.receive()
        if "id" in message:
            answered.add(message["id"])
            streams[message["result"]] = []
        else:
            item = message["params"]
            streams[item["subscription"]].append(item["result"]["type"])
    assert answered == set(range(100))
    assert list(streams.values()) == [["data", "done"]] * 100


def test_c17_idle_connection_is_left_alone(served: Served) -> None:
    """No timer runs on an open connection and nothing is sent to it, so it may idle for ever.

    A wait of 120 s would show no more: what ends connections is a timer, and there is none.
    """
    with raw_websocket(served.port) as raw:
        raw.send(text_frame({"jsonrpc": "2.0", "id": 1, "method": "nope"}))
        assert raw.read_frame().json["id"] == 1
        [connection] = served.in_loop(lambda: list(served.server.connections))
        assert connection._timer is None
        readable, _, _ = select.select([raw.socket], [], [], 0.5)
        assert not readable, "an idle client was sent something"
        raw.send(text_frame({"jsonrpc": "2.0", "id": 2, "method": "nope"}))
        assert raw.read_frame().json["id"] == 2


def test_c17_pings_are_ponged(served: Served) -> None:
    """A ping gets a pong with the same data."""
    with raw_websocket(served.port) as raw:
        raw.send(frame(Opcode.PING, b"are you there"))
        assert raw.read_frame() == Received(Opcode.PONG, b"are you there")


@pytest.mark.parametrize("is_reset", [False, True], ids=["fin", "reset"])
def test_c18_dropped_connection_leaves_nothing(
    served: Served, caplog: pytest.LogCaptureFixture, is_reset: bool
) -> None:
    """A TCP connection that ends without a close frame leaks nothing and is no error."""
    caplog.set_level(logging.DEBUG)
    for request in ({"jsonrpc": "2.0", "id": 1, "method": "registry.list"}, None):
        with raw_websocket(served.port) as raw:
            if request is not None:
                raw.send(text_frame(request) * 50)
            assert served.in_loop(lambda: len(served.server.connections)) == 1
            if is_reset:
                raw.reset()
        wait_until(lambda: not served.in_loop(lambda: served.server.connections), "no connection")
    loud = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert loud == []


@pytest.mark.parametrize("path", ["/index.html", "/any?x=1", "/healthz/", "//", "*"])
def test_c19_get_is_answered_with_405(served: Served, path: str) -> None:
    """A GET that asks for no WebSocket and no page gets 405, and is told what would be right."""
    status, headers = http_request(served, "GET", path)
    assert status == 405
    assert headers["Allow"] == "GET"
    assert headers["Upgrade"] == "websocket"
    assert headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/metrics?x=1"])
def test_c19_health_paths_apart(served: Served, path: str) -> None:
    """What monitoring and browsers ask for is there."""
    status, headers = http_request(served, "GET", path)
    assert status == 200
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("content_type", ["text/plain", "application/json"])
def test_c19_post_is_answered_with_405(served: Served, content_type: str) -> None:
    """A POST gets a clean 405, whatever it carries: JSON-RPC is spoken over WebSocket only."""
    body = b'{"jsonrpc":"2.0","id":1,"method":"nope"}'
    status, headers = http_request(
        served, "POST", body=body, headers={"Content-Type": content_type}
    )
    assert status == 405
    assert headers["Allow"] == "GET, HEAD"


def test_c20_connection_above_the_limit_is_refused(settings: Settings) -> None:
    """The connection after the last that is allowed gets HTTP 429, until one leaves."""
    few = dataclasses.replace(settings, max_connections=2)
    with serving(few) as served, conversation(served.url) as first:
        with conversation(served.url):
            with pytest.raises(InvalidStatus) as refused, conversation(served.url):
                pass
            assert refused.value.response.status_code == 429
            first.expect_silence()
        wait_until(
            lambda: served.in_loop(lambda: len(served.server.connections)) == 1, "a free place"
        )
        with conversation(served.url) as third:
            third.expect_silence()
