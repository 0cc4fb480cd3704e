# SPDX-License-Identifier: AGPL-3.0-only
"""The words of the command line: refused where they are no text."""

from __future__ import annotations

from typing import Any

import click

from plexus_registry.errors import quote


class _Text(click.types.StringParamType):
    """Text that can be sent: bytes that are no UTF-8 are, for Python, half characters."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = super().convert(value, param, ctx)
        try:
            str(text).encode()
        except UnicodeEncodeError:
            self.fail(f"{quote(text)} is not UTF-8", param, ctx)
        return text


def take_text_only(command: click.Command) -> None:
    """Have a verb refuse what cannot be sent, before it asks anything. Paths may hold any bytes."""
    for parameter in command.params:
        if parameter.type is click.STRING:
            parameter.type = _Text()
    if isinstance(command, click.Group):
        for one in command.commands.values():
            take_text_only(one)
