# SPDX-License-Identifier: AGPL-3.0-only
"""Where the value of each setting comes from.

Precedence: command line > environment > settings file (``registry.toml``) > default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plexus_registry.backend import Declaration
from plexus_registry.config import files, places, values
from plexus_registry.config.settings import (
    FILE_OPTION,
    FILE_VARIABLE,
    SETTINGS,
    Setting,
    Settings,
    static_default,
)
from plexus_registry.errors import ConfigError, Fault, InvalidValue, quote

DEFAULT = "default"
"""Origin of a value that was given nowhere."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings and where they come from.

    Attributes:
        settings: The settings.
        origins: For each, by name: ``--port``, ``$REGISTRY_PORT``, ``/etc/plexus/registry.toml:3``
            or ``default``.
        file: The settings file.
        file_exists: Whether there is one at that place.
    """

    settings: Settings
    origins: dict[str, str]
    file: Path
    file_exists: bool


def resolve(arguments: Mapping[str, object], environ: Mapping[str, str], home: Path) -> Resolved:
    """Find the value of each setting, in the order of precedence.

    Args:
        arguments: Options by name of the setting, and ``settings``; None and absent are the same.
        environ: The environment; an empty variable counts as not set.
        home: The home directory.

    Raises:
        ConfigError: With every fault of every place.
    """
    return _Resolver(arguments, environ, home).resolve()


def config_path(
    arguments: Mapping[str, object], environ: Mapping[str, str], home: Path
) -> Path | None:
    """Find the file that declares backends, even if other settings have faults.

    Args:
        arguments: As for `resolve`.
        environ: As for `resolve`.
        home: As for `resolve`.

    Returns:
        Its path, or None if just this setting has a fault.
    """
    return _Resolver(arguments, environ, home).config_path()


class _Resolver:
    def __init__(
        self, arguments: Mapping[str, object], environ: Mapping[str, str], home: Path
    ) -> None:
        self._arguments = {key: value for key, value in arguments.items() if value is not None}
        self._environ = {key: value for key, value in environ.items() if value}
        self._home = home
        self._faults: list[Fault] = []
        self._origins: dict[str, str] = {}

    def resolve(self) -> Resolved:
        path, named_by = self._find_file()
        document = self._read_file(path, named_by)
        found = {setting.name: self._value(setting, document) for setting in SETTINGS}
        if not self._faults:
            self._check_together(Settings(**found))
        if self._faults:
            places = [fault.place for fault in self._faults]
            raise ConfigError(
                sorted(self._faults, key=lambda fault: (places.index(fault.place), fault.line))
            )
        return Resolved(Settings(**found), self._origins, path, document is not None)

    def config_path(self) -> Path | None:
        setting = next(setting for setting in SETTINGS if setting.name == "config")
        document = self._read_file(*self._find_file())
        known = len(self._faults)
        path: Path = self._value(setting, document)
        return None if len(self._faults) > known else path

    def _check_together(self, found: Settings) -> None:
        """Refuse what is sound by itself and not with the rest."""
        needed = found.text_limits.entry_bytes
        if found.max_answer_size < needed:
            message = (
                f"max_answer_size: {found.max_answer_size} is not accepted with"
                f" max_description_size {found.max_description_size} and max_metadata_size"
                f" {found.max_metadata_size}, expected an integer from {needed}, for so large one"
                " backend can be, or lower limits on its texts"
            )
            self._faults.append(Fault(self._origins["max_answer_size"], 0, message))

    def _find_file(self) -> tuple[Path, str]:
        """Return the settings file's path and who named it, nobody for the default."""
        for origin, given in (
            (FILE_OPTION, self._arguments.get("settings")),
            (f"${FILE_VARIABLE}", self._environ.get(FILE_VARIABLE)),
        ):
            if given is not None:
                try:
                    context = values.Context(self._home, Path(), is_text=True)
                    return values.path("settings", given, context), origin
                except InvalidValue as fault:
                    self._faults.append(Fault(origin, 0, str(fault)))
                    break
        return places.settings_file(self._environ, self._home), ""

    def _read_file(self, path: Path, named_by: str) -> files.Document | None:
        try:
            content = files.read(path)
            if content is None:
                if named_by:
                    self._faults.append(Fault(named_by, 0, f"there is no settings file {path}"))
                return None
            document = files.parse(path, content)
        except ConfigError as error:
            self._faults += error.faults
            return None
        known = [setting.name for setting in SETTINGS]
        self._faults += [
            Fault(str(path), document.layout.line_of(key), files.unknown_key(key, known))
            for key in document.tables
            if key not in known
        ]
        return document

    def _value(self, setting: Setting, document: files.Document | None) -> Any:
        if setting.name in self._arguments:
            given = self._arguments[setting.name]
            return self._parse_text(setting, given, setting.options[0])
        if setting.variable in self._environ:
            given = self._environ[setting.variable]
            return self._parse_text(setting, given, f"${setting.variable}")
        if setting.second_variable is not None:
            variable, take = setting.second_variable
            given = take(self._environ.get(variable, ""))
            if given is not None:
                return self._parse_text(setting, given, f"${variable}")
        if document is not None and setting.name in document.tables:
            return self._parse_toml(setting, document)
        self._origins[setting.name] = DEFAULT
        if setting.place is not None:
            return setting.place(self._environ, self._home)
        return static_default(setting)

    def _parse_text(self, setting: Setting, given: object, origin: str) -> Any:
        self._origins[setting.name] = origin
        if setting.is_list and isinstance(given, str):
            given = [item.strip() for item in given.split(",") if item.strip()]
        context = values.Context(self._home, Path(), is_text=True)
        return self._parse(setting, given, context, place=origin, line=0)

    def _parse_toml(self, setting: Setting, document: files.Document) -> Any:
        place, line = str(document.path), document.layout.line_of(setting.name)
        self._origins[setting.name] = f"{place}:{line}"
        context = values.Context(self._home, document.path.parent, is_text=False)
        given = document.tables[setting.name]
        return self._parse(setting, given, context, place=place, line=line)

    def _parse(
        self, setting: Setting, given: object, context: values.Context, *, place: str, line: int
    ) -> Any:
        """Return the value; whatever is not accepted becomes a fault."""
        if not setting.is_list:
            items = [given]
        elif isinstance(given, list):
            items = given
        else:
            fault = InvalidValue(setting.name, given, "a list of strings")
            self._faults.append(Fault(place, line, str(fault)))
            return ()
        found: dict[Any, Any] = {}
        for item in items:
            try:
                value = setting.parse(setting.name, item, context)
            except InvalidValue as fault:
                self._faults.append(Fault(place, line, str(fault)))
                continue
            name = value.name if isinstance(value, Declaration) else value
            if found.setdefault(name, value) != value:
                message = f"{setting.name}: {quote(name)} is declared twice"
                self._faults.append(Fault(place, line, message))
        if setting.is_list:
            return tuple(found.values())
        return next(iter(found.values()), None)
