# SPDX-License-Identifier: AGPL-3.0-only
"""A settings file, then variables of the environment, then options; NUL bytes part them.

A part that begins with ``--`` is an option of the command line, ``NAME=VALUE`` a variable.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from functools import cache
from pathlib import Path

from plexus_registry.config import settings_toml
from plexus_registry.config.settings import SETTINGS, Settings
from plexus_registry.config.sources import DEFAULT, Resolved, config_path, resolve
from plexus_registry.errors import ConfigError
from support.faults import check_faults

PARTS_MAX = 32
HOME = Path("/home/me")
VARIABLES = {
    *(setting.variable for setting in SETTINGS),
    *("RUST_LOG", "XDG_CONFIG_HOME", "XDG_STATE_HOME"),
    *("CONFIGURATION_DIRECTORY", "CREDENTIALS_DIRECTORY", "STATE_DIRECTORY"),
}
OPTIONS = {option: setting for setting in SETTINGS for option in setting.options}


def one_input(data: bytes) -> None:
    """Settings are valid or every fault is named; written to a file, they load back the same."""
    content, *parts = data.split(b"\0", PARTS_MAX - 1)
    file, saved = files()
    file.write_bytes(content)
    arguments: dict[str, object] = {"settings": str(file)}
    environ: dict[str, str] = {}
    for part in parts:
        name, _, value = os.fsdecode(part.replace(b"\0", b"")).partition("=")
        if name in VARIABLES:
            environ[name] = value
        elif name in OPTIONS:
            setting = OPTIONS[name]
            arguments[setting.name] = [value] if setting.repeats else value
    try:
        resolved = resolve(arguments, environ, HOME)
    except ConfigError as error:
        places = {f"${name}": b"" for name in VARIABLES} | dict.fromkeys(OPTIONS, b"")
        check_faults(error, places | {str(file): content})
        config_path(arguments, environ, HOME)
        return
    check_settings(resolved)
    assert config_path(arguments, environ, HOME) == resolved.settings.config
    try:
        saved.write_text(settings_toml.render(resolved), encoding="utf-8")
    except UnicodeEncodeError:  # TOML has no form for the name of a file that is not UTF-8
        assert any(not os.fsencode(found).isascii() for found in paths_of(resolved))
        return
    again = resolve({"settings": str(saved)}, {}, Path("/elsewhere"))
    assert again.settings == resolved.settings
    assert DEFAULT not in again.origins.values()


def paths_of(resolved: Resolved) -> list[Path]:
    """Return the names of files that are shown."""
    shown = [getattr(resolved.settings, setting.name) for setting in SETTINGS]
    return [resolved.file, *(value for value in shown if isinstance(value, Path))]


def check_settings(resolved: Resolved) -> None:
    """Check that values are what the service relies on, and that each says where it is from."""
    found = resolved.settings
    assert isinstance(found, Settings)
    assert 0 <= found.port <= 65535
    assert found.database.is_absolute()
    assert found.config.is_absolute()
    assert len({declared.name for declared in found.backends}) == len(found.backends)
    assert len(set(found.allowed_origins)) == len(found.allowed_origins)
    assert set(resolved.origins) == {setting.name for setting in SETTINGS}


@cache
def files() -> tuple[Path, Path]:
    """Return where the settings file is, and where it is saved again."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(folder.name) / "registry.toml", Path(folder.name) / "saved.toml"
