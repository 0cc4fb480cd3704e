# SPDX-License-Identifier: AGPL-3.0-only
"""The settings as text of a ``registry.toml``: those in force, and a commented start file."""

from __future__ import annotations

import textwrap
from typing import Any

import tomli_w

from plexus_registry.backend import Declaration
from plexus_registry.config.settings import FILE_VARIABLE, SETTINGS, spell, static_default
from plexus_registry.config.sources import Resolved
from plexus_registry.config.values import OFF

_ALIGN_MAX_CHARACTERS = 64
_EXAMPLE_PLACES = {
    "database": "/var/lib/plexus-registry/registry.db",
    "config": "/etc/plexus/backends.toml",
    "token_file": "/etc/plexus/tokens",
}
_EXAMPLE_HEAD = f"""\
# Settings of the Plexus registry. Command line and environment stand above this file, and
# plexus-registry --print-config shows what is in force and where it comes from. The file is read
# at start, from $CONFIGURATION_DIRECTORY or ~/.config/plexus, or where --settings or
# ${FILE_VARIABLE} says. Relative paths are relative to this file.
#
# A line that begins with '#' and no space is a default: remove the '#' to change it.
"""


def render(resolved: Resolved) -> str:
    """Return the settings in force as a settings file, each with its origin as a comment.

    Saved and read again, it gives the same settings; only paths that are not UTF-8 have no form
    in TOML.
    """
    lines = {
        setting.name: _assignment(setting.name, getattr(resolved.settings, setting.name))
        for setting in SETTINGS
    }
    width = max(len(line) for line in lines.values() if len(line) <= _ALIGN_MAX_CHARACTERS)
    state = "" if resolved.file_exists else " (there is none)"
    head = f"# settings file: {_one_line(str(resolved.file))}{state}\n"
    return head + "".join(
        f"{line.ljust(width)}  # {_one_line(resolved.origins[name])}\n"
        for name, line in lines.items()
    )


def example() -> str:
    """Return a commented start file: it sets nothing until its lines are un-commented."""
    text = _EXAMPLE_HEAD
    for setting in SETTINGS:
        value = _EXAMPLE_PLACES.get(setting.name)
        if value is None:
            value = static_default(setting)
        about = f"{setting.help} (${setting.variable})"
        wrapped = textwrap.wrap(
            about, 99, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
        )
        # A default that depends on who runs the registry can only be an example here.
        sign = "# for example: " if setting.name in _EXAMPLE_PLACES else "#"
        text += "\n" + "\n".join([*wrapped, f"{sign}{_assignment(setting.name, value)}"]) + "\n"
    return text


def _assignment(key: str, value: Any) -> str:
    """Write ``key = value`` on one line; tomli-w alone gives each item of a list its own."""
    if isinstance(value, tuple):
        items = [_assignment("item", item).removeprefix("item = ") for item in value]
        return f"{key} = [{', '.join(items)}]"
    if value is None:
        value = OFF
    if isinstance(value, Declaration) or not isinstance(value, str | int):
        value = spell(value)
    return tomli_w.dumps({key: value}).removesuffix("\n")


def _one_line(text: str) -> str:
    """Make *text* fit for a comment: a file's name may hold a line feed."""
    return text if text.isprintable() else ascii(text)
