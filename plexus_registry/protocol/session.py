# SPDX-License-Identifier: AGPL-3.0-only
"""One client's conversation: messages in, messages out, in whatever order the answers come.

The owner of the connection feeds it like this::

    session.receive(message)             # only while not session.is_busy
    while session.is_busy and session.advance():
        ...                              # send what is there, stop if the peer does not read
    for message in session.messages_to_send():
        ...

Answers that have to wait for the disk come later; `on_output` then tells that there is something
to send. A request that was received is carried out even if its client is gone by then.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from plexus_registry.protocol import jsonrpc
from plexus_registry.protocol.call import Call
from plexus_registry.protocol.hub import Hub, subscription_named_in
from plexus_registry.protocol.jsonrpc import METHOD_NOT_FOUND, Request, RpcError
from plexus_registry.protocol.streams import SUBSCRIPTION_ID_MAX


class Session:
    """The conversation with one client.

    Args:
        hub: What can be called.
        peer: Who the client is, for the log.
        on_output: Called when an answer is there that `receive` or `advance` did not produce.

    Attributes:
        pending: How many calls have begun and wait for their answer.
        unsent_bytes: About how much there is in `messages_to_send`.
    """

    def __init__(self, hub: Hub, *, peer: str, on_output: Callable[[], None]) -> None:
        self.pending = 0
        self.unsent_bytes = 0
        self._hub = hub
        self._now = hub.now
        self._peer = peer
        self._on_output = on_output
        self._out: list[bytes] = []
        self._in_turn = False
        self._only_writes_pending = True
        self._entries: deque[msgspec.Raw] = deque()
        self._responses: list[bytes] = []
        self._batch: deque[tuple[int, Call]] = deque()
        # Subscriptions whose ids the client has been told before their streams are there.
        self._announced: set[int] = set()
        # Ids need not be secret, only distinct: a random start, then one after another.
        self._ids = itertools.count(random.randrange(SUBSCRIPTION_ID_MAX // 2))

    @property
    def is_busy(self) -> bool:
        """Whether there is more to do for a batch; no message is taken meanwhile."""
        return bool(self._entries or self._batch)

    def messages_to_send(self) -> list[bytes]:
        """Take the messages that are ready, in their order. Each is UTF-8 text."""
        out, self._out = self._out, []
        self.unsent_bytes = 0
        return out

    def receive(self, message: bytes) -> None:
        """Take one message and carry out what it asks for. Never raises for bad input."""
        self._in_turn = True
        try:
            parts = jsonrpc.split(message)
            if isinstance(parts, bytes):
                self._receive_single(jsonrpc.parse(parts))
            else:
                self._entries.extend(parts)
        except RpcError as fault:
            self._out.append(jsonrpc.error(fault))
        finally:
            self._in_turn = False

    def advance(self) -> bool:
        """Go one step on with a batch: read an entry, or start a call once all are read.

        The array of responses comes first, then the streams, one after another: whether a
        subscription is accepted is known before it runs. The calls of a batch run in order, so
        one that reads waits for those before it that write. Writes follow one another without
        waiting, to share a commit.

        Returns:
            False if nothing could be started now; `on_output` tells when to try again.
        """
        if self._entries:
            self._take_entry(self._entries.popleft())
            if not self._entries:
                self._answer_batch()
            return True
        if not self._batch:
            return False
        subscription, call = self._batch[0]
        if self.pending and not (call.is_write and self._only_writes_pending):
            return False
        self._batch.popleft()
        self._in_turn = True
        try:
            self._run(call, None, subscription)
        finally:
            self._in_turn = False
        return True

    # --- single messages --------------------------------------------------------------------------

    def _receive_single(self, request: Request) -> None:
        if request.id is None:
            return
        try:
            call = self._hub.prepare(request.method, request.params)
        except RpcError as fault:
            self._out.append(self._answer_without_call(request, fault))
        else:
            self._run(call, request.id, next(self._ids))

    def _answer_without_call(self, request: Request, fault: RpcError) -> bytes:
        """Answer a request that starts no subscription: *fault* says why it does not."""
        assert request.id is not None
        if fault.code == METHOD_NOT_FOUND:
            if self._hub.is_unsubscribe(request.method):
                ended = self._unsubscribe(request.params)
                return jsonrpc.result(request.id, b"true" if ended else b"false")
            try:
                self._hub.respond(request.method, request.params)
            except RpcError as refusal:
                fault = refusal
        fault.id = request.id
        return jsonrpc.error(fault)

    def _unsubscribe(self, params: msgspec.Raw) -> bool:
        """End the subscription that *params* name; tell whether it was active.

        A stream is over when its answer is sent, so only those of a batch can be active.
        """
        subscription = subscription_named_in(params)
        if subscription not in self._announced:
            return False
        self._announced.remove(subscription)
        return True

    # --- batches ----------------------------------------------------------------------------------

    def _take_entry(self, entry: msgspec.Raw) -> None:
        try:
            request = jsonrpc.parse(entry, in_batch=True)
        except RpcError as fault:
            self._responses.append(jsonrpc.error(fault))
            return
        if request.id is None:
            return
        try:
            call = self._hub.prepare(request.method, request.params)
        except RpcError as fault:
            self._responses.append(self._answer_without_call(request, fault))
        else:
            subscription = next(self._ids)
            self._responses.append(jsonrpc.accepted(request.id, subscription))
            self._announced.add(subscription)
            self._batch.append((subscription, call))

    def _answer_batch(self) -> None:
        responses, self._responses = self._responses, []
        if responses:
            answer = b"[%b]" % b",".join(responses)
            self.unsent_bytes += len(answer)
            self._out.append(answer)

    # --- running ----------------------------------------------------------------------------------

    def _run(self, call: Call, id: bytes | None, subscription: int) -> None:
        """Run a call; its response (if *id* is given) and its stream leave together."""

        def reply(contents: Sequence[bytes]) -> None:
            self.pending -= 1
            if id is not None:
                self._out.append(jsonrpc.accepted(id, subscription))
                self._add_stream(call, subscription, contents)
            elif subscription in self._announced:
                self._announced.remove(subscription)
                self._add_stream(call, subscription, contents)
            if not self._in_turn:
                self._on_output()

        self._only_writes_pending = call.is_write and (
            not self.pending or self._only_writes_pending
        )
        self.pending += 1
        call.handler(call.values, self._peer, reply)

    def _add_stream(self, call: Call, subscription: int, contents: Sequence[bytes]) -> None:
        for content in contents:
            self.unsent_bytes += len(content)
        self._out += call.stream.frames(subscription, self._now(), contents)
