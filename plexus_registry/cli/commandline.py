# SPDX-License-Identifier: AGPL-3.0-only
"""The words of the command line: refused where they are no text, put right where misplaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from plexus_registry.cli.output import PROGRAM
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


def told(error: click.UsageError, words: Sequence[str]) -> str:
    """Say what is wrong with a command line, and what would be right.

    Args:
        error: What click found.
        words: The command line, without the program.
    """
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        advice = _right_place(error.option_name, error.ctx, words)
        if advice:
            return advice
    problem = error.format_message().removesuffix(".")
    return f"{problem}; see {error.ctx.command_path if error.ctx else PROGRAM} --help"


def _right_place(option: str, context: click.Context, words: Sequence[str]) -> str:
    """Say where an option is accepted that is not where it was given; empty if nowhere."""
    program = context.find_root()
    verb = context.command_path.removeprefix(program.command_path)
    shown = _find(program.command, option)
    if verb and shown:
        return f"put {option} before the verb: {program.command_path} {shown}{verb}"
    if not isinstance(context.command, click.Group):
        return ""
    verbs = context.command.commands
    named = next((word for word in words if word in verbs), None)
    for name in verbs if named is None else [named]:
        shown = _find(verbs[name], option)
        if shown:
            return f"put {option} after the verb: {context.command_path} {name} {shown}"
    return ""


def _find(command: click.Command, option: str) -> str:
    """Return an option of a command as it is to be given; empty if there is none."""
    for one in command.params:
        if isinstance(one, click.Option) and option in one.opts:
            return option if one.is_flag else f"{option} {one.metavar or 'VALUE'}"
    return ""
