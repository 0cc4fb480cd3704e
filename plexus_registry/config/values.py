# SPDX-License-Identifier: AGPL-3.0-only
"""What each kind of setting accepts: text or TOML value in, validated value out.

Every function raises `InvalidValue` that says what would be accepted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from plexus_registry.access import Policy
from plexus_registry.backend import (
    DECLARED_FIELDS,
    Declaration,
    check_host,
    check_port,
    parse_declaration,
)
from plexus_registry.errors import InvalidValue

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
_LOG_LEVEL_ALIASES = {"warn": "warning", "trace": "debug"}

OFF = "none"
"""The word that turns a setting off."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_HUB_NAMESPACE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
_ACTIVATION = "registry"
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[^\]]*\]|[^:/?#@]+)(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII | re.IGNORECASE,
)
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_BACKEND_FORM = "NAME=ws://HOST:PORT"
_ACCEPTED_BACKEND = f"{_BACKEND_FORM} or NAME=wss://HOST:PORT"
_ACCEPTED_ORIGIN = "scheme://host or scheme://host:port, as browsers send it"


@dataclass(frozen=True, slots=True)
class Context:
    """Where a value comes from, as far as its meaning depends on that.

    Attributes:
        home: What ``~`` stands for.
        directory: What relative paths are relative to, empty for the working directory.
        is_text: True for text from the command line or environment, False for a TOML value.
    """

    home: Path
    directory: Path
    is_text: bool


Parser = Callable[[str, object, Context], object]
"""Takes the setting's name, what was given, and where; returns the value."""


def integer(low: int, high: int) -> Parser:
    """Make the parser of an integer from *low* to *high*."""
    accepted = f"an integer from {low} to {high}"

    def parse(name: str, given: object, context: Context) -> int:
        value = given
        if isinstance(given, str) and context.is_text and _INTEGER.fullmatch(given.strip()):
            value = int(given)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidValue(name, given, accepted)
        return value

    return parse


def host(name: str, given: object, context: Context) -> str:
    """Accept a DNS name or IP address."""
    try:
        return check_host(given)
    except InvalidValue as fault:
        raise InvalidValue(name, given, fault.accepted) from None


def path(name: str, given: object, context: Context) -> Path:
    """Accept a path and make it absolute; ``~`` is the home directory."""
    if not isinstance(given, str) or not given or "\0" in given:
        raise InvalidValue(name, given, "the path of a file")
    if given == "~" or given.startswith("~/"):
        found = context.home / given[2:]
    else:
        try:
            found = (context.directory / given).absolute()
        except FileNotFoundError:  # os.getcwd()
            accepted = "an absolute path, for the working directory is gone"
            raise InvalidValue(name, given, accepted) from None
    if not found.name:
        raise InvalidValue(name, given, "the path of a file, which ends in a file name")
    return found


def path_or_off(name: str, given: object, context: Context) -> Path | None:
    """Accept a path, or the word ``none`` for no file."""
    return None if given == OFF else path(name, given, context)


def log_level(name: str, given: object, context: Context) -> str:
    """Accept the name of a log level in any case, and the names that Rust programs use."""
    word = given.lower() if isinstance(given, str) else ""
    level = _LOG_LEVEL_ALIASES.get(word, word)
    if level not in LOG_LEVELS:
        raise InvalidValue(name, given, f"one of {', '.join(LOG_LEVELS)}")
    return level


def plain_level(filters: str) -> str | None:
    """Take the level out of ``RUST_LOG``, None if it has none for the whole program.

    Its form is that of env_logger: ``info,plexus=debug``. Filters for single modules say nothing
    to this program; a word that is no level is the name of a module there.
    """
    level = None
    for directive in filters.partition("/")[0].split(","):
        word = directive.strip().lower()
        if word in LOG_LEVELS or word in _LOG_LEVEL_ALIASES:
            level = word
    return level


def hub_namespace(name: str, given: object, context: Context) -> str:
    """Accept the hub's name in method calls."""
    if given == _ACTIVATION:
        accepted = f"another name: {_ACTIVATION!r} is the activation inside the hub, and would be"
        raise InvalidValue(name, given, f"{accepted} out of reach")
    if not isinstance(given, str) or not _HUB_NAMESPACE.fullmatch(given):
        accepted = "1 to 64 of the characters A-Z a-z 0-9 _ -, the first one a letter"
        raise InvalidValue(name, given, accepted)
    return given


def backend(name: str, given: object, context: Context) -> Declaration:
    """Accept ``NAME=ws://HOST:PORT`` or ``NAME=wss://HOST:PORT``."""
    if not isinstance(given, str):
        raise InvalidValue(name, given, _ACCEPTED_BACKEND)
    try:
        return parse_declaration(given.strip())
    except InvalidValue as fault:
        if fault.field not in DECLARED_FIELDS:  # it has another form
            raise InvalidValue(name, given, _ACCEPTED_BACKEND) from None
        accepted = f"{_BACKEND_FORM} with {fault.accepted} as its {fault.field}"
        raise InvalidValue(name, given, accepted) from None


def backend_or_off(name: str, given: object, context: Context) -> Declaration | None:
    """Accept ``NAME=ws://HOST:PORT``, or the word ``none`` or nothing for no backend."""
    if isinstance(given, str) and given.strip().lower() in ("", OFF):
        return None
    return backend(name, given, context)


def policy(name: str, given: object, context: Context) -> Policy:
    """Accept who may write without a token."""
    word = given.lower() if isinstance(given, str) else ""
    if word not in list(Policy):
        raise InvalidValue(name, given, f"one of {', '.join(Policy)}")
    return Policy(word)


def host_name(name: str, given: object, context: Context) -> str:
    """Accept a host as browsers name it in a request: in lower case, without a port."""
    return host(name, given, context).lower()


def origin(name: str, given: object, context: Context) -> str:
    """Accept a web origin and return it as browsers send it (RFC 6454, section 6.2)."""
    match = _ORIGIN.fullmatch(given) if isinstance(given, str) else None
    if match is None:
        raise InvalidValue(name, given, _ACCEPTED_ORIGIN)
    scheme = match["scheme"].lower()
    try:
        hostname = check_host(match["host"].lower())
        port = check_port(int(match["port"])) if match["port"] else None
    except InvalidValue as fault:
        accepted = f"{_ACCEPTED_ORIGIN}, with {fault.field} as {fault.accepted}"
        raise InvalidValue(name, given, accepted) from None
    shown = f"[{hostname}]" if ":" in hostname else hostname
    is_default = port is None or port == _DEFAULT_PORTS.get(scheme)
    return f"{scheme}://{shown}" if is_default else f"{scheme}://{shown}:{port}"
