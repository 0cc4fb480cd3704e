# SPDX-License-Identifier: AGPL-3.0-only
"""One client's conversation: messages in, messages out, in whatever order the answers come.

The owner of the connection feeds it like this::

    session.receive(message)             # only while not session.is_busy
    while session.is_busy and session.advance():
        ...                              # send what is there, stop if the peer does not read
    for message in session.messages_to_send():
        ...

Answers that have to wait for the disk come later; `on_output` then tells that there is something
to send. A change that was asked for is carried out even if its client is gone by then; what it
asked to read is not, for nobody would get it (`abandon`).

Whatever a call raises that it should not is told to the client as an internal error, with an id
by which the log tells the operator what happened; the conversation goes on.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Final

import msgspec

from plexus_registry.access import Client
from plexus_registry.protocol import jsonrpc
from plexus_registry.protocol.arguments import subscription_named_in
from plexus_registry.protocol.call import Call
from plexus_registry.protocol.hub import Hub
from plexus_registry.protocol.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    NULL,
    PARSE_ERROR,
    Request,
    RpcError,
)
from plexus_registry.protocol.streams import (
    HUB_NOTIFICATION,
    SUBSCRIPTION_ID_MAX,
    CallError,
    ErrorStream,
)

logger = logging.getLogger(__name__)

TRACEBACKS_MAX: Final = 10
"""How many tracebacks one session may bring into the log."""


class Session:
    """The conversation with one client.

    Args:
        hub: What can be called.
        client: Who it is with.
        on_output: Called when an answer is there that `receive` or `advance` did not produce.

    Attributes:
        pending: How many calls have begun and wait for their answer.
        answered: How many were answered in this turn; the owner sets it back.
        unsent_bytes: About how much there is in `messages_to_send`.
    """

    def __init__(self, hub: Hub, *, client: Client, on_output: Callable[[], None]) -> None:
        self.pending = 0
        self.answered = 0
        self.unsent_bytes = 0
        self._tracebacks = 0
        self._hub = hub
        self._now = hub.now
        self._client = client
        self._on_output = on_output
        self._out: list[bytes] = []
        self._in_turn = False
        self._only_writes_pending = True
        self._is_abandoned = False
        self._entries: deque[msgspec.Raw] = deque()
        self._responses: list[bytes] = []
        self._responses_bytes = 0
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
        self.unsent_bytes = self._responses_bytes
        return out

    def receive(self, message: bytes) -> None:
        """Take one message and carry out what it asks for. Never raises for bad input."""
        self._in_turn = True
        request = None
        try:
            if message[:1] != b"{" and self._hub.batch_limit.is_exceeded_by(message):
                limit = (
                    f"a batch has at most {self._hub.batch_limit.max_entries} entries (max_batch)"
                )
                raise RpcError(INVALID_REQUEST, data=limit)
            nesting = self._hub.nesting_limit
            try:
                parts = jsonrpc.split(message)
                asked = jsonrpc.parse(parts) if isinstance(parts, bytes) else parts
            except RecursionError:
                raise RpcError(PARSE_ERROR, data=nesting.rule) from None
            if len(message) > nesting.shallow_bytes and nesting.is_exceeded_by(message):
                raise RpcError(PARSE_ERROR, data=nesting.rule)
            if isinstance(asked, Request):
                request = asked
                self._receive_single(request)
            else:
                self._entries.extend(asked)
        except RpcError as fault:
            self._out.append(self._refuse(fault))
        except Exception as error:
            self._out.append(self._internal_error(error, request))
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
        if self._is_abandoned and not call.changes:
            self._batch.popleft()
            return True
        if self.pending and not (call.is_write and self._only_writes_pending):
            return False
        self._batch.popleft()
        self._in_turn = True
        try:
            self._run(call, None, subscription)
        except Exception as error:
            self._fail_stream(error, subscription)
        finally:
            self._in_turn = False
        return True

    def abandon(self) -> None:
        """Take note that the client is gone: from now on only what changes is carried out."""
        self._is_abandoned = True

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
        return self._refuse(fault)

    def _refuse(self, fault: RpcError) -> bytes:
        self._hub.counts.invalid.answers += 1
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
        request = None
        try:
            request = jsonrpc.parse(entry, in_batch=True)
            if request.id is not None:
                self._respond_in_batch(self._accept(request, request.id))
        except RpcError as fault:
            self._respond_in_batch(self._refuse(fault))
        except Exception as error:
            self._respond_in_batch(self._internal_error(error, request))

    def _accept(self, request: Request, id: bytes) -> bytes:
        """Answer a request of a batch; its call runs once the whole batch is read."""
        try:
            call = self._hub.prepare(request.method, request.params)
        except RpcError as fault:
            return self._answer_without_call(request, fault)
        subscription = next(self._ids)
        self._announced.add(subscription)
        self._batch.append((subscription, call))
        return jsonrpc.accepted(id, subscription)

    def _respond_in_batch(self, response: bytes) -> None:
        self._responses.append(response)
        self._responses_bytes += len(response)
        self.unsent_bytes += len(response)

    def _answer_batch(self) -> None:
        responses, self._responses, self._responses_bytes = self._responses, [], 0
        if responses:
            self._out.append(b"[%b]" % b",".join(responses))

    # --- running ----------------------------------------------------------------------------------

    def _run(self, call: Call, id: bytes | None, subscription: int) -> None:
        """Run a call; its response (if *id* is given) and its stream leave together."""
        if self._is_abandoned and not call.changes:
            return
        is_answered = False
        began_ns = 0
        stream = call.stream

        def reply(contents: Sequence[bytes]) -> None:
            nonlocal is_answered
            if is_answered:
                return
            frames = stream.frames(subscription, self._now(), contents)
            is_answered = True
            stream.count.answers += 1
            self.pending -= 1
            if id is not None:
                self._out.append(jsonrpc.accepted(id, subscription))
                self._add_stream(frames, contents)
            elif subscription in self._announced:
                self._announced.remove(subscription)
                self._add_stream(frames, contents)
            if self._in_turn:
                self.answered += 1
            else:
                self._hub.counts.deferred.add(perf_counter_ns() - began_ns)
                self._on_output()

        self._only_writes_pending = call.is_write and (
            not self.pending or self._only_writes_pending
        )
        self.pending += 1
        try:
            call.handler(call.values, self._client, reply)
        except Exception as error:
            if is_answered:
                self._log_error(error)
                return
            is_answered = True  # by whoever catches this: a reply that comes yet is too late
            self.pending -= 1
            raise
        if not is_answered:
            began_ns = perf_counter_ns()

    def _add_stream(self, frames: list[bytes], contents: Sequence[bytes]) -> None:
        for content in contents:
            self.unsent_bytes += len(content)
        self._out += frames

    # --- internal errors --------------------------------------------------------------------------

    def _internal_error(self, error: Exception, request: Request | None) -> bytes:
        """Log *error* and return the answer that tells of it."""
        id = NULL if request is None or request.id is None else request.id
        return jsonrpc.error(RpcError(INTERNAL_ERROR, id, data=self._log_error(error)))

    def _fail_stream(self, error: Exception, subscription: int) -> None:
        """Log *error* and end a subscription that the client knows of already."""
        reference = self._log_error(error)
        if subscription not in self._announced:
            return
        self._announced.remove(subscription)
        hub = self._hub
        stream = ErrorStream(
            notification=HUB_NOTIFICATION,
            provenance=[hub.namespace],
            plexus_hash=hub.schemas.hash,
        )
        fault = CallError(f"Internal error: {reference}", INTERNAL_ERROR)
        self._out += stream.frames(subscription, self._now(), [ErrorStream.content(fault)])

    def _log_error(self, error: Exception) -> str:
        """Log an error that should not be; return what the log line is found by."""
        reference = f"{random.getrandbits(32):08x}"
        self._tracebacks += 1
        self._hub.counts.faults += 1
        shown = error if self._tracebacks <= TRACEBACKS_MAX else None
        logger.error(
            "internal error reference=%s peer=%s error=%s",
            reference,
            self._client.label,
            type(error).__name__,
            exc_info=shown,
        )
        return reference
