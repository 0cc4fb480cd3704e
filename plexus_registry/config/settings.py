# SPDX-License-Identifier: AGPL-3.0-only
"""The settings: one table of what can be set.

The command line's options, the environment's variables, the keys of the settings file,
``--print-config`` and the manual all come from `SETTINGS`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plexus_registry import backend as fields
from plexus_registry.access import Policy
from plexus_registry.backend import Declaration
from plexus_registry.config import places, values

DEFAULT_AUTO_REGISTER = Declaration(name="plexus", host="127.0.0.1", port=4444)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings of one run, validated. `SETTINGS` says what each means."""

    host: str = "127.0.0.1"
    port: int = 4445
    database: Path
    config: Path
    log_level: str = "info"
    hub_namespace: str = "registry-hub"
    backends: tuple[Declaration, ...] = ()
    auto_register: Declaration | None = DEFAULT_AUTO_REGISTER
    write_access: Policy = Policy.LOCAL
    token_file: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    max_connections: int = 10_000
    max_connections_per_address: int = 1024
    max_message_size: int = 1024 * 1024
    max_buffered_input: int = 64 * 1024 * 1024
    max_buffered_output: int = 256 * 1024 * 1024
    max_answer_size: int = 40 * 1024 * 1024
    max_entries: int = 100_000
    max_description_size: int = fields.DEFAULT_LIMITS.description
    max_metadata_size: int = fields.DEFAULT_LIMITS.metadata
    max_pending_calls: int = 1024
    max_batch: int = 1024
    max_nested_calls: int = 8
    max_nesting: int = 128
    max_small_frames: int = 1024
    handshake_timeout: int = 10
    slow_reader_timeout: int = 60
    slow_sender_timeout: int = 60

    @property
    def text_limits(self) -> fields.TextLimits:
        """How many characters texts of backends may have."""
        return fields.TextLimits(self.max_description_size, self.max_metadata_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One line of the table of settings.

    Attributes:
        name: Field of `Settings`, and key in the settings file.
        help: What it sets, in one line without a full stop.
        metavar: What stands for the value in the help.
        parse: Validates one value.
        options: Its spellings on the command line; like the name unless given.
        variable: The environment variable; like the name unless given.
        second_variable: One that counts if the first is not set, with a function that takes the
            value out of it (None: it has nothing to say).
        is_list: True if it has any number of values: separated by commas in the environment, a
            list in the file.
        repeats: True if each use of the option adds one value, instead of one with commas.
        place: Computes the default from environment and home, where the field has none.
        default_text: What the default is, where it is computed.
    """

    name: str
    help: str
    metavar: str
    parse: values.Parser
    options: tuple[str, ...] = ()
    variable: str = ""
    second_variable: tuple[str, Callable[[str], str | None]] | None = None
    is_list: bool = False
    repeats: bool = False
    place: Callable[[Mapping[str, str], Path], Path | None] | None = None
    default_text: str = ""

    def __post_init__(self) -> None:
        spelled = self.name.replace("_", "-")
        object.__setattr__(self, "options", self.options or (f"--{spelled}",))
        variable = self.variable or f"REGISTRY_{self.name.upper()}"
        object.__setattr__(self, "variable", variable)


SETTINGS = (
    Setting(
        name="host",
        help="name or address to listen on; not used when systemd passes sockets",
        metavar="HOST",
        parse=values.host,
    ),
    Setting(
        name="port",
        help="port to listen on, 0 for any free one; not used when systemd passes sockets",
        metavar="PORT",
        parse=values.integer(0, 65535),
        options=("--port", "-p"),
    ),
    Setting(
        name="database",
        help="SQLite database that keeps the registry",
        metavar="FILE",
        parse=values.path,
        options=("--db-path",),
        variable="REGISTRY_DB_PATH",
        place=places.database,
        default_text="registry.db in the state directory",
    ),
    Setting(
        name="config",
        help="file that declares backends; drop-ins are in the directory backends.d beside it",
        metavar="FILE",
        parse=values.path,
        options=("--config", "-c"),
        place=places.declared_backends,
        default_text="backends.toml in the configuration directory",
    ),
    Setting(
        name="log_level",
        help=f"what is logged: {', '.join(values.LOG_LEVELS)}",
        metavar="LEVEL",
        parse=values.log_level,
        variable="REGISTRY_LOG",
        second_variable=("RUST_LOG", values.plain_level),
    ),
    Setting(
        name="hub_namespace",
        help="name of the hub in method calls, as in NAME.call",
        metavar="NAME",
        parse=values.hub_namespace,
    ),
    Setting(
        name="backends",
        help="backend to declare, NAME=ws://HOST:PORT",
        metavar="BACKEND",
        parse=values.backend,
        options=("--backend",),
        is_list=True,
        repeats=True,
    ),
    Setting(
        name="auto_register",
        help="backend to enter at start if no entry holds its name; none for no such backend",
        metavar="BACKEND",
        parse=values.backend_or_off,
    ),
    Setting(
        name="write_access",
        help="who may write without a token: local (this machine), token (nobody) or open (all)",
        metavar="POLICY",
        parse=values.policy,
    ),
    Setting(
        name="token_file",
        help="file of the tokens that are accepted, NAME:SHA256 of each",
        metavar="FILE",
        parse=values.path,
        place=places.tokens,
        default_text="tokens in the configuration directory, or the credential of this name",
    ),
    Setting(
        name="allowed_hosts",
        help="names by which browsers may call this host, besides its own; IP addresses always may",
        metavar="HOSTS",
        parse=values.host_name,
        is_list=True,
    ),
    Setting(
        name="allowed_origins",
        help="web origins whose pages may connect, besides those of this host",
        metavar="ORIGINS",
        parse=values.origin,
        is_list=True,
    ),
    Setting(
        name="tls_certificate",
        help="certificates for TLS (wss) on TCP sockets, the server's own first, in PEM",
        metavar="FILE",
        parse=values.path_or_off,
        place=places.tls_certificate,
        default_text="the credential tls.crt, else none: no TLS",
    ),
    Setting(
        name="tls_key",
        help="private key of the certificate, in PEM without a pass phrase",
        metavar="FILE",
        parse=values.path_or_off,
        place=places.tls_key,
        default_text="the credential tls.key, else in the file of the certificate",
    ),
    Setting(
        name="max_connections",
        help="how many clients may be connected at once",
        metavar="NUMBER",
        parse=values.integer(1, 1_000_000),
    ),
    Setting(
        name="max_connections_per_address",
        help="how many of them may come from one address of another machine, or one IPv6 network",
        metavar="NUMBER",
        parse=values.integer(1, 1_000_000),
    ),
    Setting(
        name="max_message_size",
        help="largest message that is accepted, in bytes",
        metavar="BYTES",
        parse=values.integer(1024, 10 * 1024 * 1024),
    ),
    Setting(
        name="max_buffered_input",
        help="how much of unfinished messages may wait in memory, in bytes over all clients",
        metavar="BYTES",
        parse=values.integer(1024 * 1024, 2**40),
    ),
    Setting(
        name="max_buffered_output",
        help="how much may wait in memory for clients that do not read, in bytes over all of them",
        metavar="BYTES",
        parse=values.integer(1024 * 1024, 2**40),
    ),
    Setting(
        name="max_answer_size",
        help="largest listing that is made at once, in bytes",
        metavar="BYTES",
        parse=values.integer(64 * 1024, 2**40),
    ),
    Setting(
        name="max_entries",
        help="how many backends there may be, declared ones included",
        metavar="NUMBER",
        parse=values.integer(1, 10_000_000),
    ),
    Setting(
        name="max_description_size",
        help="how many characters a description may have",
        metavar="NUMBER",
        parse=values.integer(0, fields.TEXT_MAX_CHARACTERS),
    ),
    Setting(
        name="max_metadata_size",
        help="how many characters the JSON text of metadata may have",
        metavar="NUMBER",
        parse=values.integer(0, fields.TEXT_MAX_CHARACTERS),
    ),
    Setting(
        name="max_pending_calls",
        help="how many calls of one client may wait for the disk before it is not read from",
        metavar="NUMBER",
        parse=values.integer(1, 65536),
    ),
    Setting(
        name="max_batch",
        help="how many entries a batch may have",
        metavar="NUMBER",
        parse=values.integer(1, 4096),
    ),
    Setting(
        name="max_nested_calls",
        help="how deep calls of the hub through itself may be nested",
        metavar="NUMBER",
        parse=values.integer(0, 64),
    ),
    Setting(
        name="max_nesting",
        help="how deep the JSON of a message may be nested",
        metavar="NUMBER",
        parse=values.integer(16, 512),
    ),
    Setting(
        name="max_small_frames",
        help="how many tiny fragments a message may have, and how many pings may come in 10 s",
        metavar="NUMBER",
        parse=values.integer(16, 65536),
    ),
    Setting(
        name="handshake_timeout",
        help="how long a client may take to connect, TLS included, in seconds",
        metavar="SECONDS",
        parse=values.integer(1, 3600),
    ),
    Setting(
        name="slow_reader_timeout",
        help="how long a client may take nothing of what is sent to it, in seconds",
        metavar="SECONDS",
        parse=values.integer(1, 3600),
    ),
    Setting(
        name="slow_sender_timeout",
        help="how long a client may take for each 16 KiB of a message, in seconds",
        metavar="SECONDS",
        parse=values.integer(1, 3600),
    ),
)
"""Everything that can be set, in the order in which it is shown."""

FILE_OPTION = "--settings"
FILE_VARIABLE = "REGISTRY_SETTINGS"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each setting to *parser*.

    They store text as it was given under the names of the settings, None where not given: hand
    ``vars()`` of the result to `sources.resolve`, which validates.
    """
    group = parser.add_argument_group("settings")
    group.add_argument(
        FILE_OPTION,
        metavar="FILE",
        help=f"settings file [${FILE_VARIABLE}] (default: registry.toml in the configuration"
        " directory)",
    )
    for setting in SETTINGS:
        note = "; can be repeated" if setting.repeats else ""
        note = "; separated by commas" if setting.is_list and not setting.repeats else note
        text = f"{setting.help}{note} [${setting.variable}] (default: {default_text(setting)})"
        group.add_argument(
            *setting.options,
            dest=setting.name,
            metavar=setting.metavar,
            action="append" if setting.repeats else "store",
            help=text.replace("%", "%%"),
        )


def default_text(setting: Setting) -> str:
    """Describe the default of *setting* in words or as the value."""
    if setting.place is not None:
        return setting.default_text
    return spell(static_default(setting)) or values.OFF


def static_default(setting: Setting) -> Any:
    """Return the default of a setting whose default is not computed."""
    return Settings.__dataclass_fields__[setting.name].default


def spell(value: object) -> str:
    """Spell a value as the environment would give it."""
    if value is None:
        return values.OFF
    if isinstance(value, tuple):
        return ",".join(spell(item) for item in value)
    if isinstance(value, Declaration):
        return f"{value.name}={value.address.url}"
    return str(value)
