# SPDX-License-Identifier: AGPL-3.0-only
"""The method table: which names exist, what each takes, and what it does (wire protocol, 2 to 5).

A name is answered in one of two ways. *Routed*, through ``registry-hub.call``: faults of routing
and of parameters are ``error`` items of an accepted subscription. *Direct*: they are JSON-RPC
errors, and no subscription starts. Either way comes down to a `Call`, ready to run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from plexus_registry.access import Access, Client
from plexus_registry.errors import quote
from plexus_registry.protocol import methods, schema
from plexus_registry.protocol.activation import Activation
from plexus_registry.protocol.arguments import call_arguments, decoded, method_asked_for
from plexus_registry.protocol.batch import DEFAULT_MAX_BATCH, BatchLimit
from plexus_registry.protocol.call import Call, Handler, Reply, constant
from plexus_registry.protocol.counts import Counts
from plexus_registry.protocol.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, RpcError
from plexus_registry.protocol.methods import ACTIVATION, Method, Right
from plexus_registry.protocol.nesting import DEFAULT_MAX_NESTING, NestingLimit
from plexus_registry.protocol.parameters import Mismatch, read_direct, read_routed
from plexus_registry.protocol.status import Facts, StatusReport
from plexus_registry.protocol.streams import (
    HUB_NOTIFICATION,
    CallError,
    ErrorStream,
    Stream,
)
from plexus_registry.registry import Registry

DEFAULT_NAMESPACE = "registry-hub"
SHOWN_NAME_MAX_CHARACTERS = 128
DEFAULT_MAX_NESTED_CALLS = 8
DEFAULT_MAX_ANSWER_BYTES = 40 * 1024 * 1024

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


Direct = Callable[[msgspec.Raw], Call]
"""Prepares a direct call from its params; raises `RpcError` without an id."""

Routed = Callable[[msgspec.Raw, int], Call]
"""Prepares a routed call from its params and its depth; raises `CallError`."""


class Hub:
    """Everything that can be called, bound to one registry.

    Args:
        registry: What the calls read and change.
        namespace: The hub's name, by which it introduces itself.
        version: The program's version, told in ``_info``.
        access: Who may call what writes; clients of this machine unless given.
        facts: Returns what ``registry.status`` tells of sockets and files.
        max_batch: How many entries a batch may have.
        max_answer_bytes: How large a listing may be.
        max_nested_calls: How deep calls of the hub through itself may be nested.
        max_nesting: How deep the JSON of a message may be nested.

    Attributes:
        namespace: As given.
        access: As given.
        counts: What was asked of it.
        status: Tells how the registry is doing.
        batch_limit: Tells batches that are too long.
        nesting_limit: Tells messages that are nested too deep.
        schemas: What is published.
        now: Returns the time that goes into answers, in Unix seconds.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        version: str = "",
        access: Access | None = None,
        facts: Callable[[], Facts] = Facts,
        max_batch: int = DEFAULT_MAX_BATCH,
        max_nested_calls: int = DEFAULT_MAX_NESTED_CALLS,
        max_nesting: int = DEFAULT_MAX_NESTING,
        max_answer_bytes: int = DEFAULT_MAX_ANSWER_BYTES,
    ) -> None:
        self.namespace = namespace
        self.access = Access() if access is None else access
        self.schemas = schema.describe(namespace)
        self.now = registry.now
        self.counts = Counts()
        self.batch_limit = BatchLimit(max_batch)
        self.nesting_limit = NestingLimit(max_nesting)
        self._max_nested_calls = max_nested_calls
        self._registry = registry
        self.status = StatusReport(registry, self.access, version, facts)
        self._handlers = Activation(
            registry, self.access, self.status, self.counts, max_answer_bytes=max_answer_bytes
        ).handlers
        self._direct: dict[str, Direct] = {}
        self._routed: dict[str, Routed] = {}
        self._unsubscribe: set[str] = set()
        self._errors = ErrorStream(
            notification=HUB_NOTIFICATION,
            provenance=[namespace],
            plexus_hash=self.schemas.hash,
            count=self.counts.invalid,
        )
        self._add_info(version)
        self._add_hub_methods()
        for method in methods.REGISTRY_METHODS:
            self._add_registry_method(method)
        self._add_activation_schema()

    # --- looking up -------------------------------------------------------------------------------

    def prepare(self, method: str, params: msgspec.Raw) -> Call:
        """Prepare the subscription that a request asks for.

        Raises:
            RpcError: If there is no such subscription or its params do not fit; without an id.
        """
        prepare = self._direct.get(method)
        if prepare is None:
            raise RpcError(METHOD_NOT_FOUND)
        return prepare(params)

    def is_unsubscribe(self, method: str) -> bool:
        """Tell whether the name ends a subscription."""
        return method in self._unsubscribe

    def respond(self, method: str, params: msgspec.Raw) -> None:
        """Refuse ``<namespace>.respond``: no stream of a registry ever asks for a response.

        Raises:
            RpcError: Always, if *method* is that name; without an id.
        """
        if method != f"{self.namespace}.respond":
            return
        try:
            given = decoded(params)
        except Mismatch as fault:
            raise RpcError(INVALID_PARAMS, data=str(fault)) from None
        if not isinstance(given, dict) or not isinstance(given.get("request_id"), str):
            raise RpcError(INVALID_PARAMS, data="expected request_id and response_data")
        if "response_data" not in given:
            raise RpcError(INVALID_PARAMS, data="missing field `response_data`")
        raise RpcError(
            INVALID_PARAMS,
            message=f"Unknown request ID: {_shown(given['request_id'])}."
            " The request may have timed out or been cancelled.",
        )

    # --- building the table -----------------------------------------------------------------------

    def _stream(
        self, content_type: str, provenance: Sequence[str], notification: str = HUB_NOTIFICATION
    ) -> Stream:
        method = content_type.rpartition(".")[2].removeprefix("method_")
        return Stream(
            notification=notification,
            provenance=provenance,
            content_type=content_type,
            plexus_hash=self.schemas.hash,
            count=self.counts.of(method),
        )

    def _add_info(self, version: str) -> None:
        info: dict[str, Any] = {"backend": self.namespace}
        if version:
            info["version"] = version
        info["auth_capabilities"] = {"mechanisms": [{"kind": "anonymous"}]}
        call = Call(self._stream("_info", []), constant, (_encode(info),))
        self._direct["_info"] = lambda params: call
        self._unsubscribe.add("_info_unsub")

    def _add_hub_methods(self) -> None:
        hub, hash = self.namespace, self.schemas.hash
        contents = {
            "hash": _encode({"event": "hash", "value": hash}),
            "hashes": _encode(self.schemas.hashes),
        }
        for name, content in contents.items():
            direct = Call(self._stream(f"{hub}.{name}", [hub]), constant, (content,))
            routed = Call(self._stream(f"plexus.{name}", ["plexus"]), constant, (content,))
            self._direct[f"{hub}.{name}"] = partial(_ignoring_params, direct)
            self._routed[f"{hub}.{name}"] = partial(_ignoring_params, routed)
        self._add_schema(hub, self.schemas.hub, f"{hub}.schema", "plexus.schema", "plexus")
        self._direct[f"{hub}.call"] = self._prepare_call
        self._routed[f"{hub}.call"] = self._prepare_nested_call
        self._wrapping = self._stream("plexus.call", ["plexus"])
        self._unsubscribe |= {
            f"{hub}.{name}_unsub" for name in ("call", "hash", "hashes", "schema")
        }

    def _add_activation_schema(self) -> None:
        self._add_schema(
            ACTIVATION, self.schemas.registry, "registry.schema", "registry.schema", ACTIVATION
        )
        content = _encode({"event": "hash", "value": self.schemas.hash})
        call = Call(self._stream("registry.hash", [ACTIVATION]), constant, (content,))
        self._direct["registry.hash"] = partial(_ignoring_params, call)
        self._direct["registry_hash"] = partial(_ignoring_params, call)
        self._direct["registry_schema"] = self._direct["registry.schema"]
        for name in ("hash", "schema"):
            self._unsubscribe |= _unsubscribe_names(name)
        self._add_routed("hash", partial(_ignoring_params, call))
        self._add_routed("schema", self._routed["registry.schema"])
        method_schema = self._stream("registry.method_schema", [ACTIVATION])
        for document in self.schemas.registry["methods"]:
            call = Call(method_schema, constant, (_encode(document),))
            self._add_routed(f"{document['name']}.schema", partial(_ignoring_params, call))

    def _add_schema(
        self, namespace: str, plugin: dict[str, Any], direct_type: str, routed_type: str, via: str
    ) -> None:
        whole = _encode(plugin)
        single = {method["name"]: _encode(method) for method in plugin["methods"]}

        def prepare(
            params: msgspec.Raw, stream: Stream, unknown: Callable[[str], Exception]
        ) -> Call:
            name = method_asked_for(params)
            if name is None:
                return Call(stream, constant, (whole,))
            if name not in single:
                raise unknown(name)
            return Call(stream, constant, (single[name],))

        def no_such_method(name: str) -> Exception:
            return RpcError(INVALID_PARAMS, data=f"no method {quote(name)} in {namespace}")

        def no_such_routed_method(name: str) -> Exception:
            return CallError(f"Method not found: {via}.{_shown(name)}", METHOD_NOT_FOUND)

        direct = self._stream(direct_type, [namespace])
        routed = self._stream(routed_type, [via])
        self._direct[f"{namespace}.schema"] = partial(
            prepare, stream=direct, unknown=no_such_method
        )
        self._routed[f"{namespace}.schema"] = lambda params, depth: prepare(
            params, routed, no_such_routed_method
        )

    def _add_registry_method(self, method: Method) -> None:
        name, handler = method.name, self._handlers[method.name]
        content_type = f"{ACTIVATION}.{name}"
        stream = self._stream(content_type, [ACTIVATION])
        for direct_name, notification in (
            (f"{ACTIVATION}.{name}", HUB_NOTIFICATION),
            (f"{ACTIVATION}_{name}", f"{ACTIVATION}_{name}"),
        ):
            direct = self._stream(content_type, [ACTIVATION], notification)
            self._direct[direct_name] = _direct(method, direct, handler)
        self._unsubscribe |= _unsubscribe_names(name)
        self._add_routed(name, _routed(method, stream, handler))

    def _add_routed(self, name: str, prepare: Routed) -> None:
        self._routed[f"{ACTIVATION}.{name}"] = prepare
        self._routed[f"{self.namespace}.{ACTIVATION}.{name}"] = prepare

    # --- the hub's own methods --------------------------------------------------------------------

    def _prepare_call(self, params: msgspec.Raw) -> Call:
        try:
            asked = call_arguments(params)
        except Mismatch as fault:
            raise RpcError(INVALID_PARAMS, data=str(fault)) from None
        prepare = self._routed.get(asked.method)
        try:
            if prepare is None:
                raise self._no_route(asked.method)
            return prepare(asked.params, 0)
        except CallError as fault:
            return Call(self._errors, constant, (ErrorStream.content(fault),))

    def _no_route(self, method: str) -> CallError:
        own, start = f"{self.namespace}.", 0
        while method.startswith(own, start) and method.find(".", start + len(own)) >= 0:
            start += len(own)
        namespace, dot, name = method[start:].partition(".")
        if not dot:
            shown = _shown(method)
            return CallError(f"Invalid params: Invalid method format: {shown}", INVALID_PARAMS)
        if namespace not in (self.namespace, ACTIVATION):
            return CallError(f"Activation not found: {_shown(namespace)}", METHOD_NOT_FOUND)
        name = name.removesuffix(".schema")
        return CallError(f"Method not found: {namespace}.{_shown(name)}", METHOD_NOT_FOUND)

    def _prepare_nested_call(self, params: msgspec.Raw, depth: int) -> Call:
        """Prepare a call of the hub through itself: its items become data items of the outer."""
        if depth >= self._max_nested_calls:
            raise CallError(
                f"Invalid params: calls nested deeper than {self._max_nested_calls}", INVALID_PARAMS
            )
        try:
            asked = call_arguments(params)
        except Mismatch as fault:
            raise CallError(f"Invalid params: {fault}", INVALID_PARAMS) from None
        prepare = self._routed.get(asked.method)
        if prepare is None:
            raise self._no_route(asked.method)
        inner = prepare(asked.params, depth + 1)
        streams = (inner.stream,)
        if inner.stream is self._wrapping:
            inner, streams = inner.values[0], (*inner.values[1], self._wrapping)
        values = (inner, streams)
        return Call(self._wrapping, self._run_nested, values, inner.is_write, inner.changes)

    def _run_nested(self, values: Sequence[Any], client: Client, reply: Reply) -> None:
        inner, streams = values

        def wrap(contents: Sequence[bytes]) -> None:
            # One level after the other, so that a large answer is not held once for each.
            for stream in streams:
                stream.count.answers += 1
                contents = stream.items(self.now(), contents)
            reply(contents)

        inner.handler(inner.values, client, wrap)


# --- preparing ----------------------------------------------------------------------------------


def _ignoring_params(call: Call, params: msgspec.Raw, depth: int = 0) -> Call:
    return call


def _direct(method: Method, stream: Stream, handler: Handler) -> Direct:
    changes = method.right is Right.WRITE

    def prepare(params: msgspec.Raw) -> Call:
        try:
            values = read_direct(method.parameters, decoded(params)) if method.parameters else []
        except Mismatch as fault:
            raise RpcError(INVALID_PARAMS, data=str(fault)) from None
        return Call(stream, handler, values, method.is_write, changes)

    return prepare


def _routed(method: Method, stream: Stream, handler: Handler) -> Routed:
    parameters, takes_bare_value = method.parameters, method.takes_bare_value
    is_write, changes = method.is_write, method.right is Right.WRITE

    def prepare(params: msgspec.Raw, depth: int) -> Call:
        try:
            values = (
                read_routed(parameters, decoded(params), takes_bare_value=takes_bare_value)
                if parameters
                else []
            )
        except Mismatch as fault:
            raise CallError(f"Invalid params: {fault}", INVALID_PARAMS) from None
        return Call(stream, handler, values, is_write, changes)

    return prepare


def _unsubscribe_names(method: str) -> set[str]:
    return {f"{ACTIVATION}_unsubscribe_{method}", f"{ACTIVATION}.unsubscribe_{method}"}


def _shown(name: str) -> str:
    """Bound a peer's text where a message repeats it."""
    return name if len(name) <= SHOWN_NAME_MAX_CHARACTERS else quote(name)
