# SPDX-License-Identifier: AGPL-3.0-only
"""The ``registry`` activation: parameter values in, events of the registry out, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from plexus_registry import rules
from plexus_registry.access import Access, Client
from plexus_registry.backend import Source
from plexus_registry.errors import AnswerTooLarge, InvalidValue
from plexus_registry.protocol.call import Handler, Reply
from plexus_registry.protocol.counts import Count, Counts
from plexus_registry.protocol.methods import REGISTRY_METHODS, Right
from plexus_registry.protocol.status import StatusReport
from plexus_registry.registry import Registry

_encode = msgspec.json.Encoder().encode


class Activation:
    """The methods of the registry.

    Args:
        registry: What they read and change.
        access: Who may call those that write. Those that read cost nothing for it.
        status: Tells how the registry is doing.
        counts: Counts what failed.
        max_answer_bytes: How large a listing may be.

    Attributes:
        handlers: By name, for the table of `methods.REGISTRY_METHODS`.
    """

    def __init__(
        self,
        registry: Registry,
        access: Access,
        status: StatusReport,
        counts: Counts,
        *,
        max_answer_bytes: int,
    ) -> None:
        self._registry = registry
        self._max_answer_bytes = max_answer_bytes
        self._counts = counts
        self._status = status
        handlers: dict[str, Handler] = {
            "register": self._register,
            "list": self._list,
            "get": self._get,
            "update": self._update,
            "delete": partial(self._submit_named, rules.Delete),
            "ping": partial(self._submit_named, rules.Ping),
            "deregister": partial(self._submit_named, rules.Deregister),
            "reload": self._reload,
            "status": self._tell_status,
        }
        rights = {method.name: method.right for method in REGISTRY_METHODS}
        self.handlers = {
            name: _guarded(name, handler, access, counts.of(name))
            if rights[name] is Right.WRITE
            else handler
            for name, handler in handlers.items()
        }

    def _get(self, values: Sequence[Any], client: Client, reply: Reply) -> None:
        entry = self._registry.catalog.get_json(values[0]) or b"null"
        reply((b'{"type":"backend","backend":%b}' % entry,))

    def _list(self, values: Sequence[Any], client: Client, reply: Reply) -> None:
        active_only, limit, after = values
        try:
            entries = self._registry.catalog.list_json(
                active_only=active_only,
                limit=limit,
                after=after,
                max_bytes=self._max_answer_bytes,
            )
        except (InvalidValue, AnswerTooLarge) as fault:
            self._counts.of("list").errors += 1
            reply((_encode(rules.Failed(f"Failed to list backends: {fault}")),))
        else:
            reply((b'{"type":"backends","backends":%b}' % entries,))

    def _register(self, values: Sequence[Any], client: Client, reply: Reply) -> None:
        name, host, port, protocol, description, namespace, version, metadata, source = values
        request = rules.Register(
            name=name,
            host=host,
            port=port,
            protocol=protocol,
            description=description,
            namespace=namespace,
            version=version,
            metadata=metadata,
            source=Source.AUTO if source == Source.AUTO else Source.MANUAL,
        )
        self._submit("register", request, client, reply)

    def _update(self, values: Sequence[Any], client: Client, reply: Reply) -> None:
        name, host, port, protocol, description, namespace, version, metadata = values
        request = rules.Update(
            name=name,
            host=host,
            port=port,
            protocol=protocol,
            description=description,
            namespace=namespace,
            version=version,
            metadata=metadata,
        )
        self._submit("update", request, client, reply)

    def _submit_named(
        self,
        request: type[rules.Delete | rules.Ping | rules.Deregister],
        values: Sequence[Any],
        client: Client,
        reply: Reply,
    ) -> None:
        self._submit(request.__name__.lower(), request(values[0]), client, reply)

    def _submit(self, name: str, request: rules.Request, client: Client, reply: Reply) -> None:
        answer = partial(_answer, reply, self._counts.of(name))
        self._registry.submit(request, answer, peer=client.label)

    def _reload(self, values: Sequence[Any], client: Client, reply: Reply) -> None:
        answer = partial(_answer, reply, self._counts.of("reload"))
        self._registry.reload(answer, peer=client.label)

    def _tell_status(self, values: Sequence[Any], client: Client, reply: Reply) -> None:
        reply((_encode(self._status.for_client(client)),))


def _answer(reply: Reply, count: Count, event: rules.Event) -> None:
    if isinstance(event, rules.Failed) or (isinstance(event, rules.Pinged) and not event.success):
        count.errors += 1
    reply((_encode(event),))


def _guarded(name: str, handler: Handler, access: Access, count: Count) -> Handler:
    """Ask who calls before *handler* runs; a refusal is an ``error`` event."""
    failed = "Failed to reload" if name == "reload" else f"Failed to {name} backend"

    def run(values: Sequence[Any], client: Client, reply: Reply) -> None:
        refusal = access.refusal(client)
        if refusal is None:
            handler(values, client, reply)
            return
        count.errors += 1
        message = "write refused method=%s peer=%s reason=%s"
        access.warn(message, name, client.label, refusal, place=client.place)
        reply((_encode(rules.Failed(f"{failed}: {refusal}")),))

    return run
