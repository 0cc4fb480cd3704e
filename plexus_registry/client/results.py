# SPDX-License-Identifier: AGPL-3.0-only
"""The methods of a registry, and their events as typed values.

Those of the Rust program and of later versions too. What answers with other events is no registry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec

from plexus_registry.backend import DEFAULT_PROTOCOL, Backend, Source
from plexus_registry.client.connection import Connection
from plexus_registry.errors import Unreachable, quote

if TYPE_CHECKING:
    from plexus_registry.protocol.status import Status

T = TypeVar("T")

# What another registry may leave out. Nobody can do without name, host and port.
_IF_ABSENT: dict[str, Any] = {
    "id": "",
    "protocol": DEFAULT_PROTOCOL,
    "source": Source.MANUAL,
    "is_active": True,
    "registered_at": 0,
    "created_at": 0,
    "updated_at": 0,
}


class NotUnderstood(Unreachable):
    """Somebody answers, and the answer cannot be read.

    Attributes:
        is_foreign: It is another event than a registry gives, and no such event of another form.
    """

    def __init__(self, url: str, reason: str, *, is_foreign: bool) -> None:
        super().__init__(url, reason)
        self.args = (f"{url} answers, but {reason}",)
        self.is_foreign = is_foreign


@dataclass(frozen=True, slots=True)
class Method(Generic[T]):
    """A method of a registry.

    Attributes:
        name: With its namespace.
        kind: The type of its event.
        take: Makes a value of its event, or raises `msgspec.ValidationError`.
    """

    name: str
    kind: str
    take: Callable[[dict[str, Any]], T]

    async def ask(self, registry: Connection, params: object = None) -> T:
        """Call it, and return what it answers.

        Raises:
            NotUnderstood: If that is no answer to it.
            Refused, Unreachable, InvalidValue: As `Connection.call` does.
        """
        return self.read(registry.url, await registry.call(self.name, params))

    def read(self, url: str, event: dict[str, Any]) -> T:
        """Return what an event of the registry at *url* says.

        Raises:
            NotUnderstood: If it is none of this method.
        """
        is_foreign = event.get("type") != self.kind
        try:
            if is_foreign:
                given = quote(event.get("type"))
                raise msgspec.ValidationError(f"Expected `{self.kind}`, got {given} - at `$.type`")
            return self.take(event)
        except msgspec.ValidationError as error:
            reason = f"its answer to {self.name} is not understood: {error}"
            raise NotUnderstood(url, reason, is_foreign=is_foreign) from error


class Reload(msgspec.Struct, frozen=True, kw_only=True):
    """What reading the declared backends again came to. The Rust program tells `added` only."""

    added: int = msgspec.field(name="count")
    updated: int | None = None
    removed: int | None = None
    unchanged: int | None = None


class _Pinged(msgspec.Struct):
    success: bool
    message: str = ""


class _Entries(msgspec.Struct):
    backends: list[dict[str, Any]]


class _Entry(msgspec.Struct):
    backend: dict[str, Any] | None


def _entry(event: dict[str, Any]) -> Backend:
    found = _optional_entry(event)
    if found is None:
        raise msgspec.ValidationError("Expected a backend, got `null`")
    return found


def _optional_entry(event: dict[str, Any]) -> Backend | None:
    entry = msgspec.convert(event, _Entry).backend
    return None if entry is None else _backend(entry)


def _entries(event: dict[str, Any]) -> list[Backend]:
    return [_backend(entry) for entry in msgspec.convert(event, _Entries).backends]


def _backend(entry: dict[str, Any]) -> Backend:
    given = {key: value for key, value in entry.items() if value is not None}
    try:
        return msgspec.convert(_IF_ABSENT | given, Backend)
    except msgspec.ValidationError as error:
        raise msgspec.ValidationError(f"{error} of the entry {quote(entry.get('name'))}") from error


def _no_failure(event: dict[str, Any]) -> str | None:
    return None


def _ping_failure(event: dict[str, Any]) -> str | None:
    pinged = msgspec.convert(event, _Pinged)
    return None if pinged.success else pinged.message


def _reload(event: dict[str, Any]) -> Reload:
    return msgspec.convert(event, Reload)


def _status(event: dict[str, Any]) -> Status:
    # Late: it comes with much of the registry, and few ask.
    from plexus_registry.protocol.status import Status

    return msgspec.convert(event, Status)


LIST: Final = Method("registry.list", "backends", _entries)
GET: Final = Method("registry.get", "backend", _optional_entry)
REGISTER: Final = Method("registry.register", "backend_registered", _entry)
UPDATE: Final = Method("registry.update", "backend_updated", _entry)
# What became of these: None, or why they came to nothing.
DELETE: Final = Method("registry.delete", "backend_deleted", _no_failure)
PING: Final = Method("registry.ping", "ping", _ping_failure)
DEREGISTER: Final = Method("registry.deregister", "backend_deregistered", _no_failure)
RELOAD: Final = Method("registry.reload", "reloaded", _reload)
STATUS: Final = Method("registry.status", "status", _status)
