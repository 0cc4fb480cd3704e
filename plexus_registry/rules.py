# SPDX-License-Identifier: AGPL-3.0-only
"""What each operation means: entries + request → changes and an event.

Pure: time and identifiers arrive as arguments, nothing here is remembered. The events are the
``RegistryEvent`` union of the wire protocol (section 5.2) and encode to its JSON as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from plexus_registry import backend as fields
from plexus_registry.backend import Address, Backend, Change, Declaration, Put, Remove, Source
from plexus_registry.catalog import View
from plexus_registry.errors import InvalidValue, word

# --- requests -----------------------------------------------------------------------------------


class Register(msgspec.Struct, frozen=True, kw_only=True):
    """Add a backend, or say again that it is there. Fields as they came, not yet validated."""

    name: str
    host: str
    port: int
    protocol: str | None = None
    description: str | None = None
    namespace: str | None = None
    version: str | None = None
    metadata: Any = None
    source: Source = Source.MANUAL


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """Change fields of a known backend; None keeps, an empty text clears."""

    name: str
    host: str | None = None
    port: int | None = None
    protocol: str | None = None
    description: str | None = None
    namespace: str | None = None
    version: str | None = None
    metadata: Any = None


class Delete(msgspec.Struct, frozen=True):
    """Forget a backend."""

    name: str


class Ping(msgspec.Struct, frozen=True):
    """Record that a backend is alive."""

    name: str


class Deregister(msgspec.Struct, frozen=True):
    """A hub says good-bye: its entry stays, inactive."""

    name: str


class Declare(msgspec.Struct, frozen=True, kw_only=True):
    """Follow what the environment and the file declare, all at once.

    Attributes:
        env: What the environment declares.
        file: What the file declares; None leaves the entries of the file as they are.
        removable: Which entries of the file may go when nothing declares them; None for all. The
            others stay, unchanged.
    """

    env: Mapping[str, Declaration] = {}
    file: Mapping[str, Declaration] | None = None
    removable: frozenset[str] | None = None


class AutoRegister(msgspec.Struct, frozen=True):
    """Enter the local hub if no entry holds its name."""

    declaration: Declaration


Request = Register | Update | Delete | Ping | Deregister | Declare | AutoRegister

# --- events -------------------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True, tag_field="type"):
    """What became of a request. Its JSON is the ``content`` of the answer."""


class BackendRegistered(Event, frozen=True, tag="backend_registered"):
    """The entry was created or refreshed."""

    backend: Backend


class BackendUpdated(Event, frozen=True, tag="backend_updated"):
    """The entry was changed."""

    backend: Backend


class BackendDeleted(Event, frozen=True, tag="backend_deleted"):
    """The entry was removed."""

    name: str


class BackendDeregistered(Event, frozen=True, tag="backend_deregistered"):
    """The entry is inactive."""

    name: str


class Pinged(Event, frozen=True, tag="ping"):
    """The heartbeat was recorded, or the name is unknown."""

    name: str
    success: bool
    message: str


class Reloaded(Event, frozen=True, tag="reloaded"):
    """The declarations are applied. ``count`` is how many entries were added."""

    count: int
    updated: int
    removed: int
    unchanged: int


class Failed(Event, frozen=True, tag="error"):
    """The operation was refused or failed; nothing changed."""

    message: str


class LimitReached(Failed, frozen=True, tag="error"):
    """There is no room for the entry; nothing changed."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a request comes to.

    Attributes:
        event: The answer, true once the changes are on disk.
        changes: What has to be written first; empty if nothing changes.
        is_refresh: Only times are written: the entry says what it said before.
        added: Names that a `Declare` adds; what else it puts was there before.
    """

    event: Event
    changes: tuple[Change, ...] = ()
    is_refresh: bool = False
    added: frozenset[str] = frozenset()


# --- rules --------------------------------------------------------------------------------------


class Terms(NamedTuple):
    """Unix seconds, what makes the id of a new entry (a UUID), and how long texts may be."""

    now: int
    new_id: Callable[[], str]
    limits: fields.TextLimits = fields.DEFAULT_LIMITS


def decide(view: View, request: Request, at: Terms) -> Decision:
    """Decide what *request* means for the entries in *view* as they will be in its turn."""
    return _RULES[type(request)](view, request, at)


def _not_found(name: str) -> str:
    return f"Backend not found: {word(name)}"


def _new_entry(declaration: Declaration, source: Source, at: Terms) -> Backend:
    return Backend(
        id=at.new_id(),
        **msgspec.structs.asdict(declaration),
        source=source,
        is_active=True,
        registered_at=at.now,
        created_at=at.now,
        updated_at=at.now,
    )


def _register(view: View, request: Register, at: Terms) -> Decision:
    try:
        name = fields.check_name(request.name)
        address = Address(
            fields.check_host(request.host),
            fields.check_port(request.port),
            fields.check_protocol(
                fields.DEFAULT_PROTOCOL if request.protocol is None else request.protocol
            ),
        )
        given: dict[str, Any] = {
            "description": fields.check_description(request.description, at.limits),
            "namespace": fields.check_namespace(request.namespace),
            "version": _if_accepted(fields.check_version, request.version),
            "metadata": _if_accepted(fields.check_metadata, request.metadata, at.limits),
        }
    except InvalidValue as fault:
        return Decision(Failed(f"Failed to register backend: {fault}"))
    held = view.get(name)
    if held is None:
        entry = Backend(
            id=at.new_id(),
            name=name,
            host=address.host,
            port=address.port,
            protocol=address.protocol,
            source=request.source,
            is_active=True,
            registered_at=at.now,
            created_at=at.now,
            updated_at=at.now,
            **given,
        )
    elif held.source.rank > request.source.rank:
        # A hub announces itself under a name that somebody set on purpose: the entry stands, and
        # the announcement counts as a sign of life.
        entry = _replace(held, is_active=True, last_seen=at.now)
    elif held.source is Source.MANUAL and held.address != address:
        return Decision(
            Failed(
                f"Failed to register backend: {name} is already registered at"
                f" {word(held.url)}; use update to change its address"
            )
        )
    else:
        entry = _replace(
            held,
            **address._asdict(),
            **{field: value for field, value in given.items() if value is not None},
            source=request.source,
            is_active=True,
            last_seen=at.now,
            updated_at=at.now,
        )
    return Decision(BackendRegistered(entry), (Put(entry),), is_refresh=_says_the_same(held, entry))


def _if_accepted(check: Callable[..., str | None], value: object, *limits: Any) -> str | None:
    """Return what is stored of an extra that hubs send: nothing if it is not fit to be.

    Such extras never fail a registration (wire protocol, C40); the answer shows what was taken.
    """
    try:
        return check(value, *limits)
    except InvalidValue:
        return None


def _says_the_same(held: Backend | None, entry: Backend) -> bool:
    return held is not None and held == _replace(
        entry, last_seen=held.last_seen, updated_at=held.updated_at
    )


def _update(view: View, request: Update, at: Terms) -> Decision:
    held = view.get(request.name)
    if held is None:
        return Decision(Failed(_not_found(request.name)))
    changed: dict[str, Any] = {}
    try:
        if request.host is not None:
            changed["host"] = fields.check_host(request.host)
        if request.port is not None:
            changed["port"] = fields.check_port(request.port)
        if request.protocol is not None:
            changed["protocol"] = fields.check_protocol(request.protocol)
        if request.description is not None:
            changed["description"] = fields.check_description(request.description, at.limits)
        if request.namespace is not None:
            changed["namespace"] = fields.check_namespace(request.namespace)
        if request.version is not None:
            changed["version"] = fields.check_version(request.version)
        if request.metadata is not None:
            changed["metadata"] = fields.check_metadata(request.metadata, at.limits)
    except InvalidValue as fault:
        return Decision(Failed(f"Failed to update backend: {fault}"))
    entry = _replace(held, **changed, source=Source.MANUAL, updated_at=at.now)
    return Decision(BackendUpdated(entry), (Put(entry),), is_refresh=_says_the_same(held, entry))


def _delete(view: View, request: Delete, at: Terms) -> Decision:
    if view.get(request.name) is None:
        return Decision(Failed(_not_found(request.name)))
    return Decision(BackendDeleted(request.name), (Remove(request.name),))


def _ping(view: View, request: Ping, at: Terms) -> Decision:
    held = view.get(request.name)
    if held is None:
        return Decision(Pinged(request.name, False, _not_found(request.name)))
    entry = _replace(held, last_seen=at.now, is_active=True)
    event = Pinged(entry.name, True, "Backend health check updated")
    return Decision(event, (Put(entry),), is_refresh=held.is_active)


def _deregister(view: View, request: Deregister, at: Terms) -> Decision:
    held = view.get(request.name)
    if held is None:
        return Decision(Failed(_not_found(request.name)))
    changes = (Put(_replace(held, is_active=False, updated_at=at.now)),) if held.is_active else ()
    return Decision(BackendDeregistered(request.name), changes)


def _declare(view: View, request: Declare, at: Terms) -> Decision:
    declared = {name: (Source.FILE, entry) for name, entry in (request.file or {}).items()}
    declared |= {name: (Source.ENV, entry) for name, entry in request.env.items()}
    changes: list[Change] = []
    added: set[str] = set()
    updated = unchanged = 0
    for name, (source, declaration) in declared.items():
        held = view.get(name)
        if held is None:
            added.add(name)
            changes.append(Put(_new_entry(declaration, source, at)))
            continue
        if held.source is Source.MANUAL:
            unchanged += 1
        elif held.source is source and declaration.describes(held):
            unchanged += 1
        else:
            updated += 1
            changes.append(Put(_declared_entry(held, declaration, source, at.now)))
    follows = {Source.ENV} if request.file is None else {Source.ENV, Source.FILE}
    undeclared = [held for held in _entries_of(view, follows) if held.name not in declared]
    removals = [Remove(held.name) for held in undeclared if _may_go(held, request.removable)]
    unchanged += len(undeclared) - len(removals)
    event = Reloaded(count=len(added), updated=updated, removed=len(removals), unchanged=unchanged)
    return Decision(event, (*changes, *removals), added=frozenset(added))


def _declared_entry(held: Backend, declaration: Declaration, source: Source, now: int) -> Backend:
    said = msgspec.structs.asdict(declaration)
    return _replace(held, **said, source=source, is_active=True, updated_at=now)


def _may_go(held: Backend, removable: frozenset[str] | None) -> bool:
    return held.source is Source.ENV or removable is None or held.name in removable


def _entries_of(view: View, sources: set[Source]) -> Iterable[Backend]:
    return (held for held in view if held.source in sources)


def _auto_register(view: View, request: AutoRegister, at: Terms) -> Decision:
    held = view.get(request.declaration.name)
    if held is not None:
        return Decision(BackendRegistered(held))
    entry = _new_entry(request.declaration, Source.AUTO, at)
    return Decision(BackendRegistered(entry), (Put(entry),))


_replace = msgspec.structs.replace
_RULES: dict[type, Callable[[View, Any, Terms], Decision]] = {
    Register: _register,
    Update: _update,
    Delete: _delete,
    Ping: _ping,
    Deregister: _deregister,
    Declare: _declare,
    AutoRegister: _auto_register,
}

FAILED: dict[type, str] = {
    Register: "Failed to register backend",
    Update: "Failed to update backend",
    Delete: "Failed to delete backend",
    Ping: "Failed to ping backend",
    Deregister: "Failed to deregister backend",
    Declare: "Failed to apply declared backends",
    AutoRegister: "Failed to register backend",
}
"""How it is told that a request failed."""
