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
from plexus_registry.errors import InvalidValue
from plexus_registry.protocol.call import Handler, Reply
from plexus_registry.protocol.methods import REGISTRY_METHODS, Right
from plexus_registry.registry import Registry

_encode = msgspec.json.Encoder().encode


class Activation:
    """The methods of the registry.

    Args:
        registry: What they read and change.
        access: Who may call those that write. Those that read cost nothing for it.

    Attributes:
        handlers: By name, for the table of `methods.REGISTRY_METHODS`.
    """

    def __init__(self, registry: Registry, access: Access) -> None:
        self._registry = registry
        handlers: dict[str, Handler] = {
            "register": self._register,
            "list": self._list,
            "get": self._get,
            "update": self._update,
            "delete": partial(self._submit_named, rules.Delete),
            "ping": partial(self._submit_named, rules.Ping),
            "deregister": partial(self._submit_named, rules.Deregister),
            "reload": self._reload,
        }
        rights = {method.name: method.right for method in REGISTRY_METHODS}
        self.handlers = {
            name: _guarded(name, handler, access) if rights[name] is Right.WRITE else handler
            for name, handler in handlers.items()
        }

    def _get(self, values: Sequence[Any], client: Client, reply: Reply) -> None:
        entry = self._registry.catalog.get_json(values[0]) or b"null"
        reply((b'{"type":"backend","backend":%b}' % entry,))

    def _list(self, values: Sequence[Any], client: Client, reply: Reply) -> None:
        active_only, limit, after = values
        try:
            entries = self._registry.catalog.list_json(
                active_only=active_only, limit=limit, after=after
            )
        except InvalidValue as fault:
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
        self._submit(request, client, reply)

    def _update(self, values: Sequence[Any], client: Client, reply: Reply) -> None:
        name, host, port, protocol, description, namespace = values
        request = rules.Update(
            name=name,
            host=host,
            port=port,
            protocol=protocol,
            description=description,
            namespace=namespace,
        )
        self._submit(request, client, reply)

    def _submit_named(
        self,
        request: type[rules.Delete | rules.Ping | rules.Deregister],
        values: Sequence[Any],
        client: Client,
        reply: Reply,
    ) -> None:
        self._submit(request(values[0]), client, reply)

    def _submit(self, request: rules.Request, client: Client, reply: Reply) -> None:
        self._registry.submit(request, lambda event: reply((_encode(event),)), peer=client.label)

    def _reload(self, values: Sequence[Any], client: Client, reply: Reply) -> None:
        self._registry.reload(lambda event: reply((_encode(event),)), peer=client.label)


def _guarded(name: str, handler: Handler, access: Access) -> Handler:
    """Ask who calls before *handler* runs; a refusal is an ``error`` event."""
    failed = "Failed to reload" if name == "reload" else f"Failed to {name} backend"

    def run(values: Sequence[Any], client: Client, reply: Reply) -> None:
        refusal = access.refusal(client)
        if refusal is None:
            handler(values, client, reply)
            return
        access.warn("write refused method=%s peer=%s reason=%s", name, client.label, refusal)
        reply((_encode(rules.Failed(f"{failed}: {refusal}")),))

    return run
