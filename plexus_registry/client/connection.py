# SPDX-License-Identifier: AGPL-3.0-only
"""One connection to a registry; any number of calls share it at a time."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.protocol import State

from plexus_registry.client.arguments import encoded
from plexus_registry.client.opening import INFO_MAX_BYTES, allow, open_websocket
from plexus_registry.errors import BackendNotFound, InvalidValue, Refused, Unreachable

DEFAULT_TIMEOUT_S = 10.0
REQUEST_MAX_BYTES = 2**20
"""No request needs more; a registry would end the connection, with the calls of others in it."""
ANSWER_MAX_BYTES = 2**27
"""Several times what a registry gives at once unless it is told otherwise (max_answer_size)."""
LOOPBACK = "127.0.0.1"
NO_HUB = "what answers is no Plexus hub"

_NOT_FOUND = "Backend not found: "
_CLOSED = "the connection is closed"

_decode = msgspec.json.Decoder().decode

_NOT_UNDERSTOOD = (msgspec.DecodeError, LookupError, TypeError, AttributeError, RecursionError)


class Broken(Unreachable):
    """The connection ended before an answer came.

    Attributes:
        is_sent: Whether the registry may have got the request.
    """

    def __init__(self, url: str, reason: str, *, is_sent: bool) -> None:
        super().__init__(url, reason)
        self.is_sent = is_sent


class _Stream:
    """What has come of the answer to one request."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.subscription: object = None
        self.content: dict[str, Any] = {}

    def refuse(self, refusal: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(refusal)

    def forget(self) -> None:
        """Take note that nobody waits any more."""
        if not self.answer.cancel() and not self.answer.cancelled():
            self.answer.exception()  # else asyncio would log one that came too late


class Connection:
    """A connection to a registry, to be used as ``async with Connection(url) as registry``.

    Calls may be made side by side; each waits for its own answer.

    Args:
        url: ``ws://HOST:PORT``, ``wss://HOST:PORT`` or ``unix:/PATH``.
        timeout_s: For connecting, and for each call.
        token: To be sent if it is not empty. It is readable on the way, but for ``wss://``.
        ca_file: PEM file of the authorities that a ``wss`` registry's certificate may come from;
            None for those of the system, or of ``$SSL_CERT_FILE`` (OpenSSL).
        answer_max_bytes: How large an answer may be, once it is known who answers.

    Attributes:
        hub: What the hub calls itself.
        local_host: The address by which the registry's side reaches this machine: 127.0.0.1 for a
            registry on it, on a Unix socket or a loopback address.
        end: Why the connection ended, once it has.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        token: str = "",
        ca_file: Path | None = None,
        answer_max_bytes: int = ANSWER_MAX_BYTES,
    ) -> None:
        self.url = url
        self.hub = ""
        self.local_host = LOOPBACK
        self._timeout_s = timeout_s
        self._token = token
        self._ca_file = ca_file
        self._answer_max_bytes = answer_max_bytes
        self._websocket: ClientConnection | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ids = itertools.count(1)
        self._requests: dict[object, _Stream] = {}
        self._subscriptions: dict[object, _Stream] = {}
        self.end = _CLOSED

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect and ask who is there, both within *timeout_s*.

        Raises:
            Unreachable: If nobody answers there, or not as a Plexus hub.
            Refused: If this client, or its token, is not welcome.
            InvalidValue: If the file of authorities cannot be used.
        """
        until = asyncio.get_running_loop().time() + self._timeout_s
        self._websocket = websocket = await open_websocket(
            self.url, timeout_s=self._timeout_s, token=self._token, ca_file=self._ca_file
        )
        self.local_host = _host_of(websocket.local_address)
        self._reading = asyncio.create_task(self._read(websocket))
        try:
            async with asyncio.timeout_at(until):
                hub = (await self._exchange("_info", None))["backend"]
            if not isinstance(hub, str) or not hub:
                raise TypeError
            self.hub = hub
            allow(websocket, self._answer_max_bytes)
        except TimeoutError:
            websocket.transport.abort()  # it had its time
            raise self._late("_info") from None
        except (Refused, LookupError, TypeError) as error:
            raise Unreachable(self.url, NO_HUB) from error
        finally:
            if not self.hub:
                await self.close()

    async def close(self) -> None:
        """Close the connection; calls that wait for an answer fail. Idempotent."""
        websocket, self._websocket = self._websocket, None
        if websocket is None or self._reading is None:
            return
        try:
            await websocket.close()
            await asyncio.wait([self._reading])
        finally:
            if websocket.state is not State.CLOSED:  # whoever closes it has no time left
                websocket.transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, from whichever side."""
        if self._reading is not None:
            await asyncio.wait([self._reading])

    @property
    def is_open(self) -> bool:
        """Whether a call can be sent."""
        return self._websocket is not None and self._websocket.state is State.OPEN

    async def call(self, method: str, params: object = None) -> dict[str, Any]:
        """Call a method through the hub and return its event.

        Args:
            method: With its namespace, as in ``registry.get``.
            params: Anything that JSON can hold.

        Raises:
            Refused: If the call failed; with the registry's own words. `BackendNotFound` if it
                failed for that.
            Unreachable: If the answer did not come.
            InvalidValue: If JSON cannot hold it, or it is larger than any registry takes.
        """
        return self._event(await self.request(*self._routed(method, params)))

    async def request(self, method: str, params: object) -> dict[str, Any]:
        """Start the subscription *method* and return the content of its data item.

        Raises:
            Refused: If it was refused; with the registry's own words.
            Unreachable: If the answer did not come.
            InvalidValue: If JSON cannot hold it, or it is larger than any registry takes.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(method, params)
        except TimeoutError:
            raise self._late(method) from None

    def _late(self, method: str) -> Unreachable:
        return Unreachable(self.url, f"no answer to {method} within {self._timeout_s:g} s")

    async def exchange(self, method: str, params: object) -> dict[str, Any]:
        """Do as `call` does, without a limit of time of its own.

        Raises:
            Broken: If the connection ended before the answer.
        """
        return self._event(await self._exchange(*self._routed(method, params)))

    def _routed(self, method: str, params: object) -> tuple[str, dict[str, object]]:
        return f"{self.hub}.call", {"method": method, "params": params}

    def _event(self, event: dict[str, Any]) -> dict[str, Any]:
        if event.get("type") == "error":
            message = str(event.get("message"))
            raise (BackendNotFound if message.startswith(_NOT_FOUND) else Refused)(message)
        return event

    async def _exchange(self, method: str, params: object) -> dict[str, Any]:
        id = next(self._ids)
        request = encoded({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
        if len(request) > REQUEST_MAX_BYTES:
            accepted = f"what is at most {REQUEST_MAX_BYTES} bytes of JSON, not {len(request)}"
            raise InvalidValue("params", params, accepted)
        if self._websocket is None or self._websocket.state is not State.OPEN:
            await self.wait_closed()  # which tells why
            raise Broken(self.url, self.end, is_sent=False)
        stream = self._requests[id] = _Stream()
        try:
            await self._websocket.send(request.decode())
            return await stream.answer
        except ConnectionClosed as error:
            raise Broken(self.url, str(error), is_sent=True) from error
        finally:
            self._requests.pop(id, None)
            self._subscriptions.pop(stream.subscription, None)
            stream.forget()

    async def _read(self, websocket: ClientConnection) -> None:
        broken: Unreachable | None = None
        try:
            while True:
                self._take(_decode(await websocket.recv()))
        except ConnectionClosed as error:
            self.end = str(error)
            if error.sent is not None and error.sent.code == CloseCode.MESSAGE_TOO_BIG:
                max_bytes = self._answer_max_bytes if self.hub else INFO_MAX_BYTES
                self.end = f"it answers with more than {max_bytes} bytes at once"
                broken = Unreachable(self.url, self.end)  # as it would each time
        except _NOT_UNDERSTOOD:
            self.end = NO_HUB
        finally:
            for stream in self._requests.values():
                stream.refuse(broken or Broken(self.url, self.end, is_sent=True))
        await websocket.close()

    def _take(self, frame: dict[str, Any]) -> None:
        """Give a frame to the request that it belongs to; what belongs to none is left alone."""
        if "id" in frame:
            stream = self._requests.get(frame["id"])
            if stream is None:
                return
            if "error" in frame:
                stream.refuse(Refused(_words_of(frame["error"])))
            else:
                self._subscriptions.pop(stream.subscription, None)
                self._subscriptions[frame["result"]] = stream
                stream.subscription = frame["result"]
            return
        params = frame["params"]
        stream = self._subscriptions.get(params["subscription"])
        if stream is None or stream.answer.done():
            return
        item = params["result"]
        if item["type"] == "error":
            stream.refuse(Refused(str(item["message"])))
        elif item["type"] == "done":
            stream.answer.set_result(stream.content)
        elif item["type"] == "data":
            if not isinstance(item["content"], dict):
                raise TypeError
            stream.content = item["content"]


def _host_of(address: object) -> str:
    if not isinstance(address, tuple):  # the address of a Unix socket is text
        return LOOPBACK
    host = str(address[0])
    return LOOPBACK if ipaddress.ip_address(host.partition("%")[0]).is_loopback else host


def _words_of(error: dict[str, Any]) -> str:
    data = error.get("data")
    return f"{error['message']}: {data}" if data else str(error["message"])
