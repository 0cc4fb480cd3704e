# SPDX-License-Identifier: AGPL-3.0-only
"""What a backend is: its fields, its sources, and the one place where they are validated.

Pure: no clock, no files, no sockets. Whoever takes a backend's fields from outside (a request, a
TOML table, the environment, a command line) passes them through the ``check_*`` functions here.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import msgspec

from plexus_registry.errors import InvalidValue, quote

NAME_MAX_CHARACTERS = 128
NAMESPACE_MAX_CHARACTERS = 256
VERSION_MAX_CHARACTERS = 128
TEXT_MAX_CHARACTERS = 2**20
"""To what descriptions and metadata can be allowed to grow."""
ENTRY_REST_BYTES = 4096
"""More than the other fields take in JSON, each of the largest size, with their keys."""
PROTOCOLS = ("ws", "wss")
DEFAULT_PROTOCOL = "ws"

ACCEPTED_NAME = f"1 to {NAME_MAX_CHARACTERS} printable characters without white space and '/'"
ACCEPTED_HOST = "a DNS name, an IPv4 address or an IPv6 address"
ACCEPTED_PORT = "an integer from 1 to 65535"
ACCEPTED_PROTOCOL = '"ws" or "wss"'
ACCEPTED_URL = "ws://HOST:PORT or wss://HOST:PORT"

# RFC 1123, section 2.1, with the underscore that container networks use in names.
_DNS_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", re.ASCII)
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}", re.ASCII)
# RFC 6874, section 2, without escapes; the operating system bounds it far lower.
_ZONE = re.compile(r"[A-Za-z0-9._~-]{1,64}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_URL = re.compile(r"(?P<protocol>[a-z]+)://(?P<host>\[[^\]]*\]|[^:/?#]*):(?P<port>[0-9]{1,5})/?")


class Source(enum.StrEnum):
    """Where an entry comes from. The source that stands higher holds the name."""

    AUTO = "auto"
    FILE = "file"
    ENV = "env"
    MANUAL = "manual"

    @property
    def rank(self) -> int:
        """Height of the source: manual > env > file > auto."""
        return _RANK[self]


_RANK = {Source.AUTO: 0, Source.FILE: 1, Source.ENV: 2, Source.MANUAL: 3}


class Backend(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One entry of the registry; its JSON form is ``BackendInfo`` of the wire protocol (5.1).

    Keys that are None are absent from the JSON. Times are Unix seconds.
    """

    id: str
    name: str
    host: str
    port: int
    protocol: str
    description: str | None = None
    namespace: str | None = None
    version: str | None = None
    metadata: str | None = None
    source: Source
    is_active: bool
    registered_at: int
    last_seen: int | None = None
    created_at: int
    updated_at: int

    @property
    def address(self) -> Address:
        """Where the backend listens."""
        return Address(self.host, self.port, self.protocol)

    @property
    def url(self) -> str:
        """``protocol://host:port``, with brackets around an IPv6 address (RFC 3986, 3.2.2)."""
        return self.address.url


class Address(NamedTuple):
    """Where a backend listens."""

    host: str
    port: int
    protocol: str

    @property
    def url(self) -> str:
        """``protocol://host:port``, with brackets around an IPv6 address (RFC 3986, 3.2.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}://{host}:{self.port}"


class Declaration(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A backend as a file or the environment declares it, validated."""

    name: str
    host: str
    port: int
    protocol: str = DEFAULT_PROTOCOL
    description: str | None = None
    namespace: str | None = None
    version: str | None = None
    metadata: str | None = None

    @property
    def address(self) -> Address:
        """Where the backend listens."""
        return Address(self.host, self.port, self.protocol)

    def describes(self, backend: Backend) -> bool:
        """Tell whether *backend* already is what this declares."""
        return (
            self.address == backend.address
            and self.description == backend.description
            and self.namespace == backend.namespace
            and self.version == backend.version
            and self.metadata == backend.metadata
        )


class Put(msgspec.Struct, frozen=True, gc=False):
    """A change: this backend is the entry of its name from now on."""

    backend: Backend

    @property
    def name(self) -> str:
        """The name whose entry changes."""
        return self.backend.name


class Remove(msgspec.Struct, frozen=True, gc=False):
    """A change: the name has no entry from now on."""

    name: str


Change = Put | Remove
"""What the rules decide, the store writes and the catalog shows."""


def check_name(value: object) -> str:
    """Return *value* if it can be a backend's name.

    Raises:
        InvalidValue: If it is no string of 1 to 128 printable characters, or holds white space
            or ``/``.
    """
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= NAME_MAX_CHARACTERS
        or not value.isprintable()  # of white space, only the space is
        or " " in value
        or "/" in value
    ):
        raise InvalidValue("name", value, ACCEPTED_NAME)
    return value


def check_host(value: object) -> str:
    """Return the host in the form that is stored: an IPv6 address without its brackets.

    Raises:
        InvalidValue: If it is neither a DNS name nor an IP address.
    """
    if not isinstance(value, str):
        raise InvalidValue("host", value, ACCEPTED_HOST)
    if _IPV4.fullmatch(value):  # most are; the slow way comes to the same
        return value
    bracketed = value.startswith("[") and value.endswith("]")
    host = value[1:-1] if bracketed else value
    if ":" in host or bracketed:
        if not _is_ipv6_address(host):
            raise InvalidValue("host", value, ACCEPTED_HOST)
        return host
    dns_name = host.removesuffix(".")
    labels = dns_name.split(".")
    if len(dns_name) > 253 or not all(_DNS_LABEL.fullmatch(label) for label in labels):
        accepted = ACCEPTED_HOST
        if host.isprintable() and not host.isascii():
            accepted += " (an international name in its ASCII form, xn--…)"
        raise InvalidValue("host", value, accepted)
    if labels[-1].isdigit():  # no top-level domain is a number, so this is meant as an address
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise InvalidValue("host", value, ACCEPTED_HOST) from None
    return host


def _is_ipv6_address(text: str) -> bool:
    address, separator, zone = text.partition("%")
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return not separator or _ZONE.fullmatch(zone) is not None


def check_port(value: object) -> int:
    """Return *value* if it is a TCP port that a server can listen on.

    Raises:
        InvalidValue: If it is no integer from 1 to 65535; a boolean is no integer here.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise InvalidValue("port", value, ACCEPTED_PORT)
    return value


def check_protocol(value: object) -> str:
    """Return *value* if it is ``ws`` or ``wss``.

    Raises:
        InvalidValue: If it is anything else.
    """
    if value not in PROTOCOLS:
        raise InvalidValue("protocol", value, ACCEPTED_PROTOCOL)
    return str(value)


class TextLimits(NamedTuple):
    """How many characters texts may have whose size is a matter of taste."""

    description: int = 1024
    metadata: int = 16384

    @property
    def entry_bytes(self) -> int:
        """How large the JSON of a backend can be whose texts they allow.

        A character takes at most four bytes: those that JSON writes as six are control characters,
        which are not accepted.
        """
        return 4 * (self.description + self.metadata) + ENTRY_REST_BYTES


DEFAULT_LIMITS = TextLimits()
GREATEST_LIMITS = TextLimits(TEXT_MAX_CHARACTERS, TEXT_MAX_CHARACTERS)


def check_text(field: str, value: object, max_characters: int, setting: str = "") -> str | None:
    """Return *value* if it is fit for a text field; the empty text and None both give None.

    Args:
        field: Its name, on the wire.
        value: What was given.
        max_characters: How long it may be.
        setting: What sets that, if anything does.

    Raises:
        InvalidValue: If it is no string, too long, or holds control characters other than tab
            and line feed.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > max_characters or _CONTROL.search(value):
        accepted = f"text of at most {max_characters} characters without control characters"
        if setting:
            accepted += f" (setting {setting})"
        raise InvalidValue(field, value, accepted)
    return value


def check_description(value: object, limits: TextLimits = DEFAULT_LIMITS) -> str | None:
    """Return the description, None if empty. See `check_text`."""
    return check_text("description", value, limits.description, "max_description_size")


def check_namespace(value: object) -> str | None:
    """Return the namespace, None if empty. See `check_text`."""
    return check_text("namespace", value, NAMESPACE_MAX_CHARACTERS)


def check_version(value: object) -> str | None:
    """Return the backend's version, None if empty. See `check_text`."""
    return check_text("version", value, VERSION_MAX_CHARACTERS)


def check_metadata(value: object, limits: TextLimits = DEFAULT_LIMITS) -> str | None:
    """Return metadata as it is stored: text stays, anything else becomes its JSON text.

    Raises:
        InvalidValue: If the text is longer than *limits* say or holds control characters, or the
            value has no JSON text (it is nested too deep).
    """
    text = value
    if value is not None and not isinstance(value, str):
        try:
            text = msgspec.json.encode(value).decode()
        except (TypeError, ValueError, RecursionError):
            accepted = f"text or a JSON value of at most {limits.metadata} characters"
            raise InvalidValue("metadata", value, accepted) from None
    return check_metadata_text(text, limits)


def check_metadata_text(value: object, limits: TextLimits = DEFAULT_LIMITS) -> str | None:
    """Return metadata that have to be text already, None if empty. See `check_text`."""
    return check_text("metadata", value, limits.metadata, "max_metadata_size")


def parse_url(text: str) -> Address:
    """Parse ``ws://host:port`` or ``wss://host:port``.

    Raises:
        InvalidValue: If *text* has another form or one of its parts is not accepted.
    """
    match = _URL.fullmatch(text)
    if match is None:
        raise InvalidValue("url", text, ACCEPTED_URL)
    return Address(
        check_host(match["host"]), check_port(int(match["port"])), check_protocol(match["protocol"])
    )


def parse_declaration(text: str) -> Declaration:
    """Parse ``name=ws://host:port``, the form of the environment and the command line.

    Raises:
        InvalidValue: If *text* has another form or one of its parts is not accepted.
    """
    name, separator, url = text.partition("=")
    if not separator:
        raise InvalidValue("backend", text, f"NAME=URL with URL as {ACCEPTED_URL}")
    host, port, protocol = parse_url(url)
    return Declaration(name=check_name(name), host=host, port=port, protocol=protocol)


DECLARED_FIELDS: dict[str, Callable[[object], object]] = {
    "name": check_name,
    "host": check_host,
    "port": check_port,
    "protocol": check_protocol,
    "description": check_description,
    "namespace": check_namespace,
    "version": check_version,
    "metadata": check_metadata_text,
}
"""The keys of a ``[[backend]]`` table, in their order, each with its check."""

REQUIRED_FIELDS = ("name", "host", "port")


class FieldFault(NamedTuple):
    """What is wrong with one key of a table."""

    field: str
    message: str


def check_declaration(
    table: Mapping[str, object], limits: TextLimits = DEFAULT_LIMITS
) -> tuple[Declaration | None, list[FieldFault]]:
    """Validate one ``[[backend]]`` table, whole: every fault is reported, not only the first.

    Returns:
        The declaration and no faults, or None and the faults in the order of the fields.
    """
    fields: dict[str, object] = {}
    faults = [
        FieldFault(key, f"unknown key {quote(key)}, expected one of {', '.join(DECLARED_FIELDS)}")
        for key in table
        if key not in DECLARED_FIELDS
    ]
    checks = DECLARED_FIELDS | {
        "description": partial(check_description, limits=limits),
        "metadata": partial(check_metadata_text, limits=limits),
    }
    for field, check in checks.items():
        if field in table:
            try:
                fields[field] = check(table[field])
            except InvalidValue as fault:
                faults.append(FieldFault(field, str(fault)))
        elif field in REQUIRED_FIELDS:
            faults.append(FieldFault(field, f"{field}: the key is missing"))
    if faults:
        return None, faults
    return msgspec.convert(fields, Declaration), []
